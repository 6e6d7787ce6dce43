"""Whether and when a task is tried again. The class of the failure decides."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold

RETRIED = frozenset(
    {
        common_pb2.FAILURE_CLASS_TRANSIENT,
        common_pb2.FAILURE_CLASS_RATE_LIMITED,
        common_pb2.FAILURE_CLASS_TIMEOUT,
        common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
        common_pb2.FAILURE_CLASS_INTERNAL,
        common_pb2.FAILURE_CLASS_UNSPECIFIED,
    }
)
"""A next attempt may go better. The others would fail the same way again."""


_MAY_GO_BETTER = frozenset({job_pb2.INTERRUPT_CAUSE_STRAGGLER, job_pb2.INTERRUPT_CAUSE_FAILURE})
"""Stopped for these, what remains of a task is worth another try."""

CLOSED_AFTER = 3
"""Refusals in a row after which no other task is tried for a while."""


FREE = frozenset(
    {
        common_pb2.FAILURE_CLASS_TRANSIENT,
        common_pb2.FAILURE_CLASS_RATE_LIMITED,
        common_pb2.FAILURE_CLASS_UNSPECIFIED,
    }
)
"""A refusal of these classes costs no try: the service is full, or not there yet."""


def is_free(attempt: AttemptFold) -> bool:
    """Whether the service merely had no place, so that the try does not count."""
    return (
        attempt.refused
        and attempt.result is not None
        and attempt.result.failure.failure_class in FREE
    )


def is_retried(attempt: AttemptFold) -> bool:
    """Whether another attempt may go better than this one, which has ended."""
    if attempt.status is AttemptStatus.LOST:
        return True
    if attempt.result is None:
        return False
    if attempt.stop is not None:
        return attempt.cause in _MAY_GO_BETTER
    return attempt.result.failure.failure_class in RETRIED


def counted(attempts: Sequence[AttemptFold]) -> int:
    """Tries that count: being told that there is no place is not one."""
    return sum(not is_free(attempt) for attempt in attempts)


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
    wait = rules.backoff_base * 2.0 ** min(refusals - CLOSED_AFTER, 10)
    return latest + min(wait, rules.backoff_max)


def next_try(rules: Rules, attempts: Sequence[AttemptFold]) -> float:
    """When the next attempt may start.

    Exponential in the failures in a row, jittered by up to half, never before the
    time that the service named. The jitter is a hash, so deciding stays pure.
    """
    last = attempts[-1]
    wait = min(rules.backoff_base * 2.0 ** (len(attempts) - 1), rules.backoff_max)
    name = f"{last.uid}/{last.number}/{last.start}"
    wait *= 1.0 - 0.5 * (zlib.crc32(name.encode()) / 2**32)
    if last.result is not None and last.result.failure.HasField("retry_after"):
        wait = max(wait, last.result.failure.retry_after.ToMilliseconds() / 1000)
    return last.end + wait
