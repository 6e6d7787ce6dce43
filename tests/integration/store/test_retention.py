"""What is old enough expires, in batches, by one replica at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from hma.errors import Unavailable
from hma.v1 import task_pb2
from services.meta_agent.store import fleet, retention
from services.meta_agent.store.retention import Expired
from services.meta_agent.store.store import Store
from services.meta_agent.upkeep.expiry import Expiry
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import add_job, new_job, seal, until

DAY = 86_400.0


async def ended_job(store: Store, age: float, request_id: str = "") -> str:
    """A job that ended `age` seconds ago, with a document and a row in the ledger."""
    document = task_pb2.DocumentRef(document_id="d1", size_bytes=4)
    job_id = await add_job(store, new_job(request_id=request_id), [(document, b"text")])
    mine = await store.database.fetch("SELECT id FROM job WHERE driver = $1", store.replica_id)
    claimed = await store.claims.claim(store.replica_id, driving={row["id"] for row in mine})
    [epoch] = [each.epoch for each in claimed if each.job_id == job_id]
    await seal(store, job_id, epoch)
    await store.database.execute(
        "UPDATE job SET end_time = clock_timestamp() - $2::interval WHERE id = $1",
        job_id,
        timedelta(seconds=age),
    )
    await store.database.execute(
        "INSERT INTO ledger_entry VALUES ($1, '1.1', 1, 1, 'acme', 3, 'fast', 'm', 1, 5, 0, 1, 0, "
        "true, 0, clock_timestamp())",
        job_id,
    )
    return job_id


async def left(store: Store, table: str, column: str = "job_id") -> set[str]:
    rows = await store.database.fetch(f'SELECT DISTINCT {column} FROM "{table}"')
    return {row[0] for row in rows}


async def test_old_jobs_expire_with_log_and_documents_and_stay_in_the_ledger(store: Store) -> None:
    old = [await ended_job(store, 31 * DAY + number) for number in range(3)]
    recent = await ended_job(store, 29 * DAY)
    running = await add_job(store)
    first = await store.retention.expire(30 * DAY, 2)
    assert first == Expired((old[2], old[1]))  # the oldest first
    assert await store.retention.expire(30 * DAY, 2) == Expired((old[0],))
    assert await store.retention.expire(30 * DAY, 2) == Expired()
    assert await left(store, "job", "id") == {recent, running}
    assert await left(store, "job_event") == {recent, running}
    assert await left(store, "job_document") == {recent}
    assert await left(store, "ledger_entry") == {*old, recent}
    # Expiry leaves no tombstone: its time would have passed, too.
    assert await left(store, "deleted_job") == set()


async def test_tombstones_expire_too(store: Store) -> None:
    job_id, other = await ended_job(store, 0), await ended_job(store, 0)
    await store.jobs.delete(job_id, request_id="d")
    await store.jobs.delete(other)
    await store.database.execute(
        "UPDATE deleted_job SET deleted_at = deleted_at - interval '31 days' WHERE job_id = $1",
        job_id,
    )
    assert await store.retention.expire(30 * DAY, 10) == Expired((), 1)
    assert await left(store, "deleted_job") == {other}


async def test_one_replica_at_a_time_deletes(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    job_id = await ended_job(here, 2 * DAY)
    connection = await asyncpg.connect(here.database.url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", retention._ADVISORY_LOCK)
            assert await there.retention.expire(DAY, 10) is None
    finally:
        await connection.close()
    assert await there.retention.expire(DAY, 10) == Expired((job_id,))


async def test_summing_the_fleets_metrics_does_not_hold_up_expiry(store: Store) -> None:
    job_id = await ended_job(store, 2 * DAY)
    connection = await asyncpg.connect(store.database.url)
    try:
        async with connection.transaction():  # as every replica does, once a second
            await connection.execute("SELECT pg_advisory_xact_lock($1)", fleet._LOCK)
            assert await store.retention.expire(DAY, 10) == Expired((job_id,))
    finally:
        await connection.close()


async def test_all_replicas_are_told_what_has_expired(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    told: list[tuple[str, str]] = []
    here.notifications.on_deleted(lambda job_id: told.append(("here", job_id)))
    there.notifications.on_deleted(lambda job_id: told.append(("there", job_id)))
    job_id = await ended_job(here, 2 * DAY)
    await here.retention.expire(DAY, 10)

    async def both() -> bool:
        return {("here", job_id), ("there", job_id)} <= set(told)

    await until(both)


@pytest.mark.parametrize(("age", "kept"), [(DAY, 0), (0.0, 5)])
async def test_the_loop_works_off_all_batches_and_nothing_expires_at_zero(
    store: Store, age: float, kept: int
) -> None:
    for _ in range(5):
        await ended_job(store, 2 * DAY)
    running = asyncio.create_task(Expiry(store.retention, age=age, batch=2).run())
    try:
        if kept:
            await asyncio.sleep(0.3)
        else:

            async def gone() -> bool:
                return not await left(store, "job", "id")

            await until(gone)
        assert len(await left(store, "job", "id")) == kept
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_batch_that_is_too_much_is_tried_with_half_of_it(store: Store) -> None:
    for _ in range(6):
        await ended_job(store, 2 * DAY)
    expire, tried = store.retention.expire, list[int]()

    class Slow:
        async def expire(self, age: float, batch: int) -> object:
            tried.append(batch)
            if batch > 2:
                raise Unavailable("too slow", retry_after=1)
            return await expire(age, batch)

    expiry = Expiry(Slow(), age=DAY, batch=8)  # type: ignore[arg-type]
    for _ in range(2):
        await expiry._expire()
    assert tried == [8, 4]
    while await left(store, "job", "id"):
        await expiry._expire()
    assert tried[2:5] == [2, 4, 2]
