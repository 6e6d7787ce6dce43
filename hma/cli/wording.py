"""Figures and names as people read them. Pure."""

from __future__ import annotations

import re
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from hma.text.unseen import UNSEEN


class EnumNames(Protocol):
    """A protobuf enum: what it is called and how its values are."""

    DESCRIPTOR: Any


def word(enum: EnumNames, value: int) -> str:
    """A value's name in lower case without its prefix: "succeeded".

    A value of a newer server is shown as its number.
    """
    found = enum.DESCRIPTOR.values_by_number.get(value)
    if found is None:
        return str(value)
    first = enum.DESCRIPTOR.values_by_number[0].name
    prefix = first.removesuffix("UNSPECIFIED")
    return str(found.name).removeprefix(prefix).replace("_", " ").lower()


def seconds(value: float) -> str:
    """A duration: "0.4s", "12s", "2m 03s", "1h 02m"."""
    if value < 9.95:
        return f"{max(0.0, value):.1f}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def span(value: Duration) -> float:
    """A protobuf Duration in seconds."""
    return value.seconds + value.nanos / 1e9


def count(number: int, noun: str) -> str:
    """A number and its noun: "1 task", "1,200 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(value: float) -> str:
    """A figure in percent: "38 %"."""
    return f"{value:.0f} %"


# More marks upon one character than any language has would smear over other lines.
_MOST_MARKS = 4
_MARKS = re.compile(
    f"([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
    f"{{{_MOST_MARKS}}})[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
    "\ufe20-\ufe2f]+"
)


def clean(text: str) -> str:
    """`text` as it can be shown: a model, or a document, cannot drive the terminal by it."""
    return _MARKS.sub(r"\1", UNSEEN.sub("", text.replace("\t", "    ")))


def one_line(text: str, limit: int) -> str:
    """`text` on one line of at most `limit` characters."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= limit else flat[: max(0, limit - 1)] + "…"
