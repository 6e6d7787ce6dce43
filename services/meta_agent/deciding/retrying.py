"""Whether and when a task is tried again. The class of the failure decides."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.deciding.failing import class_of, may_retry, rule_for
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import AttemptFold, AttemptKey, AttemptStatus, JobFold

_MAY_GO_BETTER = frozenset({job_pb2.INTERRUPT_CAUSE_STRAGGLER, job_pb2.INTERRUPT_CAUSE_FAILURE})
"""Stopped for these, what remains of a task is worth another try."""

CLOSED_AFTER = 3
"""Refusals in a row after which no other task is tried for a while."""

_LONGEST_ROW = 10
"""Doublings of a wait at most."""

MOST_ORPHANS = 20
"""Attempts at one task that may be lost with their drivers before that counts. Drivers that
die of a job within a minute are bounded sooner (`driving.poison`); this is for one of which
they die later, which would otherwise burn its budget until its time is up."""

FREE = frozenset(
    {
        common_pb2.FAILURE_CLASS_TRANSIENT,
        common_pb2.FAILURE_CLASS_RATE_LIMITED,
        common_pb2.FAILURE_CLASS_UNSPECIFIED,
    }
)
"""A refusal of these classes costs no try: the service is full, or not there yet."""


def is_free(attempt: AttemptFold, policy: job_pb2.JobPolicy) -> bool:
    """Whether there was merely no place for it, so that the try does not count.

    At the service, or at the model server: what it is asked to wait for is waited out,
    unless the job's rules give RATE_LIMITED a number of tries. One that has cost tokens
    and brought nothing for them counts.
    """
    if attempt.result is None or attempt.succeeded:
        return False
    if waited_for_quota(attempt) and not attempt.spent:
        return True
    failed = attempt.result.failure.failure_class
    if attempt.refused:
        return failed in FREE
    if failed != common_pb2.FAILURE_CLASS_RATE_LIMITED or attempt.stop is not None:
        return False
    rule = rule_for(policy, failed)
    waits = rule.action in (job_pb2.FAILURE_ACTION_RETRY, job_pb2.FAILURE_ACTION_FALLBACK)
    bought_nothing = attempt.spent > 0 and not attempt.result.task.items
    return waits and not rule.attempts and not bought_nothing


def waited_for_quota(attempt: AttemptFold) -> bool:
    """Whether its time ran out while a call of it waited for its tenant's quota."""
    timeout = job_pb2.INTERRUPT_CAUSE_TIMEOUT
    return attempt.deferred is not None and attempt.cause == timeout


def counted(attempts: Sequence[AttemptFold], policy: job_pb2.JobPolicy) -> list[AttemptFold]:
    """The tries that count: being told that there is no place is not one.

    Nor is one whose service or driver was stopped, and which said so, or that was lost with
    its driver, up to `MOST_ORPHANS`: neither rolling restarts nor the deaths of drivers may
    use up a task's tries. One that was lost without a word while its driver lived counts: it
    may be the cause.
    """
    spared = _spared(attempts)
    return [a for a in attempts if not is_free(a, policy) and a.key not in spared]


def _spared(attempts: Sequence[AttemptFold]) -> set[AttemptKey]:
    """Attempts that ended for no fault of the task's."""
    handed_over = [a for a in attempts if a.handed_over]
    orphans = [a.key for a in handed_over if a.orphaned]
    return {a.key for a in handed_over} - set(orphans[MOST_ORPHANS:])


def is_full(attempt: AttemptFold) -> bool:
    """Whether its service turned it away for being full: it is there, and will have a place."""
    return attempt.refused and class_of(attempt) == common_pb2.FAILURE_CLASS_RATE_LIMITED


def may_try_again(attempts: Sequence[AttemptFold], policy: job_pb2.JobPolicy, allowed: int) -> bool:
    """Whether another attempt follows the last of these, which has ended.

    Args:
        attempts: All at the task, in order; at least one.
        policy: The job's.
        allowed: Tries per task where the rule of a class names none.
    """
    last = attempts[-1]
    if is_free(last, policy) or last.key in _spared(attempts):
        return True
    tries = counted(attempts, policy)
    if last.status is AttemptStatus.FINISHED and last.stop is not None:
        again = last.cause in _MAY_GO_BETTER or waited_for_quota(last)
        return again and len(tries) < allowed
    return may_retry(policy, class_of(last), tries, allowed)


def workers_closed_until(fold: JobFold, rules: Rules) -> float:
    """Until when no task is to be tried, because Workers turned the latest ones away.

    Each task backs off by itself; this keeps a job of many tasks from trying them
    all, again and again, at Workers that are not there. 0 while they take any.
    """
    refusals, latest = 0, 0.0
    for attempt in reversed(fold.attempts.values()):  # type: ignore[call-overload]
        if attempt.role != common_pb2.ROLE_WORKER or attempt.open:
            continue
        if not attempt.refused:
            break
        refusals += 1
        latest = max(latest, attempt.end)
    if refusals < CLOSED_AFTER:
        return 0.0
    wait = rules.backoff_base * 2.0 ** min(refusals - CLOSED_AFTER, _LONGEST_ROW)
    return latest + min(wait, rules.backoff_max)


def next_try(rules: Rules, attempts: Sequence[AttemptFold]) -> float:
    """When the next attempt may start.

    Exponential in the failures in a row, jittered by up to half, never before the
    time that the service named. The jitter is a hash, so deciding stays pure.
    """
    last = attempts[-1]
    # A task that nobody takes is tried for as long as its job lasts: 2.0**1024 is no float.
    wait = rules.backoff_base * 2.0 ** min(len(attempts) - 1, _LONGEST_ROW)
    wait = min(wait, rules.backoff_max)
    name = f"{last.uid}/{last.number}/{last.start}"
    wait *= 1.0 - 0.5 * (zlib.crc32(name.encode()) / 2**32)
    if last.result is not None and last.result.failure.HasField("retry_after"):
        wait = max(wait, last.result.failure.retry_after.ToMilliseconds() / 1000)
    return last.end + wait
