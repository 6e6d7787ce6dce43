"""What is printed when a job has ended: answer, what is missing, receipt, timings. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.markdown import Markdown
from rich.rule import Rule
from rich.text import Text

from hma.cli.live import JOB_STYLES, MARKS
from hma.cli.reading import when
from hma.cli.receipt import MAX_ROWS, money, receipt
from hma.cli.tables import bare
from hma.cli.timeline import Interval, cells
from hma.cli.wording import clean, count, one_line, percent, seconds, span, word
from hma.v1 import common_pb2, job_pb2

_EXACT = 0.5
"""Percent below which a prediction came true."""

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
        *failures(job),
        *receipt(job),
        *timings(job),
        *decisions(job),
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
    if job.ledger.max_cost:
        line.append(f", {money(job.ledger)} of money", "dim")
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


def failures(job: job_pb2.Job) -> list[RenderableType]:
    """What failed, by class, and how the job recovered; nothing when nothing did."""
    found = job.failure_report
    if not found.counts and not found.takeovers:
        return []
    lines: list[RenderableType] = [Rule("what failed", align="left")]
    for each in found.counts:
        outcomes = (
            ("tried again", each.retried),
            ("on another route", each.fell_back),
            ("saved in part", each.salvaged),
            ("lost", each.lost),
        )
        told = ", ".join(f"{number:,} {how}" for how, number in outcomes if number)
        line = Text(f"{each.count:,} {word(common_pb2.FailureClass, each.failure_class)}", "yellow")
        line.append(f": {told}", "default")
        if each.tokens_lost:
            line.append(f"; {count(each.tokens_lost, 'token')} lost", "default")
        if each.example:
            line.append(f"  {one_line(each.example, 100)}", "dim")
        lines.append(line)
    if found.lost_attempts:
        lines.append(Text(f"{count(found.lost_attempts, 'attempt')} lost with a service or driver"))
    if found.handed_over_attempts:
        ended = count(found.handed_over_attempts, "attempt")
        lines.append(Text(f"{ended} cost no try: a service was stopped, or a driver was gone"))
    if found.takeovers:
        lines.append(Text(f"taken over by another replica {count(found.takeovers, 'time')}"))
    return lines


def timings(job: job_pb2.Job) -> list[RenderableType]:
    """Who worked when, how far side by side, and what barriers cost."""
    if not job.agent_timings:
        return []
    began = min(when(timing.start) for timing in job.agent_timings)
    ended = max(when(timing.end) for timing in job.agent_timings)
    grid = bare()
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


def decisions(job: job_pb2.Job) -> list[RenderableType]:
    """The shape, predicted and in truth, and how the answer was judged; a line each."""
    lines: list[RenderableType] = []
    if job.HasField("shape_decision") and job.HasField("shape_outcome"):
        lines.append(Text(_shape(job.shape_decision, job.shape_outcome)))
    for judged in job.rounds:
        verdict_ = "another round" if judged.another_round else "halt"
        why = f", because {one_line(judged.reason, 160)}" if judged.reason else ""
        lines.append(Text(f"round {judged.round} judged: {verdict_}{why}"))
    return [Rule("decisions", align="left"), *lines] if lines else []


def _shape(decided: job_pb2.ShapeDecided, outcome: job_pb2.ShapeOutcome) -> str:
    team = outcome.shape == job_pb2.JOB_SHAPE_TEAM
    other = decided.predicted_single_tokens if team else decided.predicted_team_tokens
    error = outcome.error_percent
    off = f"{percent(abs(error))} {'more' if error > 0 else 'less'}"
    if abs(error) < _EXACT:
        off = "as predicted"
    return (
        f"{'a team' if team else 'one agent'} cost {outcome.actual_tokens:,} of "
        f"{count(outcome.predicted_tokens, 'predicted token')} ({off}); "
        f"{'one agent' if team else 'a team'} was predicted to cost {other:,}"
    )


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
