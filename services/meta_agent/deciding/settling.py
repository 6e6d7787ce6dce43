"""Tasks whose last attempt is over: done, to be tried again, failed or skipped."""

from __future__ import annotations

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.retrying import counted, is_retried
from services.meta_agent.deciding.stopping import layer_ends, why_stop
from services.meta_agent.deciding.turn import Turn, failure
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold, TaskFold

BAD_ENDS = frozenset({job_pb2.TASK_STATE_FAILED, job_pb2.TASK_STATE_SKIPPED})


def settle_tasks(turn: Turn) -> None:
    """Settles every task that nothing more is to be expected of.

    In the order of admission, so that a failure reaches all descendants at once.
    """
    running = {attempt.uid for attempt in turn.fold.open_attempts()}
    why = why_stop(turn.fold, turn.now, turn.rules.work_deadline(turn.fold))
    ends = layer_ends(turn.fold)
    for uid in list(turn.fold.tasks):
        task = turn.fold.tasks[uid]
        if task.settled or uid in running:
            continue
        stopped = why
        if stopped is None and turn.now >= ends.get(task.layer, turn.now + 1):
            stopped = failure(common_pb2.FAILURE_CLASS_TIMEOUT, "its layer's time is up")
        _settle(turn, task, stopped)


def _settle(turn: Turn, task: TaskFold, stopped: common_pb2.Failure | None) -> None:
    attempts = turn.fold.attempts_of(task.uid)
    last = attempts[-1] if attempts else None
    whole = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
    if any(a.result is not None and a.result.state == whole for a in attempts):
        turn.settle_task(task, job_pb2.TASK_STATE_SUCCEEDED)
    elif stopped is not None:
        _end_short(turn, task, stopped)
    elif last is None:
        blocker = failed_dependency(turn.fold, task)
        if blocker is not None:
            words = f"task {blocker.task.id}, which it needs, did not succeed"
            turn.settle_task(
                task,
                job_pb2.TASK_STATE_SKIPPED,
                failure(common_pb2.FAILURE_CLASS_CANCELLED, words),
            )
    elif not _again(turn, task, attempts, last):
        _end_short(turn, task, _failure_of(last))


def _again(turn: Turn, task: TaskFold, attempts: list[AttemptFold], last: AttemptFold) -> bool:
    if last.refused:
        return True
    if counted(attempts) >= turn.rules.attempts_allowed(turn.fold) or not is_retried(last):
        return False
    # Answers that are there are kept; only what failed outright is bought again.
    return task.result is None or not task.result.items


def _end_short(turn: Turn, task: TaskFold, why: common_pb2.Failure) -> None:
    if task.result is not None and task.result.items:
        state = job_pb2.TASK_STATE_PARTIAL
    else:
        state = job_pb2.TASK_STATE_FAILED if task.attempts else job_pb2.TASK_STATE_SKIPPED
    turn.settle_task(task, state, why)


def _failure_of(attempt: AttemptFold) -> common_pb2.Failure:
    if attempt.status is AttemptStatus.LOST or attempt.result is None:
        words = f"its attempt was lost: {attempt.lost_reason}"
        return failure(common_pb2.FAILURE_CLASS_TRANSIENT, words)
    if attempt.result.HasField("failure"):
        return attempt.result.failure
    return failure(common_pb2.FAILURE_CLASS_INTERNAL, "it ended without a result or a reason")


def failed_dependency(fold: JobFold, task: TaskFold) -> TaskFold | None:
    """A critical task before this one that did not succeed; None when there is none."""
    for name in task.task.depends_on:
        dependency = fold.task_by_id(name)
        if dependency is not None and dependency.task.critical and dependency.state in BAD_ENDS:
            return dependency
        if dependency is not None and dependency.state == job_pb2.TASK_STATE_SKIPPED:
            # Skipped for a critical task further up: the chain goes on.
            above = failed_dependency(fold, dependency)
            if above is not None:
                return above
    return None
