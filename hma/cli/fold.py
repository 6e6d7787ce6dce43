"""The live view as a pure fold of a watch's events and progress.

`fold(view, update)` is total (an update about something unknown changes nothing that
matters) and cheap enough for a job of 500 tasks. Nothing here draws or waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from hma.cli.view_state import LOST, AttemptView, JobView, Key, TaskView
from hma.cli.wording import word
from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2

K = TypeVar("K")
V = TypeVar("V")
_GAP = "…"
_MAX_NOTICES = 20


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
    )
    kind = event.WhichOneof("payload")
    step = _STEPS.get(kind) if kind else None
    return view if step is None else step(view, event)


def when(stamp: Timestamp) -> float:
    """Seconds since 1970."""
    return stamp.seconds + stamp.nanos / 1e9


def tokens(usage: common_pb2.Usage) -> int:
    """Prompt plus completion."""
    return usage.prompt_tokens + usage.completion_tokens


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
    return replace(
        view,
        attempts=attempts,
        reserved=progress.ledger.reserved_tokens if progress.HasField("ledger") else view.reserved,
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


def key_of(ref: attempt_pb2.AttemptRef) -> Key:
    """The attempt that `ref` names."""
    return ref.task_uid, ref.attempt


def _set(mapping: Mapping[K, V], key: K, value: V) -> dict[K, V]:
    return {**mapping, key: value}


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
        tasks=_set(view.tasks, task.task_uid, task),
        plan_source=view.plan_source or admitted.source,
    )


def _closed(view: JobView, event: job_pb2.JobEvent) -> JobView:
    closed = event.plan_closed
    view = replace(view, plan_source=closed.source)
    return _notice(view, f"plan: {closed.reason}") if closed.reason else view


def _settled_task(view: JobView, event: job_pb2.JobEvent) -> JobView:
    settled = event.task_settled
    task = view.tasks.get(settled.task_uid)
    if task is None:
        return view
    task = replace(task, state=settled.state, problem=settled.failure.message)
    return replace(view, tasks=_set(view.tasks, task.task_uid, task))


def _started(view: JobView, event: job_pb2.JobEvent) -> JobView:
    started = event.attempt_started
    attempt = AttemptView(
        task_uid=started.ref.task_uid,
        attempt=started.ref.attempt,
        role=started.role,
        route=started.route,
        start=when(event.time),
        call=started.grant.call,
        grant=started.grant.tokens,
    )
    tasks = view.tasks
    task = tasks.get(attempt.task_uid)
    if task is not None:
        tasks = _set(tasks, task.task_uid, replace(task, state=job_pb2.TASK_STATE_RUNNING))
    return replace(view, tasks=tasks, attempts=_set(view.attempts, key_of(started.ref), attempt))


def _granted(view: JobView, event: job_pb2.JobEvent) -> JobView:
    granted = event.call_granted
    attempt = view.attempts.get(key_of(granted.ref))
    if attempt is None:
        return view
    return _with(view, replace(attempt, call=granted.grant.call, grant=granted.grant.tokens))


def _settled_call(view: JobView, event: job_pb2.JobEvent) -> JobView:
    settled = event.call_settled
    attempt = view.attempts.get(key_of(settled.ref))
    if attempt is None or attempt.reported:
        return view
    return _with(view, _paid(attempt, settled.call))


def _finished_attempt(view: JobView, event: job_pb2.JobEvent) -> JobView:
    finished = event.attempt_finished
    return _result(view, finished.ref, finished.result, when(event.time))


def _reported(view: JobView, event: job_pb2.JobEvent) -> JobView:
    reported = event.attempt_reported
    return _result(view, reported.ref, reported.result, when(event.time))


def _result(
    view: JobView, ref: attempt_pb2.AttemptRef, result: attempt_pb2.AttemptResult, at: float
) -> JobView:
    attempt = view.attempts.get(key_of(ref))
    if attempt is None or attempt.reported:
        return view
    for call in result.calls:
        attempt = _paid(attempt, call)
    outcome = word(attempt_pb2.AttemptState, result.state)
    end = at if attempt.end is None else attempt.end
    text = result.answer.text or attempt.text
    # A late report of a lost attempt says what was unknown.
    return _with(
        view,
        replace(attempt, end=end, unknown=0, phase="", text=text, outcome=outcome),
    )


def _paid(attempt: AttemptView, call: attempt_pb2.CallUsage) -> AttemptView:
    """Books a call once, however often it is reported."""
    if call.call in attempt.settled:
        return attempt
    return replace(attempt, settled=_set(attempt.settled, call.call, tokens(call.usage)))


def _lost(view: JobView, event: job_pb2.JobEvent) -> JobView:
    lost = event.attempt_lost
    attempt = view.attempts.get(key_of(lost.ref))
    if attempt is None or not attempt.running:
        return view
    name = view.name(attempt.task_uid)
    view = _with(
        view,
        replace(
            attempt,
            end=when(event.time),
            unknown=lost.unknown_tokens,
            phase="",
            outcome=LOST,
        ),
    )
    return _notice(view, f"{name}: attempt {attempt.attempt} lost: {lost.reason}")


def _stopped(view: JobView, event: job_pb2.JobEvent) -> JobView:
    stopped = event.attempt_stopped
    why = word(attempt_pb2.StopReason, stopped.reason)
    note = f": {stopped.note}" if stopped.note else ""
    return _notice(view, f"{view.name(stopped.ref.task_uid)}: told to stop ({why}){note}")


def _interrupt(view: JobView, event: job_pb2.JobEvent) -> JobView:
    return _notice(view, _asked("an answer was asked for now", event.interrupt_requested.reason))


def _cancel(view: JobView, event: job_pb2.JobEvent) -> JobView:
    return _notice(view, _asked("cancelling was asked for", event.cancel_requested.reason))


def _asked(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _topped_up(view: JobView, event: job_pb2.JobEvent) -> JobView:
    added = event.budget_granted.tokens
    return _notice(
        replace(view, budget=view.budget + added), f"{added:,} tokens were added to the budget"
    )


def _finished(view: JobView, event: job_pb2.JobEvent) -> JobView:
    return replace(
        view,
        state=event.job_finished.state,
        reason=event.job_finished.reason,
        finished=event.job_finished,
    )


def _with(view: JobView, attempt: AttemptView) -> JobView:
    key = (attempt.task_uid, attempt.attempt)
    return replace(view, attempts=_set(view.attempts, key, attempt))


def _notice(view: JobView, text: str) -> JobView:
    return replace(view, notices=(*view.notices, text)[-_MAX_NOTICES:])


_STEPS = {
    "job_created": _created,
    "state_changed": _state,
    "shape_decided": _shape,
    "task_admitted": _admitted,
    "plan_closed": _closed,
    "task_settled": _settled_task,
    "attempt_started": _started,
    "call_granted": _granted,
    "call_settled": _settled_call,
    "attempt_finished": _finished_attempt,
    "attempt_lost": _lost,
    "attempt_stopped": _stopped,
    "attempt_reported": _reported,
    "interrupt_requested": _interrupt,
    "cancel_requested": _cancel,
    "budget_granted": _topped_up,
    "job_finished": _finished,
}
