"""Writes the reference pages in docs/, and gateway/openapi.json, from contracts and settings.

    python -m scripts.reference [--check]

`contracts` reads the protos with their comments, `api`, `failures` and `openapi` render them,
`settings` and `attributes` render the settings. What a generator cannot know stands in
the Markdown files beside this module.
"""
