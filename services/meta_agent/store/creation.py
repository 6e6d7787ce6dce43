"""Creating jobs, each once: a repeated request finds what the first has made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hma.errors import AlreadyExists, Unavailable
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.job.priority import turn
from services.meta_agent.store import audit
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.documents import insert_documents
from services.meta_agent.store.new_job import (
    IsLimitedError,
    NewJob,
    WasDeletedError,
    insert_events,
    insert_row,
)
from services.meta_agent.store.quota_admission import Verdict, Wish, judge
from services.meta_agent.store.quota_events import drawn_event
from services.meta_agent.store.quota_limits import Limits, draws_tokens
from services.meta_agent.store.quota_line import first_in_line, with_kept
from services.meta_agent.store.quota_lock import TenantLocks
from services.meta_agent.store.quota_queue import let_line_in
from services.meta_agent.store.quota_refusal import free_time, refusal
from services.meta_agent.store.quota_use import Use, read_use
from services.meta_agent.store.tombstones import Made, find_made

MOST_WAITING = 1000
"""Jobs of one tenant that may wait for its quota; further ones are refused."""

_TRIES = 3

_WAITING = """
SELECT count(*) FROM (
    SELECT FROM job WHERE tenant = $1 AND quota_state = 1 AND NOT sealed LIMIT $2
) AS waiting
"""
_EXISTING = """
SELECT id, fingerprint, state FROM job WHERE (tenant = $1 AND request_id = $2) OR id = $3
"""


class RequestIdReused(AlreadyExists):
    """A CreateJob has used the request_id before, for another job.

    Attributes:
        job_id: The job that it made.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"The request_id was used for another request, which made {job_id}.")
        self.job_id = job_id


@dataclass(frozen=True, slots=True)
class Created:
    """The job that a request has made, now or before.

    Attributes:
        job_id: Its id.
        state: Where it is; where it ended when it was deleted.
        made: This call made it.
        let_in: Jobs that had waited and were accepted before it, with the versions of
            their logs.
    """

    job_id: str
    state: job_pb2.JobState.ValueType
    made: bool
    let_in: Sequence[tuple[str, int]] = ()


async def create_job(
    database: Database,
    locks: TenantLocks,
    job: NewJob,
    first_event: job_pb2.JobEvent,
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]],
) -> Created:
    """Creates a job; see `Jobs.create`."""
    if first_event.job_id != job.job_id or not first_event.event_id:
        raise ValueError("the first event needs an event_id and the job's id")
    new = _New(job, first_event, documents)
    tries = 0
    while True:
        tries += 1
        try:
            made = await _make(database, locks, new)
            found = await find_created(database, job.tenant, job.request_id, job.job_id)
        except Unavailable:
            if tries >= _TRIES:
                raise
            await asyncio.sleep(0.1 * tries)
            continue
        if found is not None:
            break
        if tries >= _TRIES:  # deleted each time before it could be read
            raise Unavailable("The job could not be created; try again.", retry_after=1)
    if found.fingerprint != job.fingerprint:
        raise RequestIdReused(found.job_id)
    return Created(found.job_id, found.state, made, new.let_in if made else ())


async def find_created(
    database: Database, tenant: str, request_id: str, job_id: str = ""
) -> Made | None:
    """What a request has made, deleted or not.

    Args:
        database: Where the jobs are.
        tenant: Whose.
        request_id: The client's id of the request; empty when it gave none.
        job_id: The job that it would make.

    Raises:
        Unavailable: The database cannot be reached.
    """
    record = await database.fetchrow(_EXISTING, tenant, request_id or None, job_id)
    if record is not None:
        return Made(*record)
    return await find_made(database, tenant, request_id) if request_id else None


@dataclass(frozen=True, slots=True)
class _New:
    """A job, its first event and its documents; and whom it has let in before itself."""

    job: NewJob
    event: job_pb2.JobEvent
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]]
    let_in: list[tuple[str, int]] = field(default_factory=list)


class _WasMadeError(Exception):
    """The request has made its job before: what was written for another is taken back."""


class _NoRoomError(Exception):
    """The tenant's limits have no room; nothing was written."""

    def __init__(self, limits: Limits, use: Use, verdict: Verdict, kept: float) -> None:
        super().__init__(verdict.full)
        self.limits, self.use, self.verdict, self.kept = limits, use, verdict, kept


async def _make(database: Database, locks: TenantLocks, new: _New) -> bool:
    """Whether the job was made; not when the request has made one before.

    That is looked up before documents are written, only to be taken back: they are what a
    transaction begins with, and whoever repeats a request would fill the table with them.
    """
    job = new.job
    if new.documents and await find_created(database, job.tenant, job.request_id, job.job_id):
        return False
    if not locks.has_limits(job.tenant):
        try:
            return await _make_unlimited(database, new)
        except IsLimitedError:
            locks.remember(job.tenant)
    try:
        return await _make_limited(locks, new)
    except _NoRoomError as full:
        if await find_created(database, job.tenant, job.request_id, job.job_id) is not None:
            return False  # a repeated request is answered however full the windows are
        async with database.connection() as connection:
            free = await free_time(connection, job.tenant, full.verdict)
        raise refusal(
            job.tenant, full.limits, full.use, full.verdict, free, kept=full.kept
        ) from None


async def _make_unlimited(database: Database, new: _New) -> bool:
    """Makes the job of a tenant without limits; see `_make`.

    The documents are written before the row: whoever sets limits waits from then on.

    Raises:
        IsLimitedError: The tenant has limits.
    """
    job = new.job
    try:
        async with database.connection() as connection, connection.transaction():
            await insert_documents(connection, job.job_id, new.documents)
            made, limited = await insert_row(connection, job, 1, locked=False)
            if not made:
                raise IsLimitedError if limited else _WasMadeError
            await insert_events(connection, job, [new.event], locked=False)
            await audit.write(connection, job.job_id)
    except (WasDeletedError, _WasMadeError):
        return False
    audit.written()
    return True


async def _make_limited(locks: TenantLocks, new: _New) -> bool:
    """Makes the job under its tenant's lock.

    The documents are written before: writing them takes longer than all the rest.

    Raises:
        _NoRoomError: The limits have no room, and the job does not wait.
    """
    job = new.job
    wish = Wish(budget=job.budget_tokens, least=job.least_tokens, price=job.token_price)
    try:
        async with locks.hold_late(job.tenant) as (connection, lock):
            await insert_documents(connection, job.job_id, new.documents)
            limits = await lock()
            if not limits:
                locks.forget(job.tenant)
            rules = locks.rules
            turn_ = turn(job.create_time, job.priority, rules.ageing)
            # By turn: or those who ask again and again would keep those out who wait.
            line = await let_line_in(connection, job.tenant, limits, rules, turn_)
            new.let_in[:] = line.let_in
            first = await first_in_line(connection, job.tenant, limits)
            used = await read_use(connection, job.tenant, limits)
            use = with_kept(used, first, job.job_id, turn_)
            verdict = judge(limits, use, wish, rules.tranche)
            if line.next is not None and not verdict.hopeless:
                verdict = line.next
            if verdict.full and not (job.waits and await _may_wait(connection, job.tenant)):
                kept = use.used(verdict.full) - used.used(verdict.full)
                raise _NoRoomError(limits, use, verdict, kept)
            events = [_opening(new.event, limits)]
            if verdict.full or verdict.drawn is not None:
                free = await free_time(connection, job.tenant, verdict) if verdict.full else None
                events.append(_first_draw(job, verdict, use.now, free))
            made, _ = await insert_row(
                connection,
                job,
                len(events),
                locked=True,
                waits=bool(verdict.full),
                drawn=verdict.drawn if not verdict.full else 0 if draws_tokens(limits) else None,
                tasks=0 if "concurrent_tasks" in limits else None,
            )
            if not made:
                raise _WasMadeError
            await insert_events(connection, job, events, locked=True)
            await audit.write(connection, job.job_id)
    except (WasDeletedError, _WasMadeError):
        return False
    audit.written()
    return True


async def _may_wait(connection: Connection, tenant: str) -> bool:
    """Whether fewer jobs of the tenant wait than may; its lock is held."""
    return bool(await connection.fetchval(_WAITING, tenant, MOST_WAITING) < MOST_WAITING)


def _opening(event: job_pb2.JobEvent, limits: Limits) -> job_pb2.JobEvent:
    """The first event, saying whether the job spends what it has drawn."""
    if not draws_tokens(limits):
        return event
    opening = job_pb2.JobEvent()
    opening.CopyFrom(event)
    opening.job_created.draws_quota = True
    return opening


def _first_draw(job: NewJob, verdict: Verdict, now: float, free: float | None) -> job_pb2.JobEvent:
    drawn = 0 if verdict.full else verdict.drawn or 0
    return drawn_event(
        job.job_id,
        tokens=drawn,
        total=drawn,
        price=job.token_price,
        now=now,
        limit=verdict.full,
        retry_time=free,
    )
