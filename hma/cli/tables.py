"""Tables without lines; what matters least goes first when the terminal is narrow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

_GAP = 2
_LEAST = 20
"""Columns that a wrapped text needs to be readable."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its head.
        cells: One a row; a column of empty cells is left out.
        rank: 0 stays whatever the width; the highest goes first.
        text: Words, on the left, that may be wrapped; else a figure or a name.
        left: A name, on the left.
    """

    name: str
    cells: Sequence[str]
    rank: int = 0
    text: bool = False
    left: bool = False

    @property
    def width(self) -> int:
        """Columns of the terminal that it needs."""
        widest = max((len(cell) for cell in self.cells), default=0)
        return max(len(self.name), min(widest, _LEAST) if self.text else widest)


def bare() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")


def fitted(columns: Sequence[Column], width: int, *, total: bool = False) -> Table:
    """A table of the columns that say something and fit.

    Args:
        columns: From left to right, all with as many cells.
        width: Columns of the terminal.
        total: Whether the last row sums the others up.
    """
    shown = [column for column in columns if not column.rank or any(column.cells)]
    while sum(column.width + _GAP for column in shown) - _GAP > width:
        last = max(shown, key=lambda column: column.rank)
        if not last.rank:
            break
        shown.remove(last)
    grid = bare()
    for column in shown:
        if column.text:
            grid.add_column(column.name, overflow="fold")
        else:
            justify = "left" if column.left else "right"
            grid.add_column(column.name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    count = len(shown[0].cells) if shown else 0
    for index in range(count):
        last_row = total and index == count - 1
        if last_row:
            grid.add_section()
        cells = [column.cells[index] for column in shown]
        grid.add_row(*cells, style="bold" if last_row else None)
    return grid
