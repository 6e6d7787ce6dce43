"""A quota as a table: each limit, what is used of it, and when there is more. Pure."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from hma.v1 import admin_pb2

_BAR = 20
_FULL = 0.9
"""Share of a limit from which on it is shown in red."""


def quota_table(quota: admin_pb2.Quota) -> Table:
    """One row for each limit that is set."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("limit", no_wrap=True)
    for name in ("most", "used", "held", "free"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("frees", no_wrap=True)
    for use in quota.uses:
        share = min(use.used / use.limit, 1.0) if use.limit else 1.0
        bar = "█" * round(share * _BAR) + "·" * (_BAR - round(share * _BAR))
        grid.add_row(
            use.name.replace("_", " "),
            _figure(use.limit),
            _figure(use.used),
            _figure(use.held) if use.held else "–",
            _figure(max(use.limit - use.used, 0.0)),
            Text(bar, "red" if share >= _FULL else "cyan"),
            _frees(quota, use),
        )
    return grid


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"


def _frees(quota: admin_pb2.Quota, use: admin_pb2.QuotaUse) -> str:
    """In how long the oldest part of the use leaves its window."""
    if not use.HasField("next_free_time"):
        return "when jobs end" if use.used else ""
    left = max(use.next_free_time.ToMicroseconds() - quota.time.ToMicroseconds(), 0) / 1e6
    if left < 120:
        return f"in {left:.0f} s"
    return (
        f"in {left / 60:.0f} min" if left < 7200 else f"{use.next_free_time.ToDatetime():%F %R} UTC"
    )
