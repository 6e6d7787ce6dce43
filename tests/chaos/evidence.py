"""What must be true of a run's jobs, whatever has happened, read from PostgreSQL itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from google.protobuf import text_format

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import JobFold
from services.meta_agent.store.append import from_row
from tests.chaos.jobs import Taken
from tests.integration.store.ledgers import folded_calls, ledger_calls, read_ledger
from tests.scripted_llm.journal import Counted

LATE = 3.0
"""Seconds past its deadline within which a job must have ended."""

_HUNG_UP = "the driver of the attempt was lost"
_LATE = "SELECT extract(epoch FROM end_time - deadline)::float8 FROM job WHERE id = $1"


@dataclass(frozen=True)
class Verdict:
    """What was found of one job.

    Attributes:
        faults: What is wrong; nothing when all is well.
        known: Tokens in the ledger.
        unknown: Upper bound of what else may have been spent.
        counted: What the server counted.
        budget: What it might spend.
        exact: Whether the ledger must be what the server counted.
        lost: Why its attempts were written off, each.
        dropped: Attempts that ended because their driver hung up.
    """

    job_id: str
    faults: list[str]
    state: str
    known: int = 0
    unknown: int = 0
    counted: int = 0
    budget: int = 0
    exact: bool = False
    lost: tuple[str, ...] = ()
    dropped: int = 0


async def read_log(connection: asyncpg.Connection, job_id: str) -> list[job_pb2.JobEvent]:
    """A job's whole log."""
    rows = await connection.fetch(
        "SELECT sequence, payload FROM job_event WHERE job_id = $1 ORDER BY sequence", job_id
    )
    return [from_row(row["sequence"], row["payload"]) for row in rows]


async def judge(
    connection: asyncpg.Connection, taken: Taken, counted: Sequence[Counted], logs: Path
) -> Verdict:
    """Looks at one job that should have ended; a log with faults is kept beside the others."""
    row = await connection.fetchrow("SELECT * FROM job WHERE id = $1", taken.job_id)
    if row is None:
        return Verdict(taken.job_id, ["it was accepted, and is not there"], "")
    events = await read_log(connection, taken.job_id)
    faults = [*_order(row, events, taken)]
    if not row["sealed"]:
        faults.append(f"it has not ended: {row['state_reason']}")
    else:
        late = await connection.fetchval(_LATE, taken.job_id)
        if late > LATE:
            faults.append(f"it ended {late:.1f} s after its deadline")
    fold = JobFold()
    for event in events:
        fold = apply(fold, event)
        if fold.spent + fold.unknown + fold.outstanding > fold.budget:
            faults.append(f"event {event.sequence} is beyond the budget")
    faults += _repeated(events)
    if taken.order.command and not taken.obeyed:
        faults.append("its command was never taken")
    if ledger_calls(await read_ledger(connection, taken.job_id)) != folded_calls(fold):
        faults.append("ledger_entry is not what the log folds to")
    total = sum(call.tokens for call in counted if call.job_id == taken.job_id)
    verdict = Verdict(
        taken.job_id,
        faults,
        job_pb2.JobState.Name(fold.state),
        fold.spent,
        fold.unknown,
        total,
        fold.budget,
        fold.unknown == 0 and _all_exact(fold),
        tuple(e.attempt_lost.reason for e in events if e.HasField("attempt_lost")),
        sum(_HUNG_UP in e.attempt_reported.result.failure.message for e in events),
    )
    faults += _money(verdict, fold)
    if faults:
        keep(logs / f"{taken.order.name}-{taken.job_id}.txt", events, counted)
    return verdict


def keep(path: Path, events: Sequence[job_pb2.JobEvent], counted: Sequence[Counted]) -> None:
    """Writes a job's log, and what the server counted for it, where a person can read it."""
    calls = [each for each in counted if each.job_id == events[0].job_id]
    lines = [text_format.MessageToString(event, as_one_line=True) for event in events]
    path.write_text("\n".join([*lines, *map(str, calls)]) + "\n")


def _order(row: Any, events: Sequence[job_pb2.JobEvent], taken: Taken) -> list[str]:
    faults = []
    sequences = list(range(1, len(events) + 1))
    if [e.sequence for e in events] != sequences or row["version"] != len(events):
        faults.append("the sequence has gaps")
    if len({e.event_id for e in events}) != len(events):
        faults.append("an event is there twice")
    if taken.seen != sequences[: len(taken.seen)]:
        faults.append(f"its watcher saw {taken.seen}")
    if len(taken.seen) != len(events):
        faults.append(f"its watcher saw {len(taken.seen)} of {len(events)} events")
    return faults


def _repeated(events: Sequence[job_pb2.JobEvent]) -> list[str]:
    """Tasks that were begun again after their first whole result."""
    done: set[str] = set()
    faults = []
    for event in events:
        started = event.attempt_started.ref.task_uid
        if event.HasField("attempt_started") and started in done:
            faults.append(f"event {event.sequence}: {started} runs again after it was done")
        for ended in (event.attempt_finished, event.attempt_reported):
            if ended.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED:
                done.add(ended.ref.task_uid)
    return faults


def _all_exact(fold: JobFold) -> bool:
    exact = common_pb2.ACCURACY_EXACT
    return all(row.call.usage.accuracy == exact for row in fold.rows)


def _money(verdict: Verdict, fold: JobFold) -> list[str]:
    """known <= counted <= known + unknown <= budget (SPINE, section 4), for one job."""
    exact = sum(
        row.call.usage.prompt_tokens + row.call.usage.completion_tokens
        for row in fold.rows
        if row.call.usage.accuracy == common_pb2.ACCURACY_EXACT
    )
    most = verdict.known + verdict.unknown
    equal = verdict.counted == verdict.known or not verdict.exact
    if exact <= verdict.counted <= most <= verdict.budget and equal:
        return []
    return [
        f"exact {exact}, known {verdict.known}, counted {verdict.counted}, "
        f"known and unknown {most}, budget {verdict.budget}"
    ]
