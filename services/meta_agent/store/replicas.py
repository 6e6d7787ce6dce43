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


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica with a fresh beat.

    Attributes:
        replica_id: Its id.
        address: Where its gRPC server listens, host:port.
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


async def write_beat(connection: asyncpg.Connection, replica_id: str, address: str) -> float:
    """Renews a replica's lease; returns database time, Unix seconds."""
    return float(await connection.fetchval(_BEAT, replica_id, address))


async def forget_dead(connection: asyncpg.Connection) -> None:
    """Deletes rows of replicas that are long gone."""
    await connection.execute(_FORGET, _FORGET_AFTER)


async def remove_replica(connection: asyncpg.Connection, replica_id: str) -> None:
    """Ends a replica's lease at once: its jobs can be claimed."""
    await connection.execute("DELETE FROM replica WHERE id = $1", replica_id)
