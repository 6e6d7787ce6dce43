"""What failed in a job, how often, and how it recovered: a pure function of the fold."""

from __future__ import annotations

from hma.v1 import attempt_pb2, job_pb2
from services.meta_agent.deciding.failing import FailureClass, class_of
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold

_EXAMPLE_CHARS = 300

_WANTED = frozenset(
    {
        job_pb2.INTERRUPT_CAUSE_CLIENT,
        job_pb2.INTERRUPT_CAUSE_CANCEL,
        job_pb2.INTERRUPT_CAUSE_OBSOLETE,
    }
)
"""Ended for these, an attempt has not failed."""


def failure_report(fold: JobFold) -> job_pb2.FailureReport | None:
    """What failed; None when nothing did.

    What becomes of an attempt is looked up among the later ones at its task: the first
    that succeeded recovered it.
    """
    counts: dict[FailureClass.ValueType, job_pb2.FailureCount] = {}
    lost = handed_over = 0
    for attempt in fold.attempts.values():
        if not has_failed(attempt):
            continue
        failed = class_of(attempt)
        lost += attempt.status is AttemptStatus.LOST
        handed_over += attempt.handed_over
        count = counts.setdefault(failed, job_pb2.FailureCount(failure_class=failed))
        _add(count, fold, attempt)
    if not counts and not fold.takeovers:
        return None
    ordered = sorted(counts.values(), key=lambda count: -count.count)
    return job_pb2.FailureReport(
        counts=ordered,
        lost_attempts=lost,
        handed_over_attempts=handed_over,
        takeovers=fold.takeovers,
        tokens_lost=sum(count.tokens_lost for count in ordered),
    )


def has_failed(attempt: AttemptFold) -> bool:
    """Whether an attempt is over, did not bring all, and not because it was wanted so."""
    if attempt.status is AttemptStatus.LOST:
        return attempt.cause not in _WANTED
    if attempt.result is None or attempt.succeeded or attempt.cause in _WANTED:
        return False
    failed = attempt.result.state != attempt_pb2.ATTEMPT_STATE_PARTIAL
    return failed or attempt.result.HasField("failure")


def _add(count: job_pb2.FailureCount, fold: JobFold, attempt: AttemptFold) -> None:
    count.count += 1
    words = attempt.lost_reason
    if attempt.result is not None:
        words = attempt.result.failure.message or words
    count.example = words[:_EXAMPLE_CHARS] or count.example
    later = [a for a in fold.attempts_of(attempt.uid) if a.number > attempt.number]
    recovered = next((a for a in later if a.succeeded), None)
    saved = _saved(attempt)
    if recovered is not None and recovered.route == attempt.route:
        count.retried += 1
    elif recovered is not None:
        count.fell_back += 1
    elif saved:
        count.salvaged += 1
    else:
        count.lost += 1
    if not saved:
        count.tokens_lost += attempt.spent + attempt.unknown


def _saved(attempt: AttemptFold) -> bool:
    result = attempt.result
    if result is None:
        return False
    answered = bool(result.answer.items) or bool(result.answer.text)
    return bool(result.task.items) or answered or result.HasField("plan")
