"""What is printed when a job has ended: answer, what is missing, receipt, timings. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.markdown import Markdown
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hma.cli.fold import tokens, when
from hma.cli.live import JOB_STYLES, MARKS
from hma.cli.timeline import Interval, cells
from hma.cli.wording import clean, count, one_line, percent, seconds, span, word
from hma.v1 import attempt_pb2, common_pb2, job_pb2

MAX_ROWS = 60
_BAR = 32


def report(job: job_pb2.Job, *, markdown: bool) -> list[RenderableType]:
    """A job as a person reads it.

    Args:
        job: The job, ended or not.
        markdown: Draws the answer's Markdown; otherwise it is printed as it is.
    """
    return [
        *answer(job, markdown=markdown),
        *missing(job),
        *tasks(job),
        *receipt(job),
        *timings(job),
        Text(),
        verdict(job),
    ]


def verdict(job: job_pb2.Job) -> Text:
    """One line: how it ended, what it cost, how long it took."""
    line = Text()
    line.append(word(job_pb2.JobState, job.state).upper(), JOB_STYLES.get(job.state, ""))
    line.append(f"  {job.job_id}", "dim")
    reason = job.failure.message if job.HasField("failure") else job.state_reason
    if reason:
        line.append(f"  {one_line(reason, 200)}")
    if job.HasField("end_time"):
        line.append(f"  {seconds(when(job.end_time) - when(job.create_time))}", "dim")
    budget = job.ledger.budget_tokens or job.budget.max_tokens
    line.append(f"  {job.ledger.spent_tokens:,} of {budget:,} tokens", "dim")
    return line


def answer(job: job_pb2.Job, *, markdown: bool) -> list[RenderableType]:
    """The answer and where it comes from."""
    if not job.HasField("answer"):
        return []
    text = clean(job.answer.text).strip()
    body: RenderableType = Markdown(text) if markdown else Text(text)
    by = {
        common_pb2.ORIGIN_MODEL: "written by the model",
        common_pb2.ORIGIN_MERGE: "merged by code",
    }
    facts = [by.get(job.answer.origin, "")]
    if job.answer.items:
        grounded = sum(item.grounded for item in job.answer.items)
        extracts = sum(item.origin == common_pb2.ORIGIN_EXTRACT for item in job.answer.items)
        facts.append(f"{count(len(job.answer.items), 'item')}, {grounded} found word for word")
        if extracts:
            facts.append(f"{extracts} extracted, not read by a model")
    facts.append(f"confidence {job.answer.confidence:.2f}")
    note = Text(" · ".join(fact for fact in facts if fact), "dim")
    return [Rule("answer", align="left"), body, Text(), note]


def missing(job: job_pb2.Job) -> list[RenderableType]:
    """What the answer lacks, and why."""
    if not job.answer.missing:
        return []
    asked = {item.item_id: item.text for item in job.items}
    lines: list[RenderableType] = [Rule("missing", align="left", style="yellow")]
    for entry in job.answer.missing:
        line = Text(f"{clean(entry.item_id)}: ", "yellow")
        if entry.item_id in asked:
            line.append(one_line(asked[entry.item_id], 80) + ": ", "italic")
        line.append(clean(entry.reason), "default")
        lines.append(line)
    return lines


def tasks(job: job_pb2.Job) -> list[RenderableType]:
    """Tasks that are not whole, and why; the others stand in the receipt."""
    troubled = [task for task in job.tasks if task.HasField("failure")]
    if not troubled:
        return []
    lines: list[RenderableType] = [Rule("tasks that are not whole", align="left", style="red")]
    for task in troubled[:MAX_ROWS]:
        mark, style = MARKS.get(task.state, ("?", ""))
        line = Text(f"{mark} {clean(task.task.id)}", style)
        line.append(f"  {one_line(task.failure.message, 160)}", "default")
        lines.append(line)
    if len(troubled) > MAX_ROWS:
        lines.append(Text(f"and {len(troubled) - MAX_ROWS} more", "dim"))
    return lines


def receipt(job: job_pb2.Job) -> list[RenderableType]:
    """The ledger: a row for every call, or sums by purpose when there are too many."""
    ledger = job.ledger
    if not ledger.budget_tokens and not ledger.rows:
        return []
    grid = _grid()
    for name in ("task", "for", "route"):
        grid.add_column(name, no_wrap=True)
    for name in ("prompt", "cached", "completion", "total", "max", "time"):
        grid.add_column(name, justify="right", no_wrap=True)
    names = {task.task_uid: task.task.id for task in job.tasks}
    if len(ledger.rows) <= MAX_ROWS:
        for row in ledger.rows:
            grid.add_row(*_call(row, names))
    else:
        for purpose in sorted({row.call.purpose for row in ledger.rows}):
            grid.add_row(*_sum(purpose, [r for r in ledger.rows if r.call.purpose == purpose]))
    total = ledger.prompt_tokens + ledger.completion_tokens
    grid.add_section()
    grid.add_row(
        Text("all", "bold"),
        count(len(ledger.rows), "call"),
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
    if ledger.cost:
        notes.append(f"cost {ledger.cost:.6f}")
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


def timings(job: job_pb2.Job) -> list[RenderableType]:
    """Who worked when, how far side by side, and what barriers cost."""
    if not job.agent_timings:
        return []
    began = min(when(timing.start) for timing in job.agent_timings)
    ended = max(when(timing.end) for timing in job.agent_timings)
    grid = _grid()
    grid.add_column("agent", no_wrap=True)
    for name in ("layer", "start", "took"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True, width=_BAR)
    ordered = sorted(job.agent_timings, key=lambda timing: when(timing.start))
    for timing in ordered[:MAX_ROWS]:
        interval = Interval(when(timing.start), when(timing.end))
        grid.add_row(
            clean(timing.task_id),
            str(timing.layer_id) if timing.layer_id >= 0 else "",
            seconds(interval.start - began),
            seconds(span(timing.duration)),
            Text(cells([interval], began, max(ended, began + 0.001), _BAR), "cyan"),
        )
    lines: list[RenderableType] = [Rule("who ran when", align="left"), grid]
    if len(ordered) > MAX_ROWS:
        lines.append(Text(f"and {len(ordered) - MAX_ROWS} more", "dim"))
    lines += [_concurrency(entry) for entry in job.concurrency]
    lines += [_barrier(entry, job) for entry in job.layer_barriers]
    if job.critical_path:
        lines.append(Text("critical path: " + " → ".join(map(clean, job.critical_path))))
    return lines


def _concurrency(entry: common_pb2.Concurrency) -> Text:
    whole = entry.layer_id < 0
    name = "the whole job" if whole else f"layer {entry.layer_id}"
    return Text(
        f"{name}: {percent(entry.time_saved_percent)} of the time saved, "
        f"{percent(entry.pairwise_overlap_percent)} pairwise overlap; "
        f"{seconds(span(entry.work))} of work in {seconds(span(entry.wall))}",
        "bold" if whole else "",
    )


def _barrier(entry: common_pb2.LayerBarrier, job: job_pb2.Job) -> Text:
    waves = job.policy.dispatch == job_pb2.DISPATCH_WAVES
    verb = "cost" if waves else "would have cost"
    return Text(
        f"a barrier after layer {entry.layer_id} {verb} its {count(len(entry.agents), 'agent')} "
        f"{seconds(span(entry.wait_time))} of waiting"
    )


def _grid() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
