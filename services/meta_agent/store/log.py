"""The job log: append as its driver, append a fact beside the driver, read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from hma.errors import NotFound, PreconditionFailed, Unavailable
from services.meta_agent.store import audit
from services.meta_agent.store.append import Append, JobEvent, from_row, to_row
from services.meta_agent.store.appender import Appender
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.ledger import booking, booking_arrays
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_buckets import bucketing

_FACT_TRIES = 3
_MORE_BUDGET = 5 + len(booking_arrays([]))
_AUDIT_FIRST = _MORE_BUDGET + 1

# The lock waits for whoever appends, then looks at the row's latest version: so
# sequences stay gapless and nothing follows a seal. What it waited for is not in this
# statement's snapshot, though: an event id that was written just then ends in a unique
# violation, and the caller looks again. A job that waits for its tenant's windows is
# let through to its end by whoever wants it to end. What it may spend grows here and not
# when its driver has heard of it: limits that are set in between must see it.
_APPEND_FACT = f"""
WITH known AS (
    SELECT sequence, payload FROM job_event WHERE job_id = $1 AND event_id = $2
), taken AS (
    SELECT id, tenant FROM job
    WHERE id = $1 AND NOT sealed AND NOT EXISTS (SELECT FROM known)
    FOR UPDATE
), {booking(5, "taken")}
, bucketed AS {bucketing("SELECT tenant, 0, tokens, cost, time FROM booked")}
, changed AS (
    SELECT t.id, coalesce(s.tokens, 0) AS settled
    FROM taken t LEFT JOIN settled s ON s.job_id = t.id
), moved AS (
    UPDATE job j SET
        version = j.version + 1,
        settled_tokens = j.settled_tokens + c.settled,
        budget_tokens = least(j.budget_tokens + ${_MORE_BUDGET}::bigint, 2147483647)::int,
        quota_state = CASE
            WHEN j.quota_state = 1 AND $3 IN ('cancel_requested', 'interrupt_requested') THEN 2
            ELSE j.quota_state END
    FROM changed c WHERE j.id = c.id
    RETURNING j.id, j.version
), inserted AS (
    INSERT INTO job_event (job_id, sequence, event_id, type, payload)
    SELECT m.id, m.version, $2, $3, $4 FROM moved m
)
, audited AS {audit.writing(_AUDIT_FIRST, "moved")}
SELECT m.version AS appended, k.sequence AS known, k.payload
FROM job j LEFT JOIN moved m ON true LEFT JOIN known k ON true WHERE j.id = $1
"""  # noqa: S608 - a fixed text

_READ = """
SELECT sequence, payload FROM job_event
WHERE job_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
"""
# The first is always read, however large it is. The size of a payload is known without
# reading it.
_READ_LOT = """
SELECT sequence, payload, found FROM (
    SELECT sequence, payload, count(*) OVER () AS found,
           sum(octet_length(payload)) OVER (ORDER BY sequence) - octet_length(payload) AS before
    FROM (
        SELECT sequence, payload FROM job_event
        WHERE job_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
    ) AS lot
) AS sized WHERE before < $4 ORDER BY sequence
"""
_FIND = "SELECT sequence, payload FROM job_event WHERE job_id = $1 AND event_id = $2"


Guard = Callable[[Connection], Awaitable[None]]
"""Looks, in a transaction, whether something may be written; raises HmaError when not."""


class JobLog:
    """The logs of all jobs."""

    def __init__(
        self, database: Database, appender: Appender, notifications: Notifications
    ) -> None:
        self._database = database
        self._appender = appender
        self._notifications = notifications

    async def append(self, append: Append) -> int:
        """Appends what a driver has decided; returns when it is committed.

        Returns:
            The log's version right after these events. When it is more than the
            version read before plus `len(events)`, others have appended facts in
            between: read them, fold in order, decide again.

        Raises:
            Fenced: Another driver has the job, or it is sealed or gone: cancel all of
                its streams and stop.
            VersionMoved: Sealing found events that were not read. Nothing is written.
            Unavailable: The database stayed away or busy. Whether the events are in the
                log is not known: append the very same ones again (they are written
                once), or stop driving under this epoch.
            HmaError: APPEND_REFUSED: the events cannot be stored as they are.
        """
        return await self._appender.append(append)

    async def append_fact(self, job_id: str, event: JobEvent) -> int:
        """Appends what a client asked for or a service reported. Idempotent by `event_id`.

        Returns:
            The event's sequence; the one it has when it was in the log already.

        Raises:
            NotFound: There is no such job.
            PreconditionFailed: The job is sealed.
            Unavailable: The database cannot be reached; calling again is safe.
        """
        return (await self.note(job_id, event)).sequence

    async def note(self, job_id: str, event: JobEvent, guard: Guard | None = None) -> JobEvent:
        """As `append_fact`; returns the event that the log has under this `event_id`.

        That is an earlier one when the id was in the log already: whether it says the
        same is the caller's to see.

        Args:
            job_id: The job.
            event: What is noted.
            guard: Runs first in the transaction that writes; nothing is written when it raises.
        """
        if not event.event_id or event.job_id != job_id:
            raise ValueError("the event needs an event_id and the job's id")
        found = await self._write_fact(job_id, event, guard)
        if found is None:
            raise NotFound(f"There is no job {job_id}.")
        if found["known"] is not None:
            return from_row(found["known"], found["payload"])
        if found["appended"] is None:
            raise PreconditionFailed(f"Job {job_id} has ended.", reason="JOB_ENDED")
        audit.written()
        self._notifications.publish(job_id, found["appended"])
        noted = JobEvent()
        noted.CopyFrom(event)
        noted.sequence = found["appended"]
        return noted

    async def find(self, job_id: str, event_id: str) -> JobEvent | None:
        """The event of that id; None when the log has none.

        Raises:
            Unavailable: The database cannot be reached.
        """
        row = await self._database.fetchrow(_FIND, job_id, event_id)
        return from_row(row["sequence"], row["payload"]) if row is not None else None

    async def _write_fact(
        self, job_id: str, event: JobEvent, guard: Guard | None
    ) -> asyncpg.Record | None:
        row, entries, who = to_row(event), booking_arrays([event]), audit.writing_args()
        more = event.budget_granted.tokens
        arguments = (job_id, row.event_id, row.type, row.payload, *entries, more, *who)
        tries = 0
        while True:
            tries += 1
            try:
                if guard is None:
                    return await self._database.fetchrow(_APPEND_FACT, *arguments)
                async with self._database.connection() as connection, connection.transaction():
                    await guard(connection)
                    return await connection.fetchrow(_APPEND_FACT, *arguments)
            except asyncpg.UniqueViolationError:
                # Written while this waited for the lock: the next look finds it.
                if tries >= _FACT_TRIES:
                    raise
            except Unavailable:
                if tries >= _FACT_TRIES:
                    raise
                await asyncio.sleep(0.05 * tries)

    async def read(self, job_id: str, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """Reads events in order, `sequence` filled in.

        Args:
            job_id: The job; a log that does not exist is empty.
            after: Only events with a higher sequence.
            limit: At most this many.

        Raises:
            Unavailable: The database cannot be reached.
        """
        rows = await self._database.fetch(_READ, job_id, after, limit)
        return [from_row(row["sequence"], row["payload"]) for row in rows]

    async def read_lot(
        self, job_id: str, after: int, limit: int, max_bytes: int
    ) -> tuple[list[JobEvent], bool]:
        """Reads events in order, not more than fit in the caller's memory.

        Args:
            job_id: The job; a log that does not exist is empty.
            after: Only events with a higher sequence.
            limit: At most this many.
            max_bytes: No further one after so many bytes.

        Returns:
            The events, and whether there may be more to read at once.

        Raises:
            Unavailable: The database cannot be reached.
        """
        rows = await self._database.fetch(_READ_LOT, job_id, after, limit, max_bytes)
        more = bool(rows) and (rows[0]["found"] > len(rows) or rows[0]["found"] == limit)
        return [from_row(row["sequence"], row["payload"]) for row in rows], more
