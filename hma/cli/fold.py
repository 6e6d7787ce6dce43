"""The live view as a pure fold of a watch's events and progress.

`fold(view, update)` is total (an update about something unknown changes nothing that
matters) and cheap enough for a job of 500 tasks. Nothing here draws or waits.
"""

from __future__ import annotations

from dataclasses import replace

from hma.cli import fold_attempts, fold_steering
from hma.cli.reading import key_of, tokens, when
from hma.cli.view_state import JobView, TaskView, noted, put
from hma.v1 import job_pb2, meta_agent_pb2

_GAP = "…"


def fold(view: JobView, update: meta_agent_pb2.WatchJobResponse) -> JobView:
    """The view after `update`."""
    if update.HasField("progress"):
        return _progress(view, update.progress)
    event = update.event
    view = replace(
        view,
        job_id=event.job_id,
        sequence=event.sequence,
        now=max(view.now, when(event.time)),
        news="",
    )
    kind = event.WhichOneof("payload")
    step = _STEPS.get(kind) if kind else None
    return view if step is None else step(view, event)


def _progress(view: JobView, progress: job_pb2.JobProgress) -> JobView:
    attempts = dict(view.attempts)
    for running in progress.attempts:
        attempt = attempts.get(key_of(running.ref))
        if attempt is None or not attempt.running:
            continue
        attempts[key_of(running.ref)] = replace(
            attempt,
            usage=tokens(running.usage),
            phase=running.phase,
            text=_joined(attempt.text, running.offset, running.text),
        )
    if progress.HasField("ledger"):
        ledger = progress.ledger
        view = replace(
            view,
            reserved=ledger.reserved_tokens,
            cost=ledger.cost,
            outstanding_cost=ledger.outstanding_cost,
            max_cost=ledger.max_cost or view.max_cost,
        )
    return replace(
        view,
        attempts=attempts,
        ready=progress.ready_tasks,
        now=max(view.now, when(progress.time)),
    )


def _joined(have: str, offset: int, text: str) -> str:
    if not text:
        return have
    if offset > len(have):
        # A snapshot in between was missed; the mark keeps the offsets right.
        have += _GAP * (offset - len(have))
    return have[:offset] + text


def _created(view: JobView, event: job_pb2.JobEvent) -> JobView:
    created = event.job_created
    return replace(
        view,
        state=job_pb2.JOB_STATE_QUEUED,
        description=created.task_description,
        created=when(event.time),
        deadline=when(created.deadline_time),
        items=len(created.items),
        documents=len(created.documents),
        budget=created.budget.max_tokens,
        max_cost=created.budget.max_cost,
    )


def _state(view: JobView, event: job_pb2.JobEvent) -> JobView:
    return replace(view, state=event.state_changed.to, reason=event.state_changed.reason)


def _shape(view: JobView, event: job_pb2.JobEvent) -> JobView:
    decided = event.shape_decided
    return replace(
        view,
        shape=decided.shape,
        reserved=decided.reserved_tokens,
    )


def _admitted(view: JobView, event: job_pb2.JobEvent) -> JobView:
    admitted = event.task_admitted
    task = TaskView(
        task_uid=admitted.task_uid,
        task_id=admitted.task.id,
        title=admitted.task.title or admitted.task.instruction,
        state=job_pb2.TASK_STATE_WAITING if admitted.task.depends_on else job_pb2.TASK_STATE_READY,
        allotted=admitted.allotted_tokens,
        waits_for=tuple(admitted.task.depends_on),
    )
    return replace(
        view,
        tasks=put(view.tasks, task.task_uid, task),
        plan_source=view.plan_source or admitted.source,
    )


def _closed(view: JobView, event: job_pb2.JobEvent) -> JobView:
    closed = event.plan_closed
    view = replace(view, plan_source=closed.source)
    return noted(view, f"plan: {closed.reason}") if closed.reason else view


def _settled_task(view: JobView, event: job_pb2.JobEvent) -> JobView:
    settled = event.task_settled
    task = view.tasks.get(settled.task_uid)
    if task is None:
        return view
    task = replace(task, state=settled.state, problem=settled.failure.message)
    return replace(view, tasks=put(view.tasks, task.task_uid, task))


def _finished(view: JobView, event: job_pb2.JobEvent) -> JobView:
    return replace(
        view,
        state=event.job_finished.state,
        reason=event.job_finished.reason,
        finished=event.job_finished,
        cost=event.job_finished.ledger.cost,
        outstanding_cost=0.0,
    )


_STEPS = {
    "job_created": _created,
    "state_changed": _state,
    "shape_decided": _shape,
    "task_admitted": _admitted,
    "plan_closed": _closed,
    "task_settled": _settled_task,
    "attempt_started": fold_attempts.started,
    "call_granted": fold_attempts.granted,
    "call_settled": fold_attempts.settled_call,
    "attempt_finished": fold_attempts.finished_attempt,
    "attempt_lost": fold_attempts.lost,
    "attempt_stopped": fold_steering.stopped,
    "attempt_reported": fold_attempts.reported,
    "interrupt_requested": fold_steering.interrupt,
    "cancel_requested": fold_steering.cancel,
    "budget_granted": fold_steering.topped_up,
    "tokens_moved": fold_steering.moved,
    "plan_trimmed": fold_steering.trimmed,
    "round_judged": fold_steering.judged,
    "quota_drawn": fold_steering.drawn,
    "call_deferred": fold_steering.deferred,
    "job_finished": _finished,
}
