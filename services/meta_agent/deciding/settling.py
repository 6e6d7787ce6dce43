"""Tasks whose last attempt is over: done, to be tried again, failed or skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.retrying import is_free, may_try_again
from services.meta_agent.deciding.stopping import layer_ends, why_stop
from services.meta_agent.deciding.turn import Turn, failure
from services.meta_agent.job.state import AttemptFold, AttemptStatus, TaskFold

BAD_ENDS = frozenset({job_pb2.TASK_STATE_FAILED, job_pb2.TASK_STATE_SKIPPED})


def settle_tasks(turn: Turn) -> None:
    """Settles every task that nothing more is to be expected of.

    In the order of admission, so that a failure reaches all descendants at once.
    """
    running = {attempt.uid for attempt in turn.fold.open_attempts()}
    why = why_stop(turn.fold, turn.now, work_deadline(turn.fold, turn.rules))
    ends = layer_ends(turn.fold)
    uid_of = {task.task.id: uid for uid, task in turn.fold.tasks.items()}
    blocked: dict[str, str] = {}
    for uid in list(turn.fold.tasks):
        task = turn.fold.tasks[uid]
        # Dependencies were admitted before: what they came to is known by now.
        before = [uid_of[name] for name in task.task.depends_on if name in uid_of]
        blocker = _blocker([turn.fold.tasks[name] for name in before], blocked)
        if blocker is not None:
            blocked[uid] = blocker
        if task.settled or uid in running:
            continue
        if not task.attempts and why is None and blocker is None and task.layer not in ends:
            continue  # has not begun, and nothing keeps it from beginning
        stopped = why
        if stopped is None and turn.now >= ends.get(task.layer, turn.now + 1):
            stopped = failure(common_pb2.FAILURE_CLASS_TIMEOUT, "its layer's time is up")
        _settle(turn, task, stopped, blocker)


def _blocker(before: Sequence[TaskFold], blocked: Mapping[str, str]) -> str | None:
    """The critical task, among or behind `before`, that did not succeed."""
    for dependency in before:
        if dependency.task.critical and dependency.state in BAD_ENDS:
            return dependency.task.id
        if dependency.uid in blocked:
            return blocked[dependency.uid]
    return None


def _settle(
    turn: Turn, task: TaskFold, stopped: common_pb2.Failure | None, blocker: str | None
) -> None:
    attempts = turn.fold.attempts_of(task.uid)
    last = attempts[-1] if attempts else None
    if any(attempt.succeeded for attempt in attempts):
        turn.settle_task(task, job_pb2.TASK_STATE_SUCCEEDED)
    elif stopped is not None:
        _end_short(turn, task, _with_quota(turn, _with_refusal(stopped, last), last))
    elif last is None:
        if blocker is not None:
            words = f"task {blocker}, which it needs, did not succeed"
            turn.settle_task(
                task,
                job_pb2.TASK_STATE_SKIPPED,
                failure(common_pb2.FAILURE_CLASS_CANCELLED, words),
            )
    elif not _again(turn, task, attempts, last):
        _end_short(turn, task, _failure_of(last))


def _again(turn: Turn, task: TaskFold, attempts: list[AttemptFold], last: AttemptFold) -> bool:
    policy = turn.fold.created.policy
    if is_free(last, policy):
        return True
    if not may_try_again(attempts, policy, turn.rules.attempts_allowed(turn.fold)):
        return False
    # What is answered is not bought again: the next attempt gets it as done.
    return task.result is None or lacks_something(task.result)


def lacks_something(result: task_pb2.TaskResult) -> bool:
    """Whether an item is missing, or nothing but extracts that no model has read is there."""
    unread = [
        item.origin == common_pb2.ORIGIN_EXTRACT and not item.mean_logprob for item in result.items
    ]
    return bool(result.missing) or all(unread)


def _end_short(turn: Turn, task: TaskFold, why: common_pb2.Failure) -> None:
    if task.result is not None and task.result.items:
        state = job_pb2.TASK_STATE_PARTIAL
    else:
        state = job_pb2.TASK_STATE_FAILED if task.attempts else job_pb2.TASK_STATE_SKIPPED
    turn.settle_task(task, state, why)


def _with_quota(
    turn: Turn, stopped: common_pb2.Failure, last: AttemptFold | None
) -> common_pb2.Failure:
    """Why work had to stop and, when a task waited for its tenant's quota, for which limit."""
    limit = turn.fold.quota_limit
    if not limit or (last is not None and last.deferred is None):
        return stopped
    words = f"{stopped.message}, and it waited for quota: {limit}"
    return common_pb2.Failure(failure_class=stopped.failure_class, message=words, role=stopped.role)


def _with_refusal(stopped: common_pb2.Failure, last: AttemptFold | None) -> common_pb2.Failure:
    """Why work had to stop and, when nobody had taken the task, why nobody did."""
    if last is None or last.result is None or not last.refused:
        return stopped
    words = f"{stopped.message}, and it had not begun: {last.result.failure.message}"
    return common_pb2.Failure(failure_class=stopped.failure_class, message=words, role=stopped.role)


def _failure_of(attempt: AttemptFold) -> common_pb2.Failure:
    if attempt.status is AttemptStatus.LOST or attempt.result is None:
        words = f"its attempt was lost: {attempt.lost_reason}"
        return failure(common_pb2.FAILURE_CLASS_TRANSIENT, words)
    if attempt.result.HasField("failure"):
        return attempt.result.failure
    return failure(common_pb2.FAILURE_CLASS_INTERNAL, "it ended without a result or a reason")
