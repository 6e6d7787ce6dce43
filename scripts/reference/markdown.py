"""Pieces of Markdown that GitHub shows as meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Outside of code only: what GitHub would take for emphasis, a tag or a cell's end.
_SPECIAL = re.compile(r"([\\*<|\[\]])")


def plain(text: str) -> str:
    """Text in which nothing is markup but code between backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return _SPECIAL.sub(r"\\\1", text).replace("`", r"\`")
    parts[::2] = [_SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def code(text: str) -> str:
    """Text as inline code, also inside a table; empty stays empty."""
    return "`" + text.replace("|", r"\|") + "`" if text else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown, each put on one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def anchor(heading: str) -> str:
    """The fragment under which GitHub finds a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(text: str, heading: str) -> str:
    """A link to a heading of the same page."""
    return f"[{text}](#{anchor(heading)})"


def fill(template: str, values: dict[str, str]) -> str:
    """Puts values in place of lines of the form `{{name}}`.

    Raises:
        KeyError: The template names a value that is not there.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def headings(text: str) -> list[tuple[int, str]]:
    """(level, text) of every heading outside of code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(#+) (.+)$", prose, flags=re.MULTILINE)
    return [(len(marks), title) for marks, title in found]


def _cell(text: str) -> str:
    return " ".join(text.split())
