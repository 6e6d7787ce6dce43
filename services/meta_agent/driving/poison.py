"""Jobs that fail their driver by a defect, or end its process, again and again.

They are left alone for longer and longer, then ended without the rule that fails.

What can be told from the log without deciding is told: the answer that the results make,
the receipt, what failed. Each part that fails itself is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.assembling import assemble_answer
from services.meta_agent.deciding.failure_report import failure_report
from services.meta_agent.deciding.money import held_money
from services.meta_agent.deciding.receipt import ledger_of
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.turn import failure
from services.meta_agent.job.apply import apply
from services.meta_agent.job.figures import agent_timings
from services.meta_agent.job.leniently import fold_what_folds
from services.meta_agent.job.state import JobFold
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.append import Append, JobSummary, VersionMoved
from services.meta_agent.store.claims import Claimed
from services.meta_agent.store.clock import Clock
from services.meta_agent.store.log import JobLog

_log = logging.getLogger(__name__)

FIRST_WAIT = 2.0
"""Seconds for which a job is left alone after its driver's first defect."""

LONGEST_WAIT = 60.0
"""Seconds for which it is left alone at most."""

PAGE = 500
"""Events read from the log at a time."""

PATIENCE = 2
"""Drivers that a job may lose in a row before it is left alone for a while."""

HEALTHY = 60.0
"""Seconds after which a driver's defect is the first again."""

T = TypeVar("T")
D = TypeVar("D")


def failures_now(before: int, drove: float) -> int:
    """Failures in a row, after a driver has driven for so many seconds and failed."""
    return 1 if drove >= HEALTHY else before + 1


def wait_after(failures: int) -> float:
    """Seconds for which nobody claims a job after so many failures in a row."""
    return min(FIRST_WAIT * 2.0 ** min(failures - 1, 16), LONGEST_WAIT)


def wait_after_losses(losses: int) -> float:
    """Seconds for which nobody claims a job whose driver was lost, process and all.

    The first two times are anybody's bad luck and cost no time. A job that ends every
    process that drives it must not take the whole fleet down at the pace of claims; yet it
    may be innocent, so it is slowed, and not ended for this before its time is up.

    Args:
        losses: How often in a row the driver was lost soon after its claim.
    """
    return wait_after(losses - PATIENCE) if losses > PATIENCE else 0.0


def last_events(
    fold: JobFold, rules: Rules, *, version: int, epoch: int, why: str, now: float
) -> tuple[tuple[job_pb2.JobEvent, ...], JobFold]:
    """The events that end a poisoned job, and the state after them.

    Args:
        fold: What its log says, as far as it can be folded.
        rules: For the receipt.
        version: The log's.
        epoch: Of the driver that ends it.
        why: Why it is not driven, for its client.
        now: Database time.
    """
    events: list[job_pb2.JobEvent] = []

    def emit(state: JobFold, **payload: object) -> JobFold:
        event = job_pb2.JobEvent(
            job_id=fold.job_id,
            event_id=f"{epoch}.{version}.{len(events)}",
            time=timestamp(now),
            epoch=epoch,
            **payload,  # type: ignore[arg-type]
        )
        events.append(event)
        return _tried(lambda: apply(state, event), state, "an event")

    after = fold
    for attempt in list(fold.open_attempts()):
        ref = attempt_pb2.AttemptRef(
            job_id=fold.job_id, epoch=attempt.epoch, task_uid=attempt.uid, attempt=attempt.number
        )
        lost = job_pb2.AttemptLost(
            ref=ref, unknown_tokens=attempt.outstanding, reason="its job cannot be driven"
        )
        after = emit(after, attempt_lost=lost)
    finished = job_pb2.JobFinished(
        state=job_pb2.JOB_STATE_FAILED,
        reason=why,
        answer=_tried(lambda: _answer(after, why), None, "the answer"),
        ledger=_tried(lambda: ledger_of(after, rules, rows=True, settled=True), None, "the ledger"),
        agent_timings=_tried(lambda: agent_timings(after), None, "the timings"),
        failure=failure(common_pb2.FAILURE_CLASS_INTERNAL, why),
        failure_report=_tried(lambda: failure_report(after), None, "the failures"),
    )
    after = emit(after, job_finished=finished)
    return tuple(events), after


async def end_poisoned(claimed: Claimed, log: JobLog, clock: Clock, rules: Rules) -> None:
    """Ends a job as FAILED with what its log holds, without deciding.

    Raises:
        Fenced: Another replica has the job.
        Unavailable: The database is away; claim the job again later.
    """
    events: list[job_pb2.JobEvent] = []
    while True:
        while page := await log.read(claimed.job_id, len(events), PAGE):
            events += page
        fold = replace(fold_what_folds(events), job_id=claimed.job_id)
        last, after = last_events(
            fold,
            rules,
            version=len(events),
            epoch=claimed.epoch,
            why=_why(claimed),
            now=clock.now(),
        )
        finished = last[-1].job_finished
        append = Append(
            job_id=claimed.job_id,
            epoch=claimed.epoch,
            events=last,
            summary=JobSummary(finished.state, finished.reason, after.spent),
            seal=True,
            expected_version=len(events),
            lost_tokens=after.unknown,
            lost_cost=_tried(lambda: held_money(after, rules), 0.0, "what is lost"),  # noqa: B023
        )
        try:
            await log.append(append)
        except VersionMoved:
            continue  # a client's wish came in between
        return


def _why(claimed: Claimed) -> str:
    if claimed.lost > PATIENCE:
        return (
            f"its time is up, and the last {claimed.lost} processes that drove the job ended "
            "while they did; their logs may say why"
        )
    return (
        f"driving the job failed {claimed.failed} times in a row by a defect of HMA; "
        "the MetaAgent's log says where"
    )


def _answer(fold: JobFold, why: str) -> task_pb2.Answer | None:
    if fold.best_answer is not None:
        return fold.best_answer
    answer = assemble_answer(fold, why)
    return answer if answer.items else None


def _tried(make: Callable[[], T], otherwise: D, what: str) -> T | D:
    """What `make` gives; `otherwise` when it is what fails."""
    try:
        return make()
    except Exception:  # noqa: BLE001 - whatever the defect is, the job must end
        _log.exception("%s of a job that cannot be driven is left out", what)
        return otherwise
