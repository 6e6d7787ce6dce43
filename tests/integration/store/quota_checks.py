"""Recomputes what tenants use from raw rows, and compares."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from services.meta_agent.store.database import Database
from services.meta_agent.store.quota_buckets import DAY, MINUTE, SECOND
from services.meta_agent.store.store import Store

_RAW = """
SELECT tenant, 0 AS requests, prompt_tokens::bigint + completion_tokens AS tokens, cost,
       extract(epoch FROM settle_time)::float8 AS at FROM ledger_entry
UNION ALL
SELECT tenant, 0, tokens, cost, extract(epoch FROM seal_time)::float8 FROM quota_loss
UNION ALL
SELECT tenant, 1, 0, 0, extract(epoch FROM accept_time)::float8 FROM job
WHERE accept_time IS NOT NULL
"""
_BUCKETS = """
SELECT tenant, width, extract(epoch FROM start)::bigint AS start, sum(requests)::bigint AS requests,
       sum(tokens)::bigint AS tokens, sum(cost) AS cost
FROM quota_bucket GROUP BY tenant, width, start
"""
_SETTLED = """
SELECT j.id, j.settled_tokens,
       coalesce(sum(l.prompt_tokens::bigint + l.completion_tokens), 0)::bigint
FROM job j LEFT JOIN ledger_entry l ON l.job_id = j.id GROUP BY j.id
"""


async def check_buckets(store: Store) -> None:
    """Buckets are what ledger, losses and accepted jobs say, to the token and the second."""
    await check_sums(store.database)


async def check_sums(database: Database) -> None:
    """The same, of a database whose store is somebody else's."""
    expected: dict[tuple[str, int, int], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for row in await database.fetch(_RAW):
        for width in (SECOND, MINUTE, DAY):
            bucket = expected[row["tenant"], width, int(row["at"] // width * width)]
            bucket[0] += row["requests"]
            bucket[1] += row["tokens"]
            bucket[2] += row["cost"]
    found = {
        (row["tenant"], row["width"], row["start"]): row for row in await database.fetch(_BUCKETS)
    }
    assert found.keys() == expected.keys()
    for key, (requests, tokens, cost) in expected.items():
        assert (found[key]["requests"], found[key]["tokens"]) == (requests, tokens), key
        assert found[key]["cost"] == pytest.approx(cost)
    for job_id, settled, booked in await database.fetch(_SETTLED):
        assert settled == booked, job_id


_NOW = """
WITH m AS MATERIALIZED (SELECT clock_timestamp() AS now), used AS (
    SELECT tenant, tokens, cost, at FROM (
        SELECT tenant, prompt_tokens::bigint + completion_tokens AS tokens, cost,
               settle_time AS at FROM ledger_entry
        UNION ALL SELECT tenant, tokens, cost, seal_time FROM quota_loss) AS spent
), jobs AS (
    SELECT tenant, count(*) AS jobs, coalesce(sum(quota_tasks), 0) AS tasks,
           coalesce(sum(coalesce(quota_drawn, budget_tokens) - coalesce(l.tokens, 0)), 0) AS held,
           coalesce(sum((coalesce(quota_drawn, budget_tokens) - coalesce(l.tokens, 0))
                        * quota_price), 0) AS held_cost
    FROM job j LEFT JOIN (
        SELECT job_id, sum(prompt_tokens::bigint + completion_tokens) AS tokens
        FROM ledger_entry GROUP BY job_id) AS l ON l.job_id = j.id
    WHERE NOT sealed AND quota_state = 0 GROUP BY tenant
), minute AS (
    SELECT tenant, sum(tokens) AS tokens FROM used, m
    WHERE at > m.now - interval '60 seconds' GROUP BY tenant
), hour AS (
    SELECT tenant, sum(tokens) AS tokens FROM used, m
    WHERE at > m.now - interval '1 hour' GROUP BY tenant
), month AS (
    SELECT tenant, sum(cost) AS cost FROM used, m
    WHERE at >= date_trunc('month', m.now, 'UTC') GROUP BY tenant
), asked AS (
    SELECT tenant, count(*) AS requests FROM job, m
    WHERE accept_time > m.now - interval '60 seconds' GROUP BY tenant
)
SELECT q.tenant, q.limits, coalesce(j.jobs, 0) AS jobs, coalesce(j.tasks, 0) AS tasks,
       coalesce(minute.tokens, 0) + coalesce(j.held, 0) AS tokens_per_minute,
       coalesce(hour.tokens, 0) + coalesce(j.held, 0) AS tokens_per_hour,
       coalesce(month.cost, 0) + coalesce(j.held_cost, 0) AS cost_per_month,
       coalesce(asked.requests, 0) AS requests_per_minute
FROM tenant_quota q
LEFT JOIN jobs j USING (tenant) LEFT JOIN minute USING (tenant) LEFT JOIN hour USING (tenant)
LEFT JOIN month USING (tenant) LEFT JOIN asked USING (tenant)
WHERE q.limits IS NOT NULL
"""
_NAMES = {"jobs": "concurrent_jobs", "tasks": "concurrent_tasks"}


async def check_windows(store: Store) -> None:
    """No limit of any tenant is exceeded now, by one snapshot of the raw rows."""
    await check_limits(store.database)


async def check_limits(database: Database) -> None:
    """The same, of a database whose store is somebody else's."""
    for row in await database.fetch(_NOW):
        limits = json.loads(row["limits"])
        for name in set(row.keys()) - {"tenant", "limits"}:
            limit = limits.get(_NAMES.get(name, name), 0)
            if limit:
                assert float(row[name]) <= limit + 1e-9, f"{row['tenant']}: {name} {row[name]}"


class Recorder:
    """Looks at the raw rows again and again while something goes on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.looks = 0

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Recorder]:
        """Looks until the context is left; an excess fails it."""
        looking = asyncio.create_task(self._look())
        try:
            yield self
        finally:
            looking.cancel()
            [ended] = await asyncio.gather(looking, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended
        assert self.looks

    async def _look(self) -> None:
        while True:
            await check_windows(self._store)
            self.looks += 1
            await asyncio.sleep(0.005)
