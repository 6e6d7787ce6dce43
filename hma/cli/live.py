"""Draws a `JobView`: pure functions from the view, the time and the room to rich.

The height is bounded whatever the job: when there is no room for every task, those
that run come first and the rest is summed up in one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hma.cli.timeline import Interval, cells, figures, shares
from hma.cli.view_state import LOST, AttemptView, JobView, TaskView, spending
from hma.cli.wording import clean, count, one_line, percent, seconds, word
from hma.v1 import attempt_pb2, common_pb2, job_pb2

State: TypeAlias = job_pb2.TaskState.ValueType

MARKS: dict[State, tuple[str, str]] = {
    job_pb2.TASK_STATE_WAITING: ("·", "dim"),
    job_pb2.TASK_STATE_READY: ("○", ""),
    job_pb2.TASK_STATE_RUNNING: ("●", "cyan"),
    job_pb2.TASK_STATE_SUCCEEDED: ("✓", "green"),
    job_pb2.TASK_STATE_PARTIAL: ("◐", "yellow"),
    job_pb2.TASK_STATE_FAILED: ("✗", "red"),
    job_pb2.TASK_STATE_SKIPPED: ("–", "dim"),
}
JOB_STYLES: dict[job_pb2.JobState.ValueType, str] = {
    job_pb2.JOB_STATE_QUEUED: "bold",
    job_pb2.JOB_STATE_PLANNING: "bold magenta",
    job_pb2.JOB_STATE_RUNNING: "bold cyan",
    job_pb2.JOB_STATE_REDUCING: "bold blue",
    job_pb2.JOB_STATE_SUCCEEDED: "bold green",
    job_pb2.JOB_STATE_PARTIAL: "bold yellow",
    job_pb2.JOB_STATE_FAILED: "bold red",
    job_pb2.JOB_STATE_CANCELLED: "bold red",
}
# What to look at first when not every task fits.
_ORDER = (
    job_pb2.TASK_STATE_RUNNING,
    job_pb2.TASK_STATE_FAILED,
    job_pb2.TASK_STATE_PARTIAL,
    job_pb2.TASK_STATE_SUCCEEDED,
    job_pb2.TASK_STATE_READY,
    job_pb2.TASK_STATE_SKIPPED,
    job_pb2.TASK_STATE_WAITING,
)
_OUTCOMES: dict[str, State] = {
    "": job_pb2.TASK_STATE_RUNNING,
    "succeeded": job_pb2.TASK_STATE_SUCCEEDED,
    "partial": job_pb2.TASK_STATE_PARTIAL,
}
_ROLE_STYLES: dict[common_pb2.Role.ValueType, str] = {
    common_pb2.ROLE_ANALYST: "magenta",
    common_pb2.ROLE_WORKER: "cyan",
    common_pb2.ROLE_REDUCER: "blue",
}
_WIDE = 96
_MIN_ROWS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One agent in the table: a task, planning or reducing."""

    name: str
    title: str
    state: State
    allotted: int
    attempts: tuple[AttemptView, ...]
    role: common_pb2.Role.ValueType = common_pb2.ROLE_WORKER


def render(view: JobView, now: float, width: int, height: int, hint: str = "") -> RenderableType:
    """The whole view.

    Args:
        view: What to show.
        now: Database time, in seconds since 1970.
        width: Columns.
        height: Most lines.
        hint: Shown at the bottom: what Ctrl-C does.
    """
    top = [header(view, now, width), *notices(view, width), Text(), *budget(view, width), Text()]
    rows = agents(view)
    # Every part but rows and answer is one line; table head, figures, blanks and hint are six.
    room = max(_MIN_ROWS + 1, height - len(top) - 6)
    answer = clean(view.answer).rstrip()
    answer_room = min(max(3, room // 3), 12) if answer and room > 8 else 0
    parts: list[RenderableType] = [*top, table(view, rows, now, width, room - answer_room)]
    parts.append(side_by_side(view, now))
    if answer_room:
        parts += [Text(), tail(answer, width, answer_room - 1)]
    parts += [Text(), Text(hint, style="dim", no_wrap=True, overflow="ellipsis")]
    return Group(*parts)


def header(view: JobView, now: float, width: int) -> Text:
    """State, time, shape, and why it is where it is; two lines."""
    until = view.now if view.finished is not None else now
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(word(job_pb2.JobState, view.state).upper(), JOB_STYLES.get(view.state, ""))
    line.append(f"  {view.job_id}", "dim")
    if view.created:
        line.append(f"  {seconds(until - view.created)}")
        if view.deadline:
            line.append(f" of {seconds(view.deadline - view.created)}", "dim")
    facts = []
    if view.shape == job_pb2.JOB_SHAPE_TEAM:
        facts.append(f"team, {count(len(view.tasks), 'task')}")
    elif view.shape == job_pb2.JOB_SHAPE_SINGLE:
        facts.append("one agent")
    if view.plan_source:
        facts.append(f"plan: {word(attempt_pb2.PlanSource, view.plan_source)}")
    if facts:
        line.append("  " + " · ".join(facts), "dim")
    line.append("\n" + one_line(view.reason or view.description, width), "italic")
    return line


def notices(view: JobView, width: int) -> list[Text]:
    """The latest two things that a user should know."""
    return [Text(one_line(f"! {text}", width), "yellow") for text in view.notices[-2:]]


def budget(view: JobView, width: int) -> list[Text]:
    """Where the tokens are, as a bar and in figures."""
    spent = spending(view)
    parts = (
        ("spent", spent.spent, "█", "green"),
        ("unknown", spent.unknown, "▚", "red"),
        ("outstanding", spent.outstanding, "▓", "yellow"),
        ("reserved", spent.reserved, "▒", "blue"),
        ("free", spent.free, "░", "dim"),
    )
    sizes = shares([amount for _, amount, _, _ in parts], spent.budget, max(10, width))
    bar = Text(no_wrap=True, overflow="crop")
    legend = Text(no_wrap=True, overflow="ellipsis")
    for (name, amount, glyph, style), size in zip(parts, sizes, strict=True):
        bar.append(glyph * size, style)
        if amount or name in ("spent", "free"):
            legend.append(f"{glyph} ", style)
            legend.append(f"{name} {amount:,}   ")
    legend.append(f"of {spent.budget:,} tokens", "dim")
    if view.moved:
        legend.append(f" · {view.moved:,} moved to where they buy more", "dim")
    return [bar, legend, *_money(view)]


def _money(view: JobView) -> list[Text]:
    """Money, where there is a limit to it."""
    if not view.max_cost:
        return []
    line = Text(f"money {view.cost:.6f}", no_wrap=True, overflow="ellipsis")
    if view.outstanding_cost:
        line.append(f", {view.outstanding_cost:.6f} outstanding at most", "yellow")
    line.append(f" of {view.max_cost:g}", "dim")
    return [line]


def agents(view: JobView) -> list[Row]:
    """Planning, the tasks in plan order, reducing."""
    by_uid: dict[str, list[AttemptView]] = {}
    for attempt in view.attempts.values():
        by_uid.setdefault(attempt.task_uid, []).append(attempt)
    rows = [_task_row(task, tuple(by_uid.pop(task.task_uid, ()))) for task in view.tasks.values()]
    others = [_other_row(view, uid, tuple(attempts)) for uid, attempts in by_uid.items()]
    plans = [row for row in others if row.role == common_pb2.ROLE_ANALYST]
    return [*plans, *rows, *(row for row in others if row.role != common_pb2.ROLE_ANALYST)]


def _task_row(task: TaskView, attempts: tuple[AttemptView, ...]) -> Row:
    title = task.problem or task.title
    if task.state == job_pb2.TASK_STATE_WAITING:
        title = f"after {', '.join(task.waits_for)}: {title}"
    return Row(task.task_id, title, task.state, task.allotted, attempts)


def _other_row(view: JobView, uid: str, attempts: tuple[AttemptView, ...]) -> Row:
    last = attempts[-1]
    titles = {
        common_pb2.ROLE_ANALYST: "brief and plan",
        common_pb2.ROLE_REDUCER: "make the answer",
    }
    state = _OUTCOMES.get(last.outcome, job_pb2.TASK_STATE_FAILED)
    return Row(view.name(uid), titles.get(last.role, uid), state, 0, attempts, last.role)


def chosen(rows: Sequence[Row], room: int) -> tuple[list[Row], list[Row]]:
    """The rows to show and those to sum up: all of them, or what runs first.

    Among rows of one state the latest come first, except waiting ones.
    """
    if len(rows) <= room:
        return list(rows), []
    rank = {state: index for index, state in enumerate(_ORDER)}
    ordered = sorted(
        rows,
        key=lambda row: (
            rank.get(row.state, len(_ORDER)),
            -(row.attempts[-1].start if row.attempts else 0.0),
        ),
    )
    keep = max(1, room - 1)
    return ordered[:keep], ordered[keep:]


def table(view: JobView, rows: Sequence[Row], now: float, width: int, room: int) -> Table:
    """Who does what on which grant, and when they did it; at most `room` lines and a head."""
    shown, hidden = chosen(rows, room)
    wide = width >= _WIDE
    bar_width = max(12, width // 3) if wide else max(8, width // 4)
    began, until = _scale(view, now)
    grid = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("", width=1)
    grid.add_column("task", no_wrap=True, max_width=14)
    grid.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    if wide:
        grid.add_column("route", no_wrap=True, max_width=10)
    grid.add_column("spent", justify="right", no_wrap=True)
    grid.add_column("grant", justify="right", no_wrap=True)
    grid.add_column(_axis(began, until, bar_width), width=bar_width, no_wrap=True)
    for row in shown:
        grid.add_row(*_cells(row, now, began, until, bar_width, wide=wide))
    if hidden:
        blank = [""] * (len(grid.columns) - 3)
        grid.add_row("", f"+{len(hidden):,}", Text(_summary(hidden), "dim"), *blank)
    return grid


def _cells(
    row: Row, now: float, began: float, until: float, bar_width: int, *, wide: bool
) -> list[Text]:
    mark, style = MARKS.get(row.state, ("?", ""))
    last = row.attempts[-1] if row.attempts else None
    title = Text(one_line(row.title, 120))
    if last is not None and last.running and (saying := last.text or last.phase):
        title = Text(one_line(saying[-160:], 160), "italic dim")
    if last is not None and last.attempt > 1:
        title = Text.assemble((f"try {last.attempt}: ", "yellow"), title)
    spent = sum(attempt.spent or attempt.usage * attempt.running for attempt in row.attempts)
    granted = last.granted if last is not None else 0
    bar = cells([_interval(attempt, now) for attempt in row.attempts], began, until, bar_width)
    cells_: list[Text] = [Text(mark, style), Text(clean(row.name), style), title]
    if wide:
        cells_.append(Text(last.route if last is not None else "", "dim"))
    return [
        *cells_,
        Text(f"{spent:,}" if spent else ""),
        Text(f"{granted:,}", "yellow") if granted else Text(_allotted(row), "dim"),
        Text(bar, _ROLE_STYLES.get(row.role, "") if style != "red" else "red"),
    ]


def _allotted(row: Row) -> str:
    return f"({row.allotted:,})" if row.allotted and not row.attempts else ""


def _summary(rows: Sequence[Row]) -> str:
    counts = Counter(row.state for row in rows)
    return "more: " + ", ".join(
        f"{counts[state]:,} {word(job_pb2.TaskState, state)}" for state in _ORDER if counts[state]
    )


def side_by_side(view: JobView, now: float) -> Text:
    """The two concurrency figures of what has run so far."""
    attempts = [attempt for attempt in view.attempts.values() if attempt.outcome != LOST]
    if view.finished is not None:
        now = view.now
    found = figures([_interval(attempt, now) for attempt in attempts])
    line = Text(style="dim", no_wrap=True, overflow="ellipsis")
    running = sum(attempt.running for attempt in attempts)
    line.append(f"side by side: {count(running, 'agent')} at work")
    if view.ready:
        line.append(f", {count(view.ready, 'task')} ready")
    line.append(f" · {percent(found.time_saved)} of the time saved")
    line.append(f" · {percent(found.overlap)} pairwise overlap")
    line.append(f" · {seconds(found.work)} of work in {seconds(found.wall)}")
    return line


def tail(answer: str, width: int, lines: int) -> Text:
    """The end of the answer, as much as fits."""
    text = Text(answer)
    wrapped: list[str] = []
    for line in text.plain.splitlines()[-lines:]:
        wrapped += [line[i : i + width] for i in range(0, max(1, len(line)), width)]
    return Text("\n".join(["─ answer " + "─" * max(0, width - 9), *wrapped[-lines:]]))


def _scale(view: JobView, now: float) -> tuple[float, float]:
    """The time that the bars show: from the first dispatch on, a second at least."""
    starts = [attempt.start for attempt in view.attempts.values()]
    began = min(starts, default=now)
    until = view.now if view.finished is not None else now
    return began, max(until, began + 1.0)


def _axis(began: float, until: float, width: int) -> str:
    end = seconds(until - began)
    return "0s" + end.rjust(max(0, width - 2))


def _interval(attempt: AttemptView, now: float) -> Interval:
    end = attempt.end if attempt.end is not None else max(now, attempt.start)
    return Interval(attempt.start, end, attempt.outcome == LOST, attempt.running)
