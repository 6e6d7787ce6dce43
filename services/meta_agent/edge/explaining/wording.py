"""Figures as the sentences say them."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 3
"""How many of several are named before "and so many more"."""


def count(number: int, noun: str) -> str:
    """A number and its noun: "1 task", "1,200 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def was(number: int) -> str:
    """The verb that goes with so many."""
    return "was" if number == 1 else "were"


def took(seconds: float) -> str:
    """A duration: "0.4s", "12s", "2m 03s", "1h 02m"."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def figure(value: float) -> str:
    """A gain: "0.6", "2"; below a tenth "0.04", because it is not nothing."""
    text = f"{value:.1f}" if value >= 0.095 or value <= 0 else f"{value:.2f}"
    return text.removesuffix(".0")


def off(actual: int, predicted: int) -> str:
    """How far a prediction was off: "17 % less", "as predicted"."""
    if predicted <= 0:
        return "nothing was predicted"
    error = round(100 * (actual - predicted) / predicted)
    if error == 0:
        return "as predicted"
    return f"{abs(error):,} % {'more' if error > 0 else 'less'}"


def listed(names: Sequence[str]) -> str:
    """Several names: "t1", "t1 and t2", "t1, t2, t3 and 5 more"."""
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def came_back(extracts: int) -> str:
    """What was extracted instead of answered, or nothing when nothing was."""
    if extracts == 1:
        return "; 1 item came back as an extract"
    return f"; {extracts:,} items came back as extracts" if extracts else ""


def because(reason: str) -> str:
    """A reason in brackets, or nothing when there is none."""
    words = " ".join(reason.split()).rstrip(".")
    return f" ({words})" if words else ""
