"""Figures as plain tables: nothing but text, so that they can be compared in a diff."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank); nan of none.

    Args:
        values: In any order.
        share: 0 to 1.
    """
    if not values:
        return math.nan
    ranked = sorted(values)
    return ranked[max(math.ceil(share * len(ranked)) - 1, 0)]


def milliseconds(values: Sequence[float]) -> str:
    """Median and 95 % quantile of times in seconds, as "p50 / p95" in milliseconds."""
    if not values:
        return "-"
    return f"{1000 * quantile(values, 0.5):.1f} / {1000 * quantile(values, 0.95):.1f}"


def percent(part: float, whole: float, digits: int = 1) -> str:
    """A share in percent; "-" of nothing."""
    return f"{100 * part / whole:.{digits}f} %" if whole else "-"


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of the sign test: that as uneven a split comes from a fair coin.

    Pairs that are equal say nothing and are left out beforehand.
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return float(min(2 * tail / (1 << n), 1.0))


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        first, *rest = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join([first, *rest]), flush=True)
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
