"""The ledger as a person reads it: a row a call, what is unknown, and the sum. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text

from hma.cli.reading import tokens
from hma.cli.tables import bare
from hma.cli.wording import clean, count, seconds, span, word
from hma.v1 import attempt_pb2, common_pb2, job_pb2

MAX_ROWS = 60


def receipt(job: job_pb2.Job) -> list[RenderableType]:
    """The ledger: a row for every call, or sums by purpose when there are too many."""
    ledger = job.ledger
    if not ledger.budget_tokens and not ledger.rows:
        return []
    grid = bare()
    for name in ("task", "for", "route"):
        grid.add_column(name, no_wrap=True)
    for name in ("prompt", "cached", "completion", "total", "max", "time"):
        grid.add_column(name, justify="right", no_wrap=True)
    names = {task.task_uid: task.task.id for task in job.tasks}
    calls = [row for row in ledger.rows if row.HasField("call")]
    if len(ledger.rows) <= MAX_ROWS:
        for row in ledger.rows:
            grid.add_row(*(_call(row, names) if row.HasField("call") else _unknown(row, names)))
    else:
        for purpose in sorted({row.call.purpose for row in calls}):
            grid.add_row(*_sum(purpose, [r for r in calls if r.call.purpose == purpose]))
        if len(calls) < len(ledger.rows):
            lost = f"≤{ledger.unknown_tokens:,}" if ledger.unknown_tokens else "0"
            grid.add_row("", "unknown", "", "", "", "", lost, "", "")
    total = ledger.prompt_tokens + ledger.completion_tokens
    grid.add_section()
    grid.add_row(
        Text("all", "bold"),
        count(len(calls), "call"),
        "",
        f"{ledger.prompt_tokens:,}",
        f"{ledger.cached_prompt_tokens:,}",
        f"{ledger.completion_tokens:,}",
        Text(f"{total:,}", "bold"),
        f"{ledger.budget_tokens:,}",
        "",
    )
    notes = []
    if ledger.unknown_tokens:
        notes.append(f"{ledger.unknown_tokens:,} tokens unknown (lost services), at most")
    if ledger.reasoning_tokens:
        notes.append(f"{ledger.reasoning_tokens:,} of the completion were reasoning")
    if ledger.cost or ledger.max_cost:
        notes.append(f"cost {money(ledger)}")
    below = [Text(" · ".join(notes), "dim")] if notes else []
    return [Rule("ledger", align="left"), grid, *below]


def _call(row: job_pb2.LedgerRow, names: dict[str, str]) -> Sequence[str]:
    call, usage = row.call, row.call.usage
    name = names.get(row.task_uid, word(common_pb2.Role, row.role))
    again = f" try {row.attempt}" if row.attempt > 1 else ""
    # What the server did not confirm is an upper bound, and marked so.
    about = "" if usage.accuracy == common_pb2.ACCURACY_EXACT else "≤"
    return (
        clean(name) + again,
        word(attempt_pb2.CallPurpose, call.purpose),
        clean(call.route),
        f"{usage.prompt_tokens:,}",
        f"{usage.cached_prompt_tokens:,}",
        f"{usage.completion_tokens:,}",
        f"{about}{tokens(usage):,}",
        f"{call.max_tokens:,}",
        seconds(span(call.duration)),
    )


def _unknown(row: job_pb2.LedgerRow, names: dict[str, str]) -> Sequence[str]:
    """What became unknown (at most so much), or is known after all."""
    name = names.get(row.task_uid, word(common_pb2.Role, row.role))
    again = f" try {row.attempt}" if row.attempt > 1 else ""
    lost = row.unknown_tokens > 0
    tokens_ = f"≤{row.unknown_tokens:,}" if lost else f"{row.unknown_tokens:,}"
    return (
        clean(name) + again,
        "unknown" if lost else "known now",
        "",
        "",
        "",
        "",
        tokens_,
        "",
        "",
    )


def money(ledger: job_pb2.Ledger) -> str:
    """Money spent and of how much, in the currency of the routes' prices."""
    text = f"{ledger.cost:.6f}"
    if ledger.outstanding_cost:
        text += f" (up to {ledger.outstanding_cost:.6f} more outstanding)"
    return f"{text} of {ledger.max_cost:g}" if ledger.max_cost else text


def _sum(
    purpose: attempt_pb2.CallPurpose.ValueType, rows: Sequence[job_pb2.LedgerRow]
) -> Sequence[str]:
    usages = [row.call.usage for row in rows]
    return (
        count(len(rows), "call"),
        word(attempt_pb2.CallPurpose, purpose),
        "",
        f"{sum(usage.prompt_tokens for usage in usages):,}",
        f"{sum(usage.cached_prompt_tokens for usage in usages):,}",
        f"{sum(usage.completion_tokens for usage in usages):,}",
        f"{sum(tokens(usage) for usage in usages):,}",
        f"{sum(row.call.max_tokens for row in rows):,}",
        seconds(sum(span(row.call.duration) for row in rows)),
    )
