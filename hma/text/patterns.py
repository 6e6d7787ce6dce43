"""Patterns that users write, matched in linear time.

Python's own `re` tries alternatives one after the other: `(a+)+$` against thirty letters
takes minutes, in which nothing else of the process runs. RE2 has no such patterns; what it
leaves out, look-around and back-references, constrained decoding cannot compile either.
"""

from __future__ import annotations

import functools

import re2


class BadPattern(ValueError):
    """It is no regular expression of RE2's syntax, or too large a one."""


def check_pattern(pattern: str) -> None:
    """Refuses what cannot be matched.

    Raises:
        BadPattern: It cannot.
    """
    _compiled(pattern)


def found(pattern: str, text: str) -> bool:
    """Whether `pattern` stands anywhere in `text`.

    Raises:
        BadPattern: It cannot be matched.
    """
    return _compiled(pattern).search(text) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError):
        raise BadPattern from None
