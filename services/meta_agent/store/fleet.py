"""Counters summed over the fleet, for metrics that must not depend on which replica answers."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta

from services.meta_agent.store.database import Database

Labels = tuple[tuple[str, str], ...]
"""A counter's labels as sorted (name, value) pairs."""
Counters = Mapping[tuple[str, Labels], float]
"""Values by (name, labels)."""

_GONE_AFTER = timedelta(minutes=2)
_LOCK = 0x48_4D_41_02

# The batch number makes a repeated batch count once: its number is not news then.
_ADD = """
WITH news AS (
    INSERT INTO fleet_batch AS b (replica, batch, at) VALUES ($1, $2, clock_timestamp())
    ON CONFLICT (replica) DO UPDATE SET batch = excluded.batch, at = excluded.at
    WHERE b.batch < excluded.batch
    RETURNING 1
)
INSERT INTO fleet_metric AS m (replica, name, labels, value)
SELECT $1, d.name, d.labels, d.value
FROM unnest($3::text[], $4::text[], $5::float8[]) AS d (name, labels, value)
WHERE EXISTS (SELECT FROM news)
ORDER BY d.name, d.labels
ON CONFLICT (replica, name, labels) DO UPDATE SET value = m.value + excluded.value
"""
# The history has hundreds of counters, and is not looked at every second.
HISTORY = "hma_history"
_TOTALS = """
SELECT name, labels, sum(value) AS value FROM fleet_metric
WHERE (name = $1) = $2 GROUP BY name, labels
"""
# What is folded are sums of increments, so a replica that was only thought gone adds
# on in new rows and nothing counts twice.
_FOLD = """
WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS locked),
gone AS (
    DELETE FROM fleet_batch b USING mine
    WHERE mine.locked AND b.at < clock_timestamp() - $2::interval
      AND NOT EXISTS (
          SELECT FROM replica r
          WHERE r.id = b.replica AND r.beat > clock_timestamp() - $2::interval)
    RETURNING b.replica
), taken AS (
    DELETE FROM fleet_metric m USING gone g WHERE m.replica = g.replica
    RETURNING m.name, m.labels, m.value
)
INSERT INTO fleet_metric AS m (replica, name, labels, value)
SELECT '', name, labels, sum(value) FROM taken GROUP BY name, labels
ON CONFLICT (replica, name, labels) DO UPDATE SET value = m.value + excluded.value
"""


class FleetMetrics:
    """Counters of this replica, and the sums over all replicas, past ones included."""

    def __init__(
        self, database: Database, replica_id: str, *, gone_after: timedelta = _GONE_AFTER
    ) -> None:
        """Nothing runs yet.

        Args:
            database: Where the counters are.
            replica_id: Whose increments these are.
            gone_after: A replica silent for this long has its rows folded into one.
        """
        self._database = database
        self._replica_id = replica_id
        self._gone_after = gone_after
        self._pending: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._sending: dict[tuple[str, Labels], float] = {}
        self._batch = 0
        self._one_sender = asyncio.Lock()

    async def add(self, deltas: Counters) -> None:
        """Adds increments. Each counts exactly once, also when this raises.

        What could not be written is kept and goes with the next call, so call with an
        empty mapping to try again.

        Raises:
            Unavailable: The database cannot be reached.
        """
        for key, delta in deltas.items():
            self._pending[key] += delta
        async with self._one_sender:
            while self._sending or self._pending:
                if not self._sending:
                    self._batch += 1
                    self._sending = dict(self._pending)
                    self._pending.clear()
                await self._send()
                self._sending = {}

    async def totals(self) -> dict[tuple[str, Labels], float]:
        """Sums over all replicas. Also folds the rows of replicas that are gone.

        Raises:
            Unavailable: The database cannot be reached.
        """
        await self._database.execute(_FOLD, _LOCK, self._gone_after)
        return await self._read(history=False)

    async def history(self) -> dict[tuple[str, Labels], float]:
        """Sums of the counters that estimates are made from; `totals` leaves them out.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return await self._read(history=True)

    async def _read(self, *, history: bool) -> dict[tuple[str, Labels], float]:
        rows = await self._database.fetch(_TOTALS, HISTORY, history)
        return {(row["name"], _read_labels(row["labels"])): row["value"] for row in rows}

    async def _send(self) -> None:
        keys = list(self._sending)
        await self._database.execute(
            _ADD,
            self._replica_id,
            self._batch,
            [name for name, _ in keys],
            [_write_labels(labels) for _, labels in keys],
            [self._sending[key] for key in keys],
        )


def _write_labels(labels: Labels) -> str:
    return json.dumps(sorted(labels), separators=(",", ":"), ensure_ascii=False)


def _read_labels(text: str) -> Labels:
    return tuple((name, value) for name, value in json.loads(text))
