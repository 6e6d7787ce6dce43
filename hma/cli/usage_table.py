"""Usage as a table: tokens by class, cached share, cost, and a bar a day. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from hma.cli.wording import clean, percent
from hma.v1 import meta_agent_pb2

_BAR = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def usage_table(
    response: meta_agent_pb2.GetUsageResponse, by: Sequence[str], *, trend: bool
) -> Table:
    """The rows and, when there are several, their total.

    Args:
        response: What the server said.
        by: What it is summed by: "day", "route", "tenant", in the order of the columns.
        trend: Whether each row gets a bar of its tokens.
    """
    rows = list(response.rows)
    most = max((_tokens(row) for row in rows), default=0)
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in by:
        grid.add_column(name, no_wrap=True)
    for name in ("prompt", "cached", "completion", "reasoning", "total", "cost", "calls", "jobs"):
        grid.add_column(name, justify="right", no_wrap=True)
    if trend:
        grid.add_column("trend", no_wrap=True)
    for row in rows:
        bar = [Text(_bar(_tokens(row), most), "cyan")] if trend else []
        grid.add_row(*(clean(getattr(row, name)) or "–" for name in by), *_figures(row), *bar)
    if len(rows) > 1:
        named = ["all", *("" for _ in by[1:])] if by else []
        grid.add_row(*named, *_figures(response.total), style="bold")
    return grid


def footnote(total: meta_agent_pb2.UsageRow) -> str:
    """What the figures hold that no server has counted; empty when nothing."""
    if not total.upper_bound_tokens:
        return ""
    return (
        f"≤ {total.upper_bound_tokens:,} of these tokens are upper bounds: what lost or aborted "
        "calls have cost at most"
    )


def _figures(row: meta_agent_pb2.UsageRow) -> list[str]:
    cached = (
        percent(100 * row.cached_prompt_tokens / row.prompt_tokens) if row.prompt_tokens else "–"
    )
    bound = "≤ " if row.upper_bound_tokens else ""
    return [
        f"{row.prompt_tokens:,}",
        cached,
        f"{row.completion_tokens:,}",
        f"{row.reasoning_tokens:,}",
        f"{bound}{_tokens(row):,}",
        money(row.cost),
        f"{row.calls:,}",
        f"{row.jobs:,}",
    ]


def money(amount: float) -> str:
    """An amount of money, two digits of it at least: "0", "0.000032", "12.50"."""
    if amount <= 0:
        return "0"
    digits = 2 if amount >= 1 else 1 - math.floor(math.log10(amount))
    return f"{amount:,.{digits}f}"


def _tokens(row: meta_agent_pb2.UsageRow) -> int:
    return row.prompt_tokens + row.completion_tokens


def _bar(tokens: int, most: int) -> str:
    """A bar as long as `tokens` is of `most`, in eighths of a character; something for 1."""
    if not tokens:
        return ""
    eighths = max(1, round(_BAR * 8 * tokens / most))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
