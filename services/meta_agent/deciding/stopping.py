"""Ends work early: cancelled, interrupted, out of time, failing fast, needless."""

from __future__ import annotations

import math

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.failing import stops_the_job
from services.meta_agent.deciding.interrupting import interrupt_work
from services.meta_agent.deciding.rules import is_on
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.state import AttemptFold, JobFold


def why_stop(fold: JobFold, now: float, late: float) -> common_pb2.Failure | None:
    """Why no more work may be started; None while it may."""
    if fold.cancelled is not None:
        return _because(common_pb2.FAILURE_CLASS_CANCELLED, "the job was cancelled", fold.cancelled)
    if fold.interrupted is not None:
        words = "the job was interrupted: answer now"
        return _because(common_pb2.FAILURE_CLASS_CANCELLED, words, fold.interrupted)
    if now >= late:
        return _because(common_pb2.FAILURE_CLASS_TIMEOUT, "the deadline is near", "")
    stopping = stops_the_job(fold)
    if stopping is not None:
        return stopping
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
        cause = job_pb2.INTERRUPT_CAUSE_CANCEL
        _stop_all(turn, attempt_pb2.STOP_REASON_CANCEL, "the job was cancelled", cause)
        return
    late = work_deadline(turn.fold, turn.rules)
    turn.wake(late if turn.now < late else turn.fold.deadline)
    why = why_stop(turn.fold, turn.now, late)
    if why is not None:
        cause = _cause(turn, late)
        reason = attempt_pb2.STOP_REASON_INTERRUPT
        if cause == job_pb2.INTERRUPT_CAUSE_DEADLINE:
            reason = attempt_pb2.STOP_REASON_TIMEOUT
        _stop_all(turn, reason, why.message, cause, reducing=False)
    _stop_late_attempts(turn)
    _stop_late_layers(turn)
    _stop_needless(turn)
    if is_on(turn.fold.created.policy.interruption):
        interrupt_work(turn)


def _cause(turn: Turn, late: float) -> job_pb2.InterruptCause.ValueType:
    if turn.fold.interrupted is not None:
        return job_pb2.INTERRUPT_CAUSE_CLIENT
    if turn.now >= late:
        return job_pb2.INTERRUPT_CAUSE_DEADLINE
    return job_pb2.INTERRUPT_CAUSE_FAILURE


def _stop_all(
    turn: Turn,
    reason: attempt_pb2.StopReason.ValueType,
    note: str,
    cause: job_pb2.InterruptCause.ValueType,
    *,
    reducing: bool = True,
) -> None:
    for attempt in list(turn.fold.open_attempts()):
        if reducing or attempt.role != common_pb2.ROLE_REDUCER:
            turn.stop_attempt(attempt, reason, note, cause)


def _stop_needless(turn: Turn) -> None:
    """Ends attempts at what another one has done: its report came late, but first."""
    for attempt in list(turn.fold.open_attempts()):
        done = turn.fold.has_succeeded(attempt.uid)
        if attempt.role == common_pb2.ROLE_REDUCER:
            done = turn.fold.answer is not None
        if done:
            cancel, obsolete = attempt_pb2.STOP_REASON_CANCEL, job_pb2.INTERRUPT_CAUSE_OBSOLETE
            turn.stop_attempt(attempt, cancel, "it is done already", obsolete)


def _stop_late_attempts(turn: Turn) -> None:
    for attempt in list(turn.fold.open_attempts()):
        # One of an earlier driver hears nothing any more; nor has it used up its time.
        if attempt.stop is None and attempt.epoch == turn.fold.epoch:
            _stop_at(turn, attempt, attempt.deadline, "its time is up")


def _stop_late_layers(turn: Turn) -> None:
    """With waves, a layer has a time limit of its own, from its first start."""
    ends = layer_ends(turn.fold)
    for attempt in list(turn.fold.open_attempts()):
        task = turn.fold.tasks.get(attempt.uid)
        if task is not None and task.layer in ends:
            _stop_at(turn, attempt, ends[task.layer], "its layer's time is up")


def _stop_at(turn: Turn, attempt: AttemptFold, end: float, note: str) -> None:
    if turn.now < end:
        turn.wake(end)
        return
    timeout = attempt_pb2.STOP_REASON_TIMEOUT
    turn.stop_attempt(attempt, timeout, note, job_pb2.INTERRUPT_CAUSE_TIMEOUT)


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
