"""Who ran when: bars on a common scale, and the two concurrency figures. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_PAIRS_OF = 100
"""Intervals whose pairs are compared at most, the latest: the view is drawn often."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A piece of work.

    Attributes:
        start: In seconds.
        end: In seconds; not before start.
        lost: Whether nothing came of it.
        running: Whether it still goes on.
    """

    start: float
    end: float
    lost: bool = False
    running: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """How far work was done side by side; as `hma.v1.Concurrency`.

    Attributes:
        time_saved: 100 * (1 - wall / work), in percent.
        overlap: Mean over pairs of intersection / shorter, in percent.
        wall: Seconds from the first start to the last end.
        work: Sum of durations in seconds.
    """

    time_saved: float
    overlap: float
    wall: float
    work: float


def figures(intervals: Sequence[Interval]) -> Figures:
    """The two figures of `intervals`; zeros when there is nothing to compare.

    Time saved may be negative when there were pauses in which nobody worked; then
    it is 0.
    """
    if not intervals:
        return Figures(0.0, 0.0, 0.0, 0.0)
    wall = max(i.end for i in intervals) - min(i.start for i in intervals)
    work = sum(i.end - i.start for i in intervals)
    saved = max(0.0, 100 * (1 - wall / work)) if work > 0 else 0.0
    latest = sorted(intervals, key=lambda i: i.start)[-MAX_PAIRS_OF:]
    shares = [
        max(0.0, min(a.end, b.end) - max(a.start, b.start)) / shorter
        for a, b in itertools.combinations(latest, 2)
        if (shorter := min(a.end - a.start, b.end - b.start)) > 0
    ]
    overlap = 100 * sum(shares) / len(shares) if shares else 0.0
    return Figures(saved, overlap, wall, work)


def cells(intervals: Iterable[Interval], start: float, end: float, width: int) -> str:
    """A bar of `width` characters for the time from `start` to `end`.

    "━" worked, "╸" works at the right end, "╌" worked for nothing, " " did not. However
    short, work shows.
    """
    row = [" "] * width
    if width < 1 or end <= start:
        return "".join(row)
    scale = width / (end - start)
    for interval in intervals:
        first = min(width - 1, max(0, int((interval.start - start) * scale)))
        last = min(width, max(first + 1, round((interval.end - start) * scale)))
        for index in range(first, last):
            row[index] = "╌" if interval.lost else "━"
        if interval.running:
            row[last - 1] = "╸"
    return "".join(row)


def shares(amounts: Sequence[int], whole: int, width: int) -> list[int]:
    """Splits `width` characters in proportion to `amounts`, which sum to `whole` or less.

    The last amount takes what is left over. What is not zero gets a character as
    long as there is room.
    """
    if whole <= 0:
        return [0] * (len(amounts) - 1) + [width]
    taken = []
    left = width
    for amount in amounts[:-1]:
        size = min(left, max(round(amount * width / whole), 1 if amount > 0 else 0))
        taken.append(size)
        left -= size
    return [*taken, left]
