"""Characters that make a text look, or cost, other than it says.

Named by what the Unicode Standard says of them; the limit of marks is that of its
Stream-Safe Text Format (UAX #15).
"""

from __future__ import annotations

import functools
import json
import re
import sys
import unicodedata

MOST_MARKS = 30
"""Combining marks in a row. Languages need four at most; normalising a run of them takes
time by the square of its length."""

# Controls (C0 but for the line feed, DEL, C1), directions and their overrides, invisible
# characters and tags, line separators, lone surrogates. Zero-width joiners are none of
# these: scripts and emoji need them.
UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def escaped(line: str) -> str:
    r"""A line with what would not be seen, line feeds too, as JSON's escapes ("\u202e").

    Of a line of JSON it is one that means the same.
    """
    return UNSEEN.sub(_escape, line).replace("\n", "\\n")


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def find_mark_flood(text: str) -> int | None:
    """Where more than `MOST_MARKS` combining marks stand in a row; None: nowhere."""
    if text.isascii():
        return None
    found = _flood().search(text)
    return found.start() if found is not None else None


def normalized(text: str) -> str:
    """`text` in NFC, in time linear in its length.

    A flood of marks is parted by grapheme joiners first, as UAX #15 says.
    """
    if find_mark_flood(text) is not None:
        text = _parting().sub("\\g<0>\u034f", text)
    return unicodedata.normalize("NFC", text)


@functools.cache
def _flood() -> re.Pattern[str]:
    return re.compile(f"{_mark()}{{{MOST_MARKS + 1}}}")


@functools.cache
def _parting() -> re.Pattern[str]:
    return re.compile(f"{_mark()}{{{MOST_MARKS}}}(?={_mark()})")


@functools.cache
def _mark() -> str:
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.combining(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    marks = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return f"[{marks}]"
