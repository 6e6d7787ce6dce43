"""Buckets of use: what tenants have used, by second, minute and day.

A bucket is written by the statement that makes the use: the one that books calls in the
ledger or accepts a job. Each process of the database writes buckets of its own (`shard`)
and works on one transaction at a time, so no statement ever waits for a bucket's row.
"""

from __future__ import annotations

from services.meta_agent.store.database import Database

SECOND, MINUTE, DAY = 1, 60, 86_400
"""Widths of buckets, in seconds."""

_ORIGIN = "timestamptz '2000-01-01 00:00Z'"
_LOCK = 0x48_4D_41_06

# Nobody writes to a bucket any more whose second or minute has been over for so long.
_SETTLED = "interval '1 minute'"

# Rows of old buckets become one, at shard 0. The sum is the same at every moment: what is
# taken and what is put back are in one commit. Whoever writes to one of them after all
# starts a row anew, which the next round takes.
_SUM_UP = f"""
WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS locked),
old AS (
    DELETE FROM quota_bucket b USING mine
    WHERE mine.locked AND b.shard <> 0 AND b.width IN ({MINUTE}, {DAY})
      AND b.start < clock_timestamp() - b.width * interval '1 second' - {_SETTLED}
    RETURNING b.tenant, b.width, b.start, b.requests, b.tokens, b.cost
)
INSERT INTO quota_bucket AS b (tenant, width, start, shard, requests, tokens, cost)
SELECT tenant, width, start, 0, sum(requests), sum(tokens), sum(cost)
FROM old GROUP BY tenant, width, start ORDER BY tenant, width, start
ON CONFLICT (tenant, width, start, shard) DO UPDATE SET
    requests = b.requests + excluded.requests,
    tokens = b.tokens + excluded.tokens,
    cost = b.cost + excluded.cost
"""  # noqa: S608 - a fixed text

# A window never reaches further back than this, with a margin.
_PURGE = f"""
WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS locked)
DELETE FROM quota_bucket b USING mine WHERE mine.locked AND (
    (b.width = {SECOND} AND b.start < clock_timestamp() - interval '2 minutes')
    OR (b.width = {MINUTE} AND b.start < clock_timestamp() - interval '25 hours')
    OR (b.width = {DAY} AND b.start < clock_timestamp() - interval '40 days'))
"""  # noqa: S608 - a fixed text
_FORGET_LOSSES = "DELETE FROM quota_loss WHERE seal_time < clock_timestamp() - interval '40 days'"


def bucketing(source: str) -> str:
    """The part of a statement that counts use: what follows `bucketed AS`.

    Args:
        source: A query that gives tenant, requests, tokens, cost and time, in this order.
    """
    return f"""(
    INSERT INTO quota_bucket AS b (tenant, width, start, shard, requests, tokens, cost)
    SELECT u.tenant, w.width, date_bin(w.width * interval '1 second', u.time, {_ORIGIN}),
           pg_backend_pid(), sum(u.requests), sum(u.tokens), sum(u.cost)
    FROM ({source}) AS u (tenant, requests, tokens, cost, time),
         (VALUES ({SECOND}), ({MINUTE}), ({DAY})) AS w (width)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (tenant, width, start, shard) DO UPDATE SET
        requests = b.requests + excluded.requests,
        tokens = b.tokens + excluded.tokens,
        cost = b.cost + excluded.cost
)"""  # noqa: S608 - names and numbers of this module's callers


async def tidy_buckets(database: Database) -> None:
    """Sums up and deletes old buckets; one replica at a time. No window's use changes.

    Raises:
        Unavailable: The database cannot be reached.
    """
    for statement in (_SUM_UP, _PURGE):
        await database.execute(statement, _LOCK)
    await database.execute(_FORGET_LOSSES)
