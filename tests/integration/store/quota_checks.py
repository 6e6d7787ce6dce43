"""Recomputes what tenants use from raw rows, and compares."""

from __future__ import annotations

from collections import defaultdict

import pytest

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
    expected: dict[tuple[str, int, int], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for row in await store.database.fetch(_RAW):
        for width in (SECOND, MINUTE, DAY):
            bucket = expected[row["tenant"], width, int(row["at"] // width * width)]
            bucket[0] += row["requests"]
            bucket[1] += row["tokens"]
            bucket[2] += row["cost"]
    found = {
        (row["tenant"], row["width"], row["start"]): row
        for row in await store.database.fetch(_BUCKETS)
    }
    assert found.keys() == expected.keys()
    for key, (requests, tokens, cost) in expected.items():
        assert (found[key]["requests"], found[key]["tokens"]) == (requests, tokens), key
        assert found[key]["cost"] == pytest.approx(cost)
    for job_id, settled, booked in await store.database.fetch(_SETTLED):
        assert settled == booked, job_id
