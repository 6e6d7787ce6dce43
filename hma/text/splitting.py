"""Cutting text into pieces of bounded size at the best bounds there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hma.text.tokens import utf8_size

_PARAGRAPH = re.compile(r"\n[ \t\r\f\v]*\n\s*")
_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s+|[。！？]++\s*")
_LINE = re.compile(r"\n+")
_WORD = re.compile(r"\s+")
_LARGEST_CHARACTER = 4


def split_to_fit(text: str, limit: int) -> list[str]:
    """Cuts `text` into pieces of at most `limit` bytes of UTF-8 that join to `text`.

    Cuts after blank lines, else after lines, sentences, words, characters, and packs
    as much into each piece as fits. Takes linear time.

    Args:
        text: Any text.
        limit: Bytes; at least 4, so that each character fits.
    """
    if utf8_size(text) <= limit:
        return [text] if text else []
    pieces: list[str] = []
    held: list[str] = []
    room = limit
    for unit in _units(text, limit, 0):
        size = utf8_size(unit)
        if size > room and held:
            pieces.append("".join(held))
            held, room = [], limit
        held.append(unit)
        room -= size
    if held:
        pieces.append("".join(held))
    return pieces


def _units(text: str, limit: int, level: int) -> Iterator[str]:
    if utf8_size(text) <= limit:
        if text:
            yield text
        return
    for part in _SPLITTERS[level](text, limit):
        if level + 1 < len(_SPLITTERS):
            yield from _units(part, limit, level + 1)
        else:
            yield part


def _after(pattern: re.Pattern[str]) -> Callable[[str, int], Iterator[str]]:
    def split(text: str, limit: int) -> Iterator[str]:
        start = 0
        for match in pattern.finditer(text):
            yield text[start : match.end()]
            start = match.end()
        yield text[start:]

    return split


def _characters(text: str, limit: int) -> Iterator[str]:
    step = limit if text.isascii() else max(1, limit // _LARGEST_CHARACTER)
    for start in range(0, len(text), step):
        yield text[start : start + step]


_SPLITTERS: tuple[Callable[[str, int], Iterator[str]], ...] = (
    _after(_PARAGRAPH),
    _after(_LINE),
    _after(_SENTENCE),
    _after(_WORD),
    _characters,
)
