"""A job as plain lines, for when nobody looks at a terminal. Pure."""

from __future__ import annotations

from hma.cli.reading import key_of, tokens
from hma.cli.view_state import JobView
from hma.cli.wording import count, one_line, seconds, span, word
from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2

_LIMIT = 160


def line(view: JobView, update: meta_agent_pb2.WatchJobResponse) -> str | None:
    """One line on `update`, or None when it is not worth one.

    Args:
        view: The view after the update.
        update: An event, or progress (never worth a line).
    """
    if not update.HasField("event"):
        return None
    said = _said(view, update.event)
    if said is None:
        return None
    return f"{seconds(max(0.0, view.now - view.created)):>7}  {one_line(said, _LIMIT)}"


def _said(view: JobView, event: job_pb2.JobEvent) -> str | None:
    match event.WhichOneof("payload"):
        case "job_created":
            return _created(event)
        case "job_claimed" if event.job_claimed.epoch > 1:
            return f"taken over by {event.job_claimed.replica}"
        case "state_changed":
            change = event.state_changed
            return f"{word(job_pb2.JobState, change.to)}: {change.reason}"
        case "shape_decided":
            return _shape(event.shape_decided)
        case "plan_closed":
            closed = event.plan_closed
            source = word(attempt_pb2.PlanSource, closed.source)
            why = f" ({closed.reason})" if closed.reason else ""
            return f"plan by {source}: {count(closed.tasks, 'task')}{why}"
        case "attempt_started":
            return _started(view, event.attempt_started)
        case "attempt_finished":
            return _finished(view, event.attempt_finished)
        case "tokens_moved":
            return _moved(view, event.tokens_moved)
        case (
            "attempt_lost"
            | "attempt_reported"
            | "attempt_stopped"
            | "plan_trimmed"
            | "round_judged"
            | "budget_granted"
            | "interrupt_requested"
            | "cancel_requested"
            | "quota_drawn"
            | "call_deferred"
        ):
            return view.news or None
        case "task_settled":
            return _settled(view, event.task_settled)
        case "job_finished":
            finished = event.job_finished
            return f"{word(job_pb2.JobState, finished.state)}: {finished.reason}"
    return None


def _created(event: job_pb2.JobEvent) -> str:
    created = event.job_created
    asked = (
        f"{count(len(created.items), 'item')}, {count(len(created.documents), 'document')}, "
        f"{count(created.budget.max_tokens, 'token')}"
    )
    if created.budget.max_cost:
        asked += f", {created.budget.max_cost:g} of money"
    if created.budget.HasField("deadline"):
        asked += f", {seconds(span(created.budget.deadline))}"
    return f"{event.job_id} accepted: {asked}"


def _shape(decided: job_pb2.ShapeDecided) -> str:
    name = "one agent" if decided.shape == job_pb2.JOB_SHAPE_SINGLE else "a team"
    predicted = (
        f"predicted {decided.predicted_single_tokens:,} tokens alone, "
        f"{decided.predicted_team_tokens:,} in a team"
    )
    return f"{name}: {decided.reason} ({predicted})"


def _started(view: JobView, started: job_pb2.AttemptStarted) -> str:
    name = view.name(started.ref.task_uid)
    again = f", try {started.ref.attempt}" if started.ref.attempt > 1 else ""
    return f"{name} started{again} on {started.route}, grant {started.grant.tokens:,}"


def _finished(view: JobView, finished: job_pb2.AttemptFinished) -> str:
    name = view.name(finished.ref.task_uid)
    spent = sum(tokens(call.usage) for call in finished.result.calls)
    state = word(attempt_pb2.AttemptState, finished.result.state)
    attempt = view.attempts.get(key_of(finished.ref))
    took = ""
    if attempt is not None and attempt.end is not None:
        took = f" in {seconds(attempt.end - attempt.start)}"
    why = f": {finished.result.failure.message}" if finished.result.HasField("failure") else ""
    return f"{name} {state}{took}, {count(spent, 'token')}{why}"


def _moved(view: JobView, moved: job_pb2.TokensMoved) -> str | None:
    """Only what a task got: what goes back to the pool is for `hma explain`."""
    if not moved.to_task_uid:
        return None
    giver = view.name(moved.from_task_uid) if moved.from_task_uid else "the pool"
    why = f": {moved.reason}" if moved.reason else ""
    return f"{count(moved.tokens, 'token')} from {giver} to {view.name(moved.to_task_uid)}{why}"


def _settled(view: JobView, settled: job_pb2.TaskSettled) -> str | None:
    """Only what the attempt's own line does not say."""
    if settled.state != job_pb2.TASK_STATE_SKIPPED:
        return None
    failure: common_pb2.Failure = settled.failure
    return f"{view.name(settled.task_uid)} skipped: {failure.message}"
