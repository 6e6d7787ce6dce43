"""Warnings of the client library, as a command line shows them."""

from __future__ import annotations

import json
import os
import warnings
from typing import TextIO

import click

from hma.cli.wording import clean
from hma.text.unseen import escaped


def tell_warnings() -> None:
    """From now on HMA's own warnings are one line each on stderr, and each is told once."""
    others = warnings.showwarning
    told: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not category.__module__.startswith("hma."):
            others(message, category, filename, lineno, file, line)
            return
        text = str(message)
        # While a shell completes a word, stderr would be in the middle of what is typed.
        if text not in told and "_HMA_COMPLETE" not in os.environ:
            told.add(text)
            _say(text)

    warnings.showwarning = show


def _say(text: str) -> None:
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get("hma.output") == "json":
        body = {"warning": {"message": text}}
        click.echo(escaped(json.dumps(body, ensure_ascii=False)), err=True)
    else:
        click.echo(f"hma: warning: {clean(text)}", err=True)
