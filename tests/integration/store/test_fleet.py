"""Counters of the fleet."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from services.meta_agent.store.fleet import FleetMetrics
from services.meta_agent.store.store import Store
from tests.integration.store.conftest import OpenStore

TOKENS = ("hma_tokens_total", (("kind", "prompt"), ("route", "fast")))
ERRORS = ("hma_worker_errors_total", ())


async def test_totals_are_sums_over_all_replicas(open_replica: OpenStore) -> None:
    replicas = [await open_replica(name) for name in "abc"]
    await asyncio.gather(
        *(r.fleet.add({TOKENS: 10 + i, ERRORS: 1}) for r in replicas for i in range(5))
    )
    for replica in replicas:
        assert await replica.fleet.totals() == {TOKENS: 3 * 60, ERRORS: 15}


async def test_label_order_does_not_matter_and_values_may_be_anything(store: Store) -> None:
    await store.fleet.add({("n", (("b", 'q"\n'), ("a", "é"))): 1})
    await store.fleet.add({("n", (("a", "é"), ("b", 'q"\n'))): 1.5})
    assert await store.fleet.totals() == {("n", (("a", "é"), ("b", 'q"\n'))): 2.5}


async def test_rows_of_replicas_that_are_gone_become_one_and_still_count(store: Store) -> None:
    soon = timedelta(0)
    for number in range(20):
        gone = FleetMetrics(store.database, f"gone-{number}", gone_after=soon)
        await gone.add({TOKENS: 5, ERRORS: 1})
    here = FleetMetrics(store.database, store.replica_id, gone_after=soon)
    await here.add({TOKENS: 1})
    expected = {TOKENS: 101, ERRORS: 20}
    results = await asyncio.gather(*(here.totals() for _ in range(5)))
    assert results == [expected] * 5
    assert await _rows(store) <= 3
    # One that was only thought gone goes on, and nothing counts twice.
    await gone.add({TOKENS: 5})
    assert await here.totals() == {TOKENS: 106, ERRORS: 20}


async def test_a_live_replicas_rows_are_left_alone(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    await here.fleet.add({TOKENS: 1})
    await there.fleet.add({TOKENS: 2})
    await here.database.execute("UPDATE fleet_batch SET at = at - interval '1 day'")
    assert await here.fleet.totals() == {TOKENS: 3}
    assert await _rows(here) == 2


async def _rows(store: Store) -> int:
    row = await store.database.fetchrow("SELECT count(*) AS n FROM fleet_metric")
    assert row is not None
    return int(row["n"])
