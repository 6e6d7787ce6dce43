"""Deletes what has been kept long enough: ended jobs with their logs, and tombstones.

One replica at a time, by an advisory lock that ends with the transaction, and in
batches, so that no lock is held for long. What jobs cost stays in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from services.meta_agent.store.database import Database
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.purge import purge

_ADVISORY_LOCK = 0x48_4D_41_03
_TIMEOUT = 60.0

_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_ENDED = """
SELECT id FROM job
WHERE sealed AND end_time < clock_timestamp() - $1::interval
ORDER BY end_time LIMIT $2
FOR UPDATE SKIP LOCKED
"""
_FORGET = """
DELETE FROM deleted_job WHERE job_id IN (
    SELECT job_id FROM deleted_job
    WHERE deleted_at < clock_timestamp() - $1::interval
    ORDER BY deleted_at LIMIT $2
)
"""


@dataclass(frozen=True, slots=True)
class Expired:
    """What one batch has deleted.

    Attributes:
        jobs: Ids of jobs.
        tombstones: How many tombstones.
    """

    jobs: tuple[str, ...] = ()
    tombstones: int = 0


class Retention:
    """Deletes by age."""

    def __init__(self, database: Database, notifications: Notifications) -> None:
        self._database = database
        self._notifications = notifications

    async def expire(self, age: float, batch: int) -> Expired | None:
        """Deletes a batch of what ended longer ago than `age`, the oldest first.

        Args:
            age: Seconds.
            batch: At most this many jobs, and this many tombstones.

        Returns:
            What was deleted; None when another replica is at it.

        Raises:
            Unavailable: The database cannot be reached or is busy; nothing was deleted.
        """
        old = timedelta(seconds=age)
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = {_TIMEOUT * 1000:.0f}")
            if not await connection.fetchval(_LOCK, _ADVISORY_LOCK):
                return None
            rows = await connection.fetch(_ENDED, old, batch)
            jobs = tuple(row["id"] for row in rows)
            if jobs:
                await purge(connection, jobs, timeout=_TIMEOUT)
            forgotten = await connection.execute(_FORGET, old, batch)
        for job_id in jobs:
            self._notifications.publish_deleted(job_id)
        return Expired(jobs, int(forgotten.rpartition(" ")[2]))
