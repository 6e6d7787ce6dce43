"""Ends work early: cancelled, interrupted, out of time, failing fast."""

from __future__ import annotations

import math

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.state import JobFold


def why_stop(fold: JobFold, now: float, late: float) -> common_pb2.Failure | None:
    """Why no more work may be started; None while it may."""
    if fold.cancelled is not None:
        return _because(common_pb2.FAILURE_CLASS_CANCELLED, "the job was cancelled", fold.cancelled)
    if fold.interrupted is not None:
        words = "the job was interrupted: answer now"
        return _because(common_pb2.FAILURE_CLASS_CANCELLED, words, fold.interrupted)
    if now >= late:
        return _because(common_pb2.FAILURE_CLASS_TIMEOUT, "the deadline is near", "")
    if fold.created.policy.failure_policy == job_pb2.FAILURE_POLICY_FAIL_FAST:
        failed = next(
            (t for t in fold.tasks.values() if t.state == job_pb2.TASK_STATE_FAILED), None
        )
        if failed is not None:
            words = f"task {failed.task.id} failed, and the job's policy is to fail fast"
            return _because(common_pb2.FAILURE_CLASS_CANCELLED, words, "")
    return None


def stop_work(turn: Turn) -> None:
    """Tells what runs to end, where it has to."""
    if turn.fold.cancelled is not None:
        _stop_all(turn, attempt_pb2.STOP_REASON_CANCEL, "the job was cancelled")
        return
    late = work_deadline(turn.fold, turn.rules)
    turn.wake(late if turn.now < late else turn.fold.deadline)
    why = why_stop(turn.fold, turn.now, late)
    if why is not None:
        late = why.failure_class == common_pb2.FAILURE_CLASS_TIMEOUT
        reason = attempt_pb2.STOP_REASON_TIMEOUT if late else attempt_pb2.STOP_REASON_INTERRUPT
        _stop_all(turn, reason, why.message, reducing=False)
    _stop_late_attempts(turn)
    _stop_late_layers(turn)
    _stop_needless(turn)


def _stop_all(
    turn: Turn, reason: attempt_pb2.StopReason.ValueType, note: str, *, reducing: bool = True
) -> None:
    for attempt in list(turn.fold.open_attempts()):
        if reducing or attempt.role != common_pb2.ROLE_REDUCER:
            turn.stop_attempt(attempt, reason, note)


def _stop_needless(turn: Turn) -> None:
    """Ends attempts at what another one has done: its report came late, but first."""
    for attempt in list(turn.fold.open_attempts()):
        done = turn.fold.has_succeeded(attempt.uid)
        if attempt.role == common_pb2.ROLE_REDUCER:
            done = turn.fold.answer is not None
        if done:
            turn.stop_attempt(attempt, attempt_pb2.STOP_REASON_CANCEL, "it is done already")


def _stop_late_attempts(turn: Turn) -> None:
    for attempt in list(turn.fold.open_attempts()):
        if attempt.stop is not None:
            continue
        if turn.now >= attempt.deadline:
            turn.stop_attempt(attempt, attempt_pb2.STOP_REASON_TIMEOUT, "its time is up")
        else:
            turn.wake(attempt.deadline)


def _stop_late_layers(turn: Turn) -> None:
    """With waves, a layer has a time limit of its own, from its first start."""
    ends = layer_ends(turn.fold)
    for attempt in list(turn.fold.open_attempts()):
        task = turn.fold.tasks.get(attempt.uid)
        if task is None or task.layer not in ends:
            continue
        end = ends[task.layer]
        if turn.now >= end:
            turn.stop_attempt(attempt, attempt_pb2.STOP_REASON_TIMEOUT, "its layer's time is up")
        else:
            turn.wake(end)


def layer_ends(fold: JobFold) -> dict[int, float]:
    """When the time of each layer that has started is up; empty without a limit."""
    policy = fold.created.policy
    if policy.dispatch != job_pb2.DISPATCH_WAVES or not policy.HasField("layer_timeout"):
        return {}
    limit = policy.layer_timeout.seconds + policy.layer_timeout.nanos / 1e9
    ends: dict[int, float] = {}
    for attempt in fold.attempts.values():
        task = fold.tasks.get(attempt.uid)
        if task is not None:
            ends[task.layer] = min(attempt.start + limit, ends.get(task.layer, math.inf))
    return ends


def _because(
    failure_class: common_pb2.FailureClass.ValueType, words: str, detail: str
) -> common_pb2.Failure:
    message = f"{words}: {detail}" if detail else words
    return common_pb2.Failure(
        failure_class=failure_class, message=message, role=common_pb2.ROLE_META_AGENT
    )
