"""Creating jobs, each once: a repeated request finds what the first has made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hma.errors import AlreadyExists, Unavailable
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.job.priority import turn
from services.meta_agent.store import audit
from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.documents import insert_documents
from services.meta_agent.store.quota_admission import Verdict, Wish, judge
from services.meta_agent.store.quota_buckets import bucketing
from services.meta_agent.store.quota_events import drawn_event
from services.meta_agent.store.quota_limits import Limits, draws_tokens
from services.meta_agent.store.quota_line import first_in_line, with_kept
from services.meta_agent.store.quota_lock import TenantLocks, sharing
from services.meta_agent.store.quota_queue import let_line_in
from services.meta_agent.store.quota_refusal import free_time, refusal
from services.meta_agent.store.quota_use import Use, read_use
from services.meta_agent.store.reader import READER
from services.meta_agent.store.tombstones import Made, find_made, request_key

MAX_TITLE_CHARS = 500
MOST_WAITING = 1000
"""Jobs of one tenant that may wait for its quota; further ones are refused."""

WAITS_FOR_QUOTA = "waits for its tenant's quota"
_TRIES = 3

# A job that was accepted counts in its tenant's buckets in this very commit. Without the
# tenant's lock it is let in only beside nobody who sets limits (`quota_lock`).
_INSERT = f"""
WITH unlimited AS MATERIALIZED (
    SELECT CASE WHEN NOT $18::bool THEN {sharing("$2")}::text END
), made AS (
    INSERT INTO job (id, tenant, request_id, fingerprint, title, state, state_reason, version,
                     min_reader, deadline, create_time, budget_tokens, priority, quota_price,
                     quota_state, quota_drawn, quota_tasks, quota_least, accept_time)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
           $15::smallint, $16, $17, $19,
           CASE WHEN $15::smallint = 0 THEN clock_timestamp() END
    FROM unlimited
    WHERE $18::bool OR NOT EXISTS (
        SELECT FROM tenant_quota WHERE tenant = $2 AND limits <> '{{}}'::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING tenant, accept_time
), bucketed AS {
    bucketing("SELECT tenant, 1, 0, 0.0, accept_time FROM made WHERE accept_time IS NOT NULL")
}
SELECT (SELECT count(*) FROM made) AS made,
       EXISTS (SELECT FROM tenant_quota
               WHERE tenant = $2 AND limits <> '{{}}'::jsonb) AS limited
"""  # noqa: S608 - a fixed text
# Looks only now, when others can change neither any more. For a deleted job of the same
# request: whoever deleted it has committed, or its row would have been in the way of this
# one's. For limits: whoever set them has committed, or waits for this one's commit.
_INSERT_EVENT = """
WITH found AS MATERIALIZED (
    SELECT EXISTS (
        SELECT FROM deleted_job WHERE tenant = $6 AND create_request = $7) AS deleted,
    NOT $8::bool AND EXISTS (
        SELECT FROM tenant_quota WHERE tenant = $6 AND limits <> '{}'::jsonb) AS limited
), written AS (
    INSERT INTO job_event (job_id, sequence, event_id, type, payload)
    SELECT $1, e.*
    FROM found, unnest($2::int[], $3::text[], $4::text[], $5::bytea[]) AS e
    WHERE NOT deleted AND NOT limited
)
SELECT deleted, limited FROM found
"""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be created.

    Attributes:
        job_id: `ids.new_job_id()`.
        tenant: Whose it is.
        request_id: The client's id of the request; empty when it gave none.
        fingerprint: Hash of the request: the same request_id with another one is refused.
        title: The description; its first 500 characters are kept for lists.
        create_time: When it was accepted, by database time, with zone.
        deadline: When the answer must be there, by database time, with zone.
        budget_tokens: What it may spend.
        state: Where it starts.
        state_reason: Why it is there.
        min_reader: Lowest reader version that can fold its log.
        priority: Moves its turn among its tenant's jobs; -100 to 100.
        least_tokens: Tokens below which beginning is of no use.
        token_price: Most money that one of its tokens can cost.
        waits: It waits when its tenant's limits have no room for it now; else it is
            refused.
    """

    job_id: str
    tenant: str
    request_id: str
    fingerprint: bytes
    title: str
    create_time: datetime
    deadline: datetime
    budget_tokens: int
    state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_QUEUED
    state_reason: str = ""
    min_reader: int = READER
    priority: int = 0
    least_tokens: int = 1
    token_price: float = 0.0
    waits: bool = False


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


class _WasDeletedError(Exception):
    """The job that the request has made was deleted: the transaction is taken back."""


class _WasMadeError(Exception):
    """The request has made its job before: what was written for another is taken back."""


class _IsLimitedError(Exception):
    """The tenant has limits: what was written without its lock is taken back."""


class _NoRoomError(Exception):
    """The tenant's limits have no room; nothing was written."""

    def __init__(self, limits: Limits, use: Use, verdict: Verdict) -> None:
        super().__init__(verdict.full)
        self.limits, self.use, self.verdict = limits, use, verdict


async def _make(database: Database, locks: TenantLocks, new: _New) -> bool:
    """Whether the job was made; not when the request has made one before."""
    job = new.job
    if not locks.has_limits(job.tenant):
        try:
            return await _make_unlimited(database, new)
        except _IsLimitedError:
            locks.remember(job.tenant)
    try:
        return await _make_limited(locks, new)
    except _NoRoomError as full:
        if await find_created(database, job.tenant, job.request_id, job.job_id) is not None:
            return False  # a repeated request is answered however full the windows are
        async with database.connection() as connection:
            free = await free_time(connection, job.tenant, full.verdict)
        raise refusal(job.tenant, full.limits, full.use, full.verdict, free) from None


async def _make_unlimited(database: Database, new: _New) -> bool:
    """Makes the job of a tenant without limits; see `_make`.

    The documents are written before the row: whoever sets limits waits from then on.

    Raises:
        _IsLimitedError: The tenant has limits.
    """
    job = new.job
    try:
        async with database.connection() as connection, connection.transaction():
            await insert_documents(connection, job.job_id, new.documents)
            made, limited = await _insert(connection, job, 1, locked=False)
            if not made:
                raise _IsLimitedError if limited else _WasMadeError
            await _insert_events(connection, job, [new.event], locked=False)
            await audit.write(connection, job.job_id)
    except (_WasDeletedError, _WasMadeError):
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
            use = await read_use(connection, job.tenant, limits)
            use = with_kept(use, first, job.job_id, turn_)
            verdict = judge(limits, use, wish, rules.tranche)
            if line.next is not None and not verdict.hopeless:
                verdict = line.next
            if verdict.full and not (job.waits and await _may_wait(connection, job.tenant)):
                raise _NoRoomError(limits, use, verdict)
            events = [_opening(new.event, limits)]
            if verdict.full or verdict.drawn is not None:
                free = await free_time(connection, job.tenant, verdict) if verdict.full else None
                events.append(_first_draw(job, verdict, use.now, free))
            made, _ = await _insert(
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
            await _insert_events(connection, job, events, locked=True)
            await audit.write(connection, job.job_id)
    except (_WasDeletedError, _WasMadeError):
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


async def _insert(
    connection: Connection,
    job: NewJob,
    version: int,
    *,
    locked: bool,
    waits: bool = False,
    drawn: int | None = None,
    tasks: int | None = None,
) -> tuple[bool, bool]:
    """Writes the row; whether that was done, and whether the tenant has limits."""
    row = await connection.fetchrow(
        _INSERT,
        job.job_id,
        job.tenant,
        job.request_id or None,
        job.fingerprint,
        job.title.replace("\0", "")[:MAX_TITLE_CHARS],
        job.state,
        WAITS_FOR_QUOTA if waits else job.state_reason,
        version,
        job.min_reader,
        job.deadline,
        job.create_time,
        job.budget_tokens,
        job.priority,
        job.token_price,
        int(waits),
        drawn,
        tasks,
        locked,
        job.least_tokens,
    )
    return (bool(row["made"]), bool(row["limited"])) if row is not None else (False, False)


async def _insert_events(
    connection: Connection, job: NewJob, events: Sequence[job_pb2.JobEvent], *, locked: bool
) -> None:
    """Writes the log's beginning.

    Raises:
        _WasDeletedError: A job of the same request was deleted.
        _IsLimitedError: The tenant, whose lock is not held, has limits.
    """
    rows = [to_row(event) for event in events]
    found = await connection.fetchrow(
        _INSERT_EVENT,
        job.job_id,
        list(range(1, len(rows) + 1)),
        [row.event_id for row in rows],
        [row.type for row in rows],
        [row.payload for row in rows],
        job.tenant,
        request_key(job.request_id),
        locked,
    )
    if found is None or found["deleted"]:
        raise _WasDeletedError
    if found["limited"]:
        raise _IsLimitedError
