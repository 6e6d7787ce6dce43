"""`apply(fold, event) -> fold`: how each event changes a job. Pure; never decides.

The same log folds to the same state on every replica and for ever. An event that
a state has no use for (a late report of an attempt that is settled) changes
nothing but the version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from hma.v1 import attempt_pb2, job_pb2
from services.meta_agent.job.booking import settle_calls, unknown_row
from services.meta_agent.job.frozen_maps import put, without
from services.meta_agent.job.quota_words import waiting_reason
from services.meta_agent.job.results import merged
from services.meta_agent.job.state import (
    REDUCE_UID_PREFIX,
    AttemptFold,
    AttemptStatus,
    JobFold,
    TaskFold,
)
from services.meta_agent.job.times import seconds
from services.meta_agent.job.trimming import plan_trimmed, tokens_moved

Applier = Callable[[JobFold, job_pb2.JobEvent], JobFold]


def apply(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    """The state after `event`.

    Raises:
        ValueError: The event is of a kind that this version does not know
            (`min_reader` keeps older replicas away from such logs).
    """
    kind = event.WhichOneof("payload")
    if kind is None:
        raise ValueError(f"event {event.event_id} of job {event.job_id} has no payload")
    folded = _APPLIERS[kind](fold, event)
    return replace(folded, version=max(fold.version, event.sequence))


def fold_events(events: Iterable[job_pb2.JobEvent], fold: JobFold | None = None) -> JobFold:
    """Folds a log, or the rest of one, into a state."""
    state = fold if fold is not None else JobFold()
    for event in events:
        state = apply(state, event)
    return state


def _created(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    created = event.job_created
    return replace(
        fold,
        job_id=event.job_id,
        created=created,
        create_time=seconds(event.time),
        deadline=seconds(created.deadline_time),
        state=job_pb2.JOB_STATE_QUEUED,
        reason="waits for a driver",
        budget=created.budget.max_tokens,
        max_cost=created.budget.max_cost,
        drawn=0 if created.draws_quota else None,
    )


def _claimed(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    now = seconds(event.time)
    replica = event.job_claimed.replica
    return replace(
        fold,
        epoch=event.job_claimed.epoch,
        claimed=now,
        replica=replica,
        takeovers=fold.takeovers + (fold.replica not in ("", replica)),
        start_time=fold.start_time or now,
    )


def _state_changed(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    change = event.state_changed
    return replace(fold, state=change.to, reason=change.reason)


def _shape_decided(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    return replace(fold, shape=event.shape_decided)


def _brief_written(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    return replace(fold, brief=event.brief_written.brief)


def _task_admitted(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    admitted = event.task_admitted
    task = TaskFold(
        uid=admitted.task_uid,
        task=admitted.task,
        layer=admitted.layer_id,
        source=admitted.source,
        allotted=admitted.allotted_tokens,
        value=admitted.value if admitted.HasField("value") else None,
        redoes=admitted.redoes_task_uid,
    )
    uids = fold.uids if task.task.id in fold.uids else put(fold.uids, task.task.id, task.uid)
    return replace(fold, tasks=put(fold.tasks, task.uid, task), uids=uids)


def _plan_closed(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    closed = event.plan_closed
    return replace(fold, plan_closed=closed, unfunded=(*fold.unfunded, *closed.unfunded))


def _task_settled(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    settled = event.task_settled
    task = fold.tasks.get(settled.task_uid)
    if task is None or task.settled:
        return fold
    done = replace(
        task,
        state=settled.state,
        failure=settled.failure if settled.HasField("failure") else None,
    )
    return replace(
        fold,
        tasks=put(fold.tasks, task.uid, done),
        deferred=without(fold.deferred, task.uid),
    )


def _round_judged(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    judged = event.round_judged
    best = fold.answer
    if judged.keeps_previous_answer and fold.previous_answer is not None:
        best = fold.previous_answer
    fold = replace(fold, rounds=(*fold.rounds, judged))
    if not judged.another_round:
        return replace(fold, answer=best)
    return replace(fold, round=fold.round + 1, answer=None, previous_answer=best)


def _attempt_started(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    started = event.attempt_started
    attempt = AttemptFold(
        uid=started.ref.task_uid,
        number=started.ref.attempt,
        role=started.role,
        route=started.route,
        epoch=started.ref.epoch,
        grant=started.grant,
        start=seconds(event.time),
        deadline=seconds(started.deadline_time),
    )
    fold = replace(fold, attempts=put(fold.attempts, attempt.key, attempt))
    task = fold.tasks.get(attempt.uid)
    if task is None:
        return fold
    running = replace(task, state=job_pb2.TASK_STATE_RUNNING, attempts=task.attempts + 1)
    return replace(fold, tasks=put(fold.tasks, task.uid, running))


def _call_granted(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    granted = event.call_granted
    attempt = _find(fold, granted.ref)
    if attempt is None or not attempt.open:
        return fold
    given = replace(
        attempt,
        grant=granted.grant,
        grants=attempt.grants + 1,
        calls_left=granted.intent.calls_left,
        prompt_tokens=granted.intent.prompt_tokens,
        deferred=None,
    )
    return replace(fold, attempts=put(fold.attempts, given.key, given))


def _call_settled(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    settled = event.call_settled
    attempt = _find(fold, settled.ref)
    if attempt is None or attempt.status is AttemptStatus.FINISHED:
        return fold
    return settle_calls(fold, event, attempt, [settled.call], [settled.cost])


def _attempt_finished(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    finished = event.attempt_finished
    return _finish(fold, event, finished.ref, finished.result, finished.costs)


def _attempt_reported(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    reported = event.attempt_reported
    return _finish(fold, event, reported.ref, reported.result, reported.costs)


def _finish(
    fold: JobFold,
    event: job_pb2.JobEvent,
    ref: attempt_pb2.AttemptRef,
    result: attempt_pb2.AttemptResult,
    costs: Iterable[float],
) -> JobFold:
    attempt = _find(fold, ref)
    if attempt is None or attempt.status is AttemptStatus.FINISHED:
        return fold
    # A late report replaces what was unknown by what is known.
    if attempt.unknown:
        back = unknown_row(attempt, event, -attempt.unknown)
        rows = (*fold.rows, back)
        fold = replace(fold, unknown=fold.unknown - attempt.unknown, rows=rows)
    fold = settle_calls(fold, event, attempt, result.calls, costs)
    attempt = fold.attempts[attempt.key]
    done = replace(
        attempt,
        status=AttemptStatus.FINISHED,
        unknown=0,
        result=result,
        end=attempt.end or seconds(event.time),
    )
    fold = replace(fold, attempts=put(fold.attempts, done.key, done))
    if result.HasField("answer") and done.uid.startswith(REDUCE_UID_PREFIX):
        # One of a round that is over comes too late: another has begun. One of a Reducer that
        # had to leave in the middle stays with the attempt: the next one may do better.
        late = done.uid != fold.reduce_uid or (done.handed_over and not done.succeeded)
        return fold if late else replace(fold, answer=fold.answer or result.answer)
    return _keep_result(fold, done)


def _keep_result(fold: JobFold, attempt: AttemptFold) -> JobFold:
    """The first whole result of a task wins; until then answers are collected by item.

    Also after the task was given up: a late answer is no worse for it.
    """
    task, result = fold.tasks.get(attempt.uid), attempt.result
    if task is None or result is None or not result.HasField("task"):
        return fold
    if task.state == job_pb2.TASK_STATE_SUCCEEDED or task.merged_into:
        return fold
    others = (a for a in fold.attempts_of(attempt.uid) if a.key != attempt.key)
    if any(other.succeeded for other in others):
        return fold
    kept = result.task
    if task.result is not None and not attempt.succeeded:
        kept = merged(task.result, result.task)
    return replace(fold, tasks=put(fold.tasks, task.uid, replace(task, result=kept)))


def _attempt_lost(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    lost = event.attempt_lost
    attempt = _find(fold, lost.ref)
    if attempt is None or not attempt.open:
        return fold
    gone = replace(
        attempt,
        status=AttemptStatus.LOST,
        unknown=lost.unknown_tokens,
        lost_reason=lost.reason,
        orphaned=event.epoch > attempt.epoch,
        end=seconds(event.time),
    )
    rows = fold.rows
    if lost.unknown_tokens:
        rows = (*rows, unknown_row(attempt, event, lost.unknown_tokens))
    return replace(
        fold,
        unknown=fold.unknown + lost.unknown_tokens,
        rows=rows,
        attempts=put(fold.attempts, gone.key, gone),
    )


def _attempt_stopped(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    stopped = event.attempt_stopped
    attempt = _find(fold, stopped.ref)
    if attempt is None or not attempt.open:
        return fold
    told = replace(attempt, stop=stopped.reason, stop_time=seconds(event.time), cause=stopped.cause)
    return replace(fold, attempts=put(fold.attempts, told.key, told))


def _interrupt_requested(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    if fold.interrupted is not None:
        return fold
    return replace(fold, interrupted=event.interrupt_requested.reason)


def _cancel_requested(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    if fold.cancelled is not None:
        return fold
    return replace(fold, cancelled=event.cancel_requested.reason)


def _budget_granted(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    granted = event.budget_granted
    # Money cannot make an unlimited job a limited one.
    cost = fold.max_cost + granted.cost if fold.max_cost else 0.0
    return replace(
        fold,
        budget=fold.budget + granted.tokens,
        max_cost=cost,
        added=fold.added + granted.tokens,
    )


def _quota_drawn(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    drawn = event.quota_drawn
    retry = seconds(drawn.retry_time) if drawn.HasField("retry_time") else 0.0
    fold = replace(fold, quota_limit=drawn.limit, quota_retry=retry)
    if fold.drawn is not None:
        fold = replace(fold, drawn=drawn.total_tokens)
    if not fold.start_time:
        # Nobody drives it yet: it waits to be accepted, or for a driver.
        reason = waiting_reason(drawn.limit, retry) if drawn.limit else "waits for a driver"
        fold = replace(fold, reason=reason)
    return fold


def _call_deferred(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    deferred = event.call_deferred
    attempt = _find(fold, deferred.ref)
    if attempt is None or not attempt.open:
        return fold
    waits = replace(attempt, deferred=deferred.intent, prompt_tokens=deferred.intent.prompt_tokens)
    return replace(fold, attempts=put(fold.attempts, waits.key, waits))


def _job_finished(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    finished = event.job_finished
    return replace(
        fold,
        finished=finished,
        state=finished.state,
        reason=finished.reason,
        end_time=seconds(event.time),
        answer=finished.answer if finished.HasField("answer") else None,
        deferred=MappingProxyType({}),
    )


def _find(fold: JobFold, ref: attempt_pb2.AttemptRef) -> AttemptFold | None:
    return fold.attempts.get((ref.task_uid, ref.attempt))


_APPLIERS: Mapping[str, Applier] = MappingProxyType(
    {
        "job_created": _created,
        "job_claimed": _claimed,
        "state_changed": _state_changed,
        "shape_decided": _shape_decided,
        "brief_written": _brief_written,
        "task_admitted": _task_admitted,
        "plan_closed": _plan_closed,
        "task_settled": _task_settled,
        "attempt_started": _attempt_started,
        "call_granted": _call_granted,
        "call_settled": _call_settled,
        "attempt_finished": _attempt_finished,
        "attempt_lost": _attempt_lost,
        "attempt_stopped": _attempt_stopped,
        "attempt_reported": _attempt_reported,
        "interrupt_requested": _interrupt_requested,
        "cancel_requested": _cancel_requested,
        "budget_granted": _budget_granted,
        "job_finished": _job_finished,
        "tokens_moved": tokens_moved,
        "plan_trimmed": plan_trimmed,
        "round_judged": _round_judged,
        "quota_drawn": _quota_drawn,
        "call_deferred": _call_deferred,
    }
)
