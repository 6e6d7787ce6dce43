"""What follows a failure: one table, by class, which a job may change for itself.

`rule_for` is the only place that says so; retrying, settling, stopping and routing read
it. The defaults: a failure that may be the route's is tried again on another route; being
told to slow down is waited out; what would fail the same way again ends its task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold

FailureClass = common_pb2.FailureClass
Action = job_pb2.FailureAction

_RETRY = job_pb2.FAILURE_ACTION_RETRY
_FALLBACK = job_pb2.FAILURE_ACTION_FALLBACK
_GIVE_UP = job_pb2.FAILURE_ACTION_GIVE_UP

DEFAULTS: Mapping[FailureClass.ValueType, Action.ValueType] = MappingProxyType(
    {
        common_pb2.FAILURE_CLASS_TRANSIENT: _FALLBACK,
        common_pb2.FAILURE_CLASS_RATE_LIMITED: _RETRY,
        common_pb2.FAILURE_CLASS_TIMEOUT: _FALLBACK,
        common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW: _GIVE_UP,
        common_pb2.FAILURE_CLASS_INVALID_OUTPUT: _FALLBACK,
        common_pb2.FAILURE_CLASS_REFUSED: _GIVE_UP,
        common_pb2.FAILURE_CLASS_AUTH: _GIVE_UP,
        common_pb2.FAILURE_CLASS_BUDGET: _GIVE_UP,
        common_pb2.FAILURE_CLASS_CANCELLED: _GIVE_UP,
        common_pb2.FAILURE_CLASS_INTERNAL: _FALLBACK,
    }
)
"""What follows a failure of a class when the job does not say."""

ROUTES_FAULT = frozenset(
    {
        common_pb2.FAILURE_CLASS_TRANSIENT,
        common_pb2.FAILURE_CLASS_TIMEOUT,
        common_pb2.FAILURE_CLASS_AUTH,
    }
)
"""Failures of calls that are the route's rather than the task's. RATE_LIMITED is none: the
route works, and is asked for too much. INTERNAL is none: most often the server has rejected
what this very task asks for, and another job's tasks must not suffer for it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a job does about failures of one class.

    Attributes:
        action: What follows.
        attempts: Tries that the class may cost a task before `action`, or with RETRY and
            FALLBACK before giving up; 0: the job's own number, or at once.
    """

    action: Action.ValueType
    attempts: int = 0


def rule_for(policy: job_pb2.JobPolicy, failure_class: FailureClass.ValueType) -> Rule:
    """The rule of a class: the policy's where it has one, else the default."""
    known = failure_class or common_pb2.FAILURE_CLASS_INTERNAL
    for rule in policy.failure_rules:
        if rule.failure_class == known:
            return Rule(rule.action or DEFAULTS.get(known, _GIVE_UP), rule.max_attempts)
    return Rule(DEFAULTS.get(known, _GIVE_UP))


def class_of(attempt: AttemptFold) -> FailureClass.ValueType:
    """The class of an attempt that is over; a lost one is TRANSIENT."""
    if attempt.status is AttemptStatus.LOST or attempt.result is None:
        return common_pb2.FAILURE_CLASS_TRANSIENT
    return attempt.result.failure.failure_class or common_pb2.FAILURE_CLASS_INTERNAL


def may_retry(
    policy: job_pb2.JobPolicy,
    failure_class: FailureClass.ValueType,
    counted: Sequence[AttemptFold],
    allowed: int,
) -> bool:
    """Whether a task is tried again after a failure of a class.

    A class with a number of its own is counted by itself; the others share the job's.

    Args:
        policy: The job's.
        failure_class: Of the latest failure.
        counted: The attempts that count as tries.
        allowed: Tries per task for classes without a number of their own.
    """
    rule = rule_for(policy, failure_class)
    if rule.attempts:
        return sum(class_of(a) == failure_class for a in counted) < rule.attempts
    if rule.action not in (_RETRY, _FALLBACK):
        return False
    shared = [a for a in counted if not rule_for(policy, class_of(a)).attempts]
    return len(shared) < allowed


def shunned(policy: job_pb2.JobPolicy, attempts: Sequence[AttemptFold]) -> frozenset[str]:
    """Routes that a task's attempts have failed on, and that its next one is not to take."""
    return frozenset(attempt.route for attempt in attempts if _shuns(policy, attempt))


def _shuns(policy: job_pb2.JobPolicy, attempt: AttemptFold) -> bool:
    if attempt.refused or attempt.handed_over:
        return False
    if attempt.stop is not None:
        return True
    # One that was lost, or that its service gave up as it had to end, died of its service:
    # the route may be the best there is.
    transient = class_of(attempt) == common_pb2.FAILURE_CLASS_TRANSIENT
    if transient and not attempt.failed_calls:
        return False
    return rule_for(policy, class_of(attempt)).action == _FALLBACK


def stops_the_job(fold: JobFold) -> common_pb2.Failure | None:
    """The failure of a task that ends the job by its policy; None when there is none."""
    policy = fold.created.policy
    stop = job_pb2.FAILURE_ACTION_STOP_JOB
    if not any(rule.action == stop for rule in policy.failure_rules):
        return None
    tries: dict[tuple[str, int], int] = {}
    for attempt in fold.attempts.values():
        if attempt.uid not in fold.tasks or not _has_failed(attempt):
            continue
        failed = class_of(attempt)
        rule = rule_for(policy, failed)
        key = attempt.uid, failed
        tries[key] = tries.get(key, 0) + 1
        if rule.action == stop and tries[key] >= max(rule.attempts, 1):
            name = fold.tasks[attempt.uid].task.id
            words = attempt.lost_reason
            if attempt.result is not None:
                words = attempt.result.failure.message or words
            return common_pb2.Failure(
                failure_class=failed,
                message=f"task {name} failed, and the job's rule for "
                f"{FailureClass.Name(failed).removeprefix('FAILURE_CLASS_')} stops it: {words}",
                role=common_pb2.ROLE_META_AGENT,
            )
    return None


def _has_failed(attempt: AttemptFold) -> bool:
    """Whether it is over for a reason of its own, and says which."""
    if attempt.stop is not None or attempt.handed_over:
        return False  # nor when it was lost after that
    if attempt.status is AttemptStatus.LOST:
        return True
    if attempt.result is None or attempt.refused:
        return False
    return attempt.result.HasField("failure")
