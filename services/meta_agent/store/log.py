"""The job log: append as its driver, append a fact beside the driver, read."""

from __future__ import annotations

import asyncio

import asyncpg

from hma.errors import NotFound, PreconditionFailed, Unavailable
from services.meta_agent.store.append import Append, JobEvent, from_row, to_row
from services.meta_agent.store.appender import Appender
from services.meta_agent.store.database import Database
from services.meta_agent.store.ledger import booking, booking_arrays
from services.meta_agent.store.notify import Notifications

_FACT_TRIES = 3

# The update waits for whoever appends, then looks at the row's latest version: so
# sequences stay gapless and nothing follows a seal. What it waited for is not in this
# statement's snapshot, though: an event id that was written just then ends in a unique
# violation, and the caller looks again.
_APPEND_FACT = f"""
WITH known AS (
    SELECT sequence FROM job_event WHERE job_id = $1 AND event_id = $2
), moved AS (
    UPDATE job SET version = version + 1
    WHERE id = $1 AND NOT sealed AND NOT EXISTS (SELECT FROM known)
    RETURNING id, tenant, version
), inserted AS (
    INSERT INTO job_event (job_id, sequence, event_id, type, payload)
    SELECT m.id, m.version, $2, $3, $4 FROM moved m
), booked AS {booking(5, "moved")}
SELECT m.version AS appended, k.sequence AS known
FROM job j LEFT JOIN moved m ON true LEFT JOIN known k ON true WHERE j.id = $1
"""  # noqa: S608 - a fixed text

_READ = """
SELECT sequence, payload FROM job_event
WHERE job_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
"""


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
        if not event.event_id or event.job_id != job_id:
            raise ValueError("the event needs an event_id and the job's id")
        found = await self._write_fact(job_id, event)
        if found is None:
            raise NotFound(f"There is no job {job_id}.")
        if found["known"] is not None:
            return int(found["known"])
        if found["appended"] is None:
            raise PreconditionFailed(f"Job {job_id} has ended.", reason="JOB_ENDED")
        self._notifications.publish(job_id, found["appended"])
        return int(found["appended"])

    async def _write_fact(self, job_id: str, event: JobEvent) -> asyncpg.Record | None:
        row, entries = to_row(event), booking_arrays([event])
        tries = 0
        while True:
            tries += 1
            try:
                return await self._database.fetchrow(
                    _APPEND_FACT, job_id, row.event_id, row.type, row.payload, *entries
                )
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
