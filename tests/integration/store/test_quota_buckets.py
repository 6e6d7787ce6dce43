"""Buckets of use: what the ledger says, to the token, whatever is summed up or deleted."""

from __future__ import annotations

import pytest

from hma.v1 import job_pb2
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.store import Store
from tests.integration.store.ledgers import call_usage, settled
from tests.integration.store.making import add_claimed_job, decided, seal
from tests.integration.store.quota_checks import check_buckets

_SHIFT = """
UPDATE quota_bucket SET start = start - $1::int * interval '1 second' WHERE width = $2
"""


async def test_a_call_that_is_settled_twice_is_counted_once(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    call = settled(job_id, call_usage(1, 100, 10), cost=0.25)
    await store.log.append(Append(job_id, epoch, [call]))
    await store.log.append(Append(job_id, epoch, [settled(job_id, call_usage(1, 999, 1))]))
    rows = await store.database.fetch("SELECT * FROM quota_bucket WHERE tokens > 0")
    assert [(r["tokens"], r["cost"], r["requests"]) for r in rows] == [(110, 0.25, 0)] * 3
    await check_buckets(store)


async def test_what_is_unknown_when_a_log_is_sealed_is_used_from_then_on(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    row = await store.jobs.get(job_id)
    append = Append(
        job_id,
        epoch,
        [decided(job_id)],
        JobSummary(job_pb2.JOB_STATE_PARTIAL),
        seal=True,
        expected_version=row.version,
        lost_tokens=300,
        lost_cost=0.5,
    )
    await store.log.append(append)
    loss = await store.database.fetchrow("SELECT tokens, cost, tenant FROM quota_loss")
    assert tuple(loss or ()) == (300, 0.5, "acme")
    await check_buckets(store)


async def test_deleting_a_job_changes_no_use(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.log.append(Append(job_id, epoch, [settled(job_id, call_usage())]))
    before = await store.database.fetch("SELECT * FROM quota_bucket ORDER BY 1, 2, 3, 4")
    await seal(store, job_id, epoch)
    await store.jobs.delete(job_id)
    assert await store.database.fetch("SELECT * FROM quota_bucket ORDER BY 1, 2, 3, 4") == before


@pytest.mark.parametrize(("width", "age", "kept"), [(60, 3600, True), (86_400, 172_800, True)])
async def test_old_buckets_are_summed_up_and_say_the_same(
    store: Store, width: int, age: int, kept: bool
) -> None:
    for _ in range(3):
        job_id, epoch = await add_claimed_job(store)
        await store.log.append(Append(job_id, epoch, [settled(job_id, call_usage())]))
    await store.database.execute(_SHIFT, age, width)
    total = "SELECT sum(requests), sum(tokens), count(*) FROM quota_bucket WHERE width = $1"
    before = await store.database.fetchrow(total, width)
    await store.quotas.tidy()
    await store.quotas.tidy()
    after = await store.database.fetchrow(total, width)
    assert before is not None
    assert after is not None
    assert tuple(after)[:2] == tuple(before)[:2] == (3, 330)
    assert after["count"] < before["count"]


async def test_buckets_that_no_window_reaches_are_deleted(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.log.append(Append(job_id, epoch, [settled(job_id, call_usage())]))
    for width, age in ((1, 300), (60, 100_000), (86_400, 86_400 * 45)):
        await store.database.execute(_SHIFT, age, width)
    await store.quotas.tidy()
    assert await store.database.fetch("SELECT * FROM quota_bucket") == []
