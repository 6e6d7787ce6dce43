"""An explanation as a person reads it: the story, then where the tokens went. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hma.cli.live import JOB_STYLES
from hma.cli.receipt import money
from hma.cli.tables import Column, fitted
from hma.cli.wording import clean, count, one_line, word
from hma.v1 import attempt_pb2, explanation_pb2, job_pb2

MAX_ROWS = 40


def explanation(told: explanation_pb2.Explanation, width: int) -> list[RenderableType]:
    """The whole of it.

    Args:
        told: What the server says.
        width: Columns of the terminal.
    """
    return [
        *story(told),
        *accounts(told, width),
        *movements(told, width),
        *interruptions(told, width),
        *dropped(told, width),
        *rounds(told, width),
        Text(),
        verdict(told),
    ]


def verdict(told: explanation_pb2.Explanation) -> Text:
    """One line: where the job is, and where its tokens are."""
    ledger = told.ledger
    line = Text()
    line.append(word(job_pb2.JobState, told.state).upper(), JOB_STYLES.get(told.state, ""))
    line.append(f"  {clean(told.job_id)}", "dim")
    line.append(f"  {ledger.spent_tokens:,} of {ledger.budget_tokens:,} tokens")
    for name, tokens in (
        ("unknown", ledger.unknown_tokens),
        ("outstanding", ledger.outstanding_tokens),
        ("reserved", ledger.reserved_tokens),
    ):
        if tokens:
            line.append(f" · {tokens:,} {name}", "dim")
    if ledger.cost or ledger.max_cost:
        line.append(f" · cost {money(ledger)}", "dim")
    return line


def story(told: explanation_pb2.Explanation) -> list[RenderableType]:
    """The sentences, one a line."""
    # What is wrapped hangs under the words, not under the dot.
    grid = Table.grid(padding=(0, 1, 0, 0))
    for sentence in told.sentences:
        grid.add_row(Text("·", "dim"), Text(one_line(sentence, 2000)))
    return [grid] if told.sentences else []


def accounts(told: explanation_pb2.Explanation, width: int) -> list[RenderableType]:
    """Where the tokens went: a row a task, and their sum."""
    every = list(told.accounts)
    if not every:
        return []
    shown = every[:MAX_ROWS]
    total = _sum(every)
    rows = [*shown, total]
    grid = fitted(
        [
            Column("task", [clean(row.task_id) for row in rows], left=True),
            Column("route", [clean(", ".join(row.routes)) for row in rows], 10, left=True),
            Column("tries", [_figure(row.attempts) for row in rows], 9),
            Column("allotted", [_figure(row.allotted_tokens) for row in rows], 4),
            Column("predicted", [_figure(row.predicted_tokens) for row in rows], 3),
            Column("prompt", [_figure(row.prompt_tokens) for row in rows], 5),
            Column("cached", [_figure(row.cached_prompt_tokens) for row in rows], 8),
            Column("completion", [_figure(row.completion_tokens) for row in rows], 6),
            Column("spent", [f"{_spent(row):,}" for row in rows]),
            Column("again", [_figure(row.retried_tokens) for row in rows], 7),
            Column("unknown", [_figure(row.unknown_tokens) for row in rows], 2),
            Column("from pool", [_figure(row.from_pool_tokens) for row in rows], 11),
            Column("to pool", [_figure(row.to_pool_tokens) for row in rows], 12),
            Column("cost", [f"{row.cost:.6f}" if row.cost else "" for row in rows], 13),
            Column("gain", [_gain(row.predicted_gain, row.realised_gain) for row in rows], 1),
        ],
        width,
        total=True,
    )
    notes = []
    if total.retried_tokens:
        notes.append("again: re-asks and tries after the first")
    if total.predicted_gain or total.realised_gain:
        notes.append("gain: answered items, predicted → realised")
    below = [Text(" · ".join(notes), "dim")] if notes else []
    return [_rule("where the tokens went"), grid, *below, *_more(len(every) - len(shown))]


def movements(told: explanation_pb2.Explanation, width: int) -> list[RenderableType]:
    """What moved. What went back to the pool gives way when there is no room for all."""
    moves = list(told.movements)
    if not moves:
        return []
    shown = moves
    if len(moves) > MAX_ROWS:
        shown = [move for move in moves if move.to != _POOL][:MAX_ROWS] or moves[:MAX_ROWS]
    grid = fitted(
        [
            Column("from", [clean(getattr(move, "from")) for move in shown], left=True),
            Column("to", [clean(move.to) for move in shown], left=True),
            Column("tokens", [f"{move.tokens:,}" for move in shown]),
            Column("gain", [_moved_gain(move) for move in shown], 2),
            Column("why", [one_line(move.reason, 200) for move in shown], 1, text=True),
        ],
        width,
    )
    return [_rule("what moved"), grid, *_more(len(moves) - len(shown))]


def interruptions(told: explanation_pb2.Explanation, width: int) -> list[RenderableType]:
    """What was told to stop."""
    stops = list(told.interruptions)
    if not stops:
        return []
    shown = stops[:MAX_ROWS]
    grid = fitted(
        [
            Column("task", [clean(stop.task_id) for stop in shown], left=True),
            Column("try", [str(stop.attempt) for stop in shown], 5),
            Column("cause", [_value(job_pb2.InterruptCause, s.cause) for s in shown], left=True),
            Column(
                "outcome",
                [_value(attempt_pb2.AttemptState, s.outcome) or "not known yet" for s in shown],
                4,
                left=True,
            ),
            Column("saved", [str(stop.salvaged_items) for stop in shown], 1),
            Column("spent", [f"{stop.spent_tokens:,}" for stop in shown], 3),
            Column("why", [one_line(stop.reason, 200) for stop in shown], 2, text=True),
        ],
        width,
    )
    return [_rule("what was interrupted"), grid, *_more(len(stops) - len(shown))]


def dropped(told: explanation_pb2.Explanation, width: int) -> list[RenderableType]:
    """What was not done."""
    drops = list(told.dropped)
    if not drops:
        return []
    shown = drops[:MAX_ROWS]
    grid = fitted(
        [
            Column("task", [clean(drop.task_id) for drop in shown], left=True),
            Column("what", [clean(drop.what) for drop in shown], left=True),
            Column("worth", [_figure(drop.value.gain) for drop in shown], 3),
            Column("extracts", [_figure(drop.extracted_items) for drop in shown], 2),
            Column("why", [one_line(drop.reason, 200) for drop in shown], 1, text=True),
        ],
        width,
    )
    return [_rule("what was dropped"), grid, *_more(len(drops) - len(shown))]


def rounds(told: explanation_pb2.Explanation, width: int) -> list[RenderableType]:
    """How the answer was judged."""
    judged = list(told.rounds)
    if not judged:
        return []
    features = [entry.features for entry in judged]
    grid = fitted(
        [
            Column("round", [str(entry.round) for entry in judged]),
            Column("quality", [f"{f.quality:.2f}" for f in features]),
            Column("answered", [f"{f.answered} of {f.items}" for f in features], 2),
            Column("found", [str(f.grounded) for f in features], 4),
            Column("extracts", [_figure(f.extracts) for f in features], 5),
            Column("missing", [_figure(f.missing) for f in features], 3),
            Column("then", ["another" if e.another_round else "halt" for e in judged], left=True),
            Column("why", [one_line(entry.reason, 200) for entry in judged], 1, text=True),
        ],
        width,
    )
    return [_rule("rounds"), grid]


_POOL = "pool"


def _sum(every: Sequence[explanation_pb2.TokenAccount]) -> explanation_pb2.TokenAccount:
    total = explanation_pb2.TokenAccount(task_id="all")
    for account in every:
        for field in _SUMMED:
            setattr(total, field, getattr(total, field) + getattr(account, field))
    return total


# What was set aside is no sum that means anything: a refund may have been set aside twice.
_SUMMED = (
    "attempts",
    "prompt_tokens",
    "cached_prompt_tokens",
    "completion_tokens",
    "retried_tokens",
    "unknown_tokens",
    "from_pool_tokens",
    "to_pool_tokens",
    "cost",
    "predicted_gain",
    "realised_gain",
)


def _spent(account: explanation_pb2.TokenAccount) -> int:
    return account.prompt_tokens + account.completion_tokens


def _figure(value: float) -> str:
    """A figure, or nothing for 0: a table of zeros hides what matters."""
    if not value:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _gain(predicted: float, realised: float) -> str:
    return f"{predicted:.1f} → {realised:.1f}" if predicted or realised else ""


def _moved_gain(move: explanation_pb2.TokenMovement) -> str:
    if move.to == _POOL:
        return ""
    return _gain(move.predicted.gain, move.realised_gain)


def _value(enum: type[job_pb2.InterruptCause] | type[attempt_pb2.AttemptState], value: int) -> str:
    return word(enum, value) if value else ""


def _rule(title: str) -> Rule:
    return Rule(title, align="left")


def _more(hidden: int) -> list[RenderableType]:
    return [Text(f"and {count(hidden, 'more row')}", "dim")] if hidden > 0 else []
