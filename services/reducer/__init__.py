"""The Reducer: makes the answer from whole and partial results.

By code first (`merging`, `extracts`, `rendering`), then prose by the model over the
merged items (`prose`) where the mode asks for it and the grant pays for it. Whatever
stops it, there is an answer from what is there.
"""
