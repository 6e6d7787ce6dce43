"""Replicas: who is alive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from services.meta_agent.store.claims import LEASE
from services.meta_agent.store.database import Database

# After this long nobody can mistake a dead replica's row for news.
_FORGET_AFTER = timedelta(minutes=10)

_BEAT = """
INSERT INTO replica AS r (id, address, beat) VALUES ($1, $2, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET beat = clock_timestamp(), address = excluded.address
RETURNING extract(epoch FROM r.beat)::float8
"""
_FORGET = "DELETE FROM replica WHERE beat < clock_timestamp() - $1::interval"
_LIVE = """
SELECT id, address, beat FROM replica
WHERE beat > clock_timestamp() - $1::interval ORDER BY id
"""
_DRIVER = """
SELECT j.sealed, j.version, coalesce(r.id, '') AS replica_id, coalesce(r.address, '') AS address
FROM job j
LEFT JOIN replica r ON r.id = j.driver AND r.beat > clock_timestamp() - $2::interval
WHERE j.id = $1
"""


@dataclass(frozen=True, slots=True)
class DriverOf:
    """Who drives a job.

    Attributes:
        replica_id: The replica; empty when nobody does, or a dead one.
        address: Where other replicas reach it, host:port; empty when nobody drives.
        sealed: The job has ended.
        version: Sequence of the log's latest event.
    """

    replica_id: str
    address: str
    sealed: bool
    version: int


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica with a fresh beat.

    Attributes:
        replica_id: Its id.
        address: Where other replicas reach it, host:port.
        beat: Its latest beat.
    """

    replica_id: str
    address: str
    beat: datetime


class Replicas:
    """Reads who is alive."""

    def __init__(self, database: Database, *, lease: float = LEASE) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease)

    async def live(self) -> list[Replica]:
        """The replicas that are within their lease, by id.

        Raises:
            Unavailable: The database cannot be reached.
        """
        rows = await self._database.fetch(_LIVE, self._lease)
        return [Replica(row["id"], row["address"], row["beat"]) for row in rows]

    async def driver_of(self, job_id: str) -> DriverOf | None:
        """Who drives a job; None when there is no such job.

        Raises:
            Unavailable: The database cannot be reached.
        """
        row = await self._database.fetchrow(_DRIVER, job_id, self._lease)
        return DriverOf(**row) if row is not None else None


async def write_beat(connection: asyncpg.Connection, replica_id: str, address: str) -> float:
    """Renews a replica's lease; returns database time, Unix seconds."""
    return float(await connection.fetchval(_BEAT, replica_id, address))


async def forget_dead(connection: asyncpg.Connection) -> None:
    """Deletes rows of replicas that are long gone."""
    await connection.execute(_FORGET, _FORGET_AFTER)


async def remove_replica(connection: asyncpg.Connection, replica_id: str) -> None:
    """Ends a replica's lease at once: its jobs can be claimed."""
    await connection.execute("DELETE FROM replica WHERE id = $1", replica_id)
