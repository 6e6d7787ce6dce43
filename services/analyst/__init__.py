"""The Analyst: compresses a request into a brief and plans its tasks.

It never reads the documents, only their outlines. `planning` is the entry; the plan
comes from a model (`prompts`, `schema`, `parsing`) or from code (`structural`), and
`assembly` sees that every prefix of it is valid.
"""
