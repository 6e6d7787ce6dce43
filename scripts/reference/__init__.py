"""Writes the reference pages in docs/ from the contracts and the settings.

    python -m scripts.reference [--check]

`contracts` reads the protos with their comments, `api` and `failures` render them,
`settings` and `attributes` render the settings. What a generator cannot know stands in
the Markdown files beside this module.
"""
