"""Who drives what: no job is driven by two, none is left without."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.meta_agent.store.append import Append
from services.meta_agent.store.beat import BeatTimes
from services.meta_agent.store.claims import Claims
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.reader import READER
from services.meta_agent.store.store import Store, StoreOptions, open_store
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import (
    add_claimed_job,
    add_job,
    created,
    decided,
    fact,
    new_job,
    seal,
    until,
)


async def claim_all(store: Store, driving: set[str], *, lot: int = 16) -> list[str]:
    """Claims until nothing comes, as a replica does."""
    taken: list[str] = []
    while claimed := await store.claims.claim(store.replica_id, lot, driving=driving):
        driving |= {c.job_id for c in claimed}
        taken += [c.job_id for c in claimed]
    return taken


@pytest.mark.parametrize("seed", range(3))
async def test_replicas_that_claim_at_once_never_share_a_job(
    open_replica: OpenStore, seed: int
) -> None:
    replicas = [await open_replica(name) for name in "abc"]
    jobs = [await add_job(replicas[0]) for _ in range(60)]
    rng = random.Random(seed)
    stop = asyncio.Event()

    async def move_rows() -> None:
        """Changes the rows all the while, so that claims meet rows newer than they saw."""
        while not stop.is_set():
            job_id = rng.choice(jobs)
            await replicas[0].log.append_fact(job_id, fact(job_id))

    async with asyncio.TaskGroup() as group:
        movers = [group.create_task(move_rows()) for _ in range(3)]
        taken = await asyncio.gather(*(claim_all(replica, set(), lot=3) for replica in replicas))
        stop.set()
        await asyncio.gather(*movers)
    claimed = [job_id for some in taken for job_id in some]
    assert sorted(claimed) == sorted(jobs)
    assert {(await replicas[0].jobs.get(job_id)).epoch for job_id in jobs} == {1}


async def test_a_claim_that_waited_does_not_take_what_was_claimed_meanwhile(
    open_replica: OpenStore,
) -> None:
    """Claims race for one row hundreds of times; the epoch counts who got it."""
    here, there = await open_replica("a"), await open_replica("b")
    for _ in range(60):
        job_id = await add_job(here)
        results = await asyncio.gather(
            *(
                replica.claims.claim(replica.replica_id, driving={job_id})
                for replica in (here, there) * 4
            )
        )
        assert len([c for claims in results for c in claims]) == 1
        row = await here.jobs.get(job_id)
        assert row.epoch == 1
        await seal(here, job_id, 1)


async def test_250_jobs_are_claimed_in_one_lot(store: Store) -> None:
    jobs = [await add_job(store) for _ in range(250)]
    claimed = await store.claims.claim(store.replica_id, 250, driving=())
    assert {c.job_id for c in claimed} == set(jobs)
    assert {(c.epoch, c.version) for c in claimed} == {(1, 1)}


async def test_the_oldest_jobs_come_first(store: Store) -> None:
    jobs = [await add_job(store) for _ in range(5)]
    first = await store.claims.claim(store.replica_id, 2, driving=())
    assert {c.job_id for c in first} == set(jobs[:2])


async def test_a_dead_replicas_jobs_are_taken_over_after_its_lease(
    open_replica: OpenStore, postgres_url: str
) -> None:
    survivor = await open_replica("b")
    async with _replica_that_dies(postgres_url) as doomed:
        job_id, epoch = await add_claimed_job(doomed)
        assert await survivor.claims.claim(survivor.replica_id, driving=()) == []
        await _stop_beating(doomed)
        waited = await until(lambda: _claims(survivor, job_id), timeout=30)
    assert 2.0 < waited < 4.0
    row = await survivor.jobs.get(job_id)
    assert (row.driver, row.epoch) == (survivor.replica_id, epoch + 1)


async def test_a_replica_that_leaves_gives_its_jobs_free_at_once(
    open_replica: OpenStore, postgres_url: str
) -> None:
    survivor = await open_replica("b")
    async with open_store(postgres_url, replica_id="a-1", address="x:1") as leaving:
        job_id, _ = await add_claimed_job(leaving)
    assert await _claims(survivor, job_id)


async def test_a_released_job_can_be_claimed_by_another(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    job_id, epoch = await add_claimed_job(here)
    await here.claims.release(job_id, epoch)
    [claimed] = await there.claims.claim(there.replica_id, driving=())
    assert (claimed.job_id, claimed.epoch) == (job_id, epoch + 1)
    # Too late: the job has another driver.
    await here.claims.release(job_id, epoch)
    assert (await there.jobs.get(job_id)).driver == there.replica_id


async def test_a_job_released_with_a_delay_is_left_alone_for_that_long(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.claims.release(job_id, epoch, delay=0.5)
    assert not await _claims(store, job_id)
    waited = await until(lambda: _claims(store, job_id))
    assert waited > 0.3


async def test_a_log_that_needs_a_later_reader_is_left_to_it(store: Store) -> None:
    job_id = await add_job(store, new_job(min_reader=READER + 1))
    assert await store.claims.claim(store.replica_id, driving=()) == []
    newer = Claims(store.database, store.notifications, reader=READER + 1)
    assert [c.job_id for c in await newer.claim(store.replica_id, driving=())] == [job_id]
    # Events of a newer driver raise it.
    other, epoch = await add_claimed_job(store)
    await store.log.append(Append(other, epoch, [decided(other)], min_reader=READER + 2))
    await store.claims.release(other, epoch)
    assert await newer.claim(store.replica_id, driving={job_id}) == []


async def test_replicas_of_two_versions_side_by_side_each_drive_what_they_can_read(
    open_replica: OpenStore,
) -> None:
    old = await open_replica("old", options=StoreOptions(reader=READER - 1))
    new = await open_replica("new")
    early = [await add_job(old, new_job(min_reader=READER - 1)) for _ in range(20)]
    late = [await add_job(new, new_job(min_reader=READER)) for _ in range(20)]
    driven: dict[str, set[str]] = {old.replica_id: set(), new.replica_id: set()}

    async def roll(store: Store) -> None:
        """Claims, writes as its version does, gives some back; until all were written twice."""
        rng, mine = random.Random(store.replica_id), driven[store.replica_id]
        for _ in range(30):
            for job in await store.claims.claim(store.replica_id, 3, driving=mine):
                mine.add(job.job_id)
                reader = READER if store is new else READER - 1
                event = decided(job.job_id)
                await store.log.append(Append(job.job_id, job.epoch, [event], min_reader=reader))
                read_by_new.update([job.job_id] if store is new else [])
                if store is old:
                    assert job.job_id not in read_by_new, "an older reader has later events"
                if rng.random() < 0.5:
                    mine.discard(job.job_id)
                    await store.claims.release(job.job_id, job.epoch)
            await asyncio.sleep(rng.random() * 0.005)

    read_by_new: set[str] = set()
    await asyncio.gather(roll(old), roll(new))
    # None is stranded: what the old one gave up, the new one takes.
    for job_id in driven[old.replica_id]:
        await old.claims.release(job_id, (await old.jobs.get(job_id)).epoch)
    await claim_all(new, driven[new.replica_id])
    assert driven[new.replica_id] == {*early, *late}
    rows = [await new.jobs.get(job_id) for job_id in read_by_new]
    assert {row.min_reader for row in rows} == {READER}


async def test_a_replica_without_a_beat_claims_nothing(store: Store) -> None:
    await add_job(store)
    assert await store.claims.claim("nobody", driving=()) == []


async def test_an_ended_job_is_not_claimed(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await seal(store, job_id, epoch)
    assert await store.claims.claim(store.replica_id, driving=()) == []


async def test_live_replicas_are_listed(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    live = await here.replicas.live()
    assert [(r.replica_id, r.address) for r in live] == [
        (here.replica_id, "127.0.0.1:1"),
        (there.replica_id, "127.0.0.1:1"),
    ]


@contextlib.asynccontextmanager
async def _replica_that_dies(url: str) -> AsyncIterator[Store]:
    # Beats rarely, so that one beat can be stopped without stopping a process.
    options = StoreOptions(beat=BeatTimes(interval=60))
    async with open_store(url, replica_id="doomed-1", address="x:1", options=options) as store:
        yield store


async def _stop_beating(store: Store) -> None:
    await store.database.execute(
        "UPDATE replica SET beat = clock_timestamp() WHERE id = $1", store.replica_id
    )


async def _claims(store: Store, job_id: str) -> bool:
    claimed = await store.claims.claim(store.replica_id, driving=())
    return job_id in [c.job_id for c in claimed]


async def test_only_overdue_jobs_are_claimed_when_that_is_asked(store: Store) -> None:
    later, soon, passed = new_job(), new_job(), new_job()
    now = datetime.now(UTC)
    for job, seconds in ((later, 60), (soon, 1), (passed, -60)):
        await add_job(store, replace(job, deadline=now + timedelta(seconds=seconds)))
    overdue = await store.claims.claim(store.replica_id, driving=(), overdue_only=True)
    assert {c.job_id for c in overdue} == {soon.job_id, passed.job_id}
    driving = {c.job_id for c in overdue}
    rest = await store.claims.claim(store.replica_id, driving=driving)
    assert [c.job_id for c in rest] == [later.job_id]


async def test_tenants_take_turns_and_a_tenant_s_jobs_go_by_priority_and_age(
    open_replica: OpenStore,
) -> None:
    store = await open_replica("a")
    begin = datetime.now(UTC) - timedelta(minutes=5)
    jobs: dict[str, str] = {}
    made = [("flood", number, 0) for number in range(20)]
    made += [("flood", 20, 50), ("small", 21, 0), ("small", 22, 0), ("late", 23, -100)]
    for tenant, number, priority in made:
        when = begin + timedelta(seconds=number)
        job = new_job(tenant=tenant, create_time=when, priority=priority)
        await store.jobs.create(job, created(job))
        jobs[job.job_id] = f"{tenant}{number}"
    first = await store.claims.claim(store.replica_id, 4, driving=())
    assert {jobs[job.job_id] for job in first} == {"flood20", "small21", "late23", "flood0"}
    driving = {job.job_id for job in first}
    (then,) = await store.claims.claim(store.replica_id, 1, driving=driving)
    assert jobs[then.job_id] == "small22", "whoever has fewer driven"


@pytest.mark.parametrize(("ageing", "first"), [(60.0, "old"), (120.0, "urgent"), (0.0, "old")])
async def test_a_job_that_has_waited_for_long_is_claimed_before_new_urgent_ones(
    open_replica: OpenStore, ageing: float, first: str
) -> None:
    options = StoreOptions(quota=QuotaRules(ageing=ageing))
    store = await open_replica("a", options=options)
    now = datetime.now(UTC)
    jobs: dict[str, str] = {}
    for name, age, priority in (("old", 500, -100), ("urgent", 0, 100), ("newer", 0, -100)):
        job = new_job(create_time=now - timedelta(seconds=age), priority=priority)
        await store.jobs.create(job, created(job))
        jobs[job.job_id] = name
    [claimed] = await store.claims.claim(store.replica_id, 1, driving=())
    assert jobs[claimed.job_id] == first


async def test_failures_of_a_driver_are_counted_in_the_row(open_replica: OpenStore) -> None:
    store = await open_replica("a")
    job_id = await add_job(store)
    (job,) = await store.claims.claim(store.replica_id, driving=())
    assert job.failed == 0
    await store.claims.release(job_id, job.epoch, failed=3)
    (again,) = await store.claims.claim(store.replica_id, driving=())
    assert again.failed == 3
    await store.claims.release(job_id, again.epoch)
    (third,) = await store.claims.claim(store.replica_id, driving=())
    assert third.failed == 3, "a release for another reason says nothing of it"


async def _lose(store: Store, job_id: str) -> None:
    """The job's driver is gone, as if its process had been killed just now."""
    await store.database.execute("UPDATE job SET driver = 'dead' WHERE id = $1", job_id)


async def test_drivers_lost_soon_after_their_claim_are_counted(open_replica: OpenStore) -> None:
    store = await open_replica("a")
    job_id = await add_job(store)
    (first,) = await store.claims.claim(store.replica_id, driving=())
    assert first.lost == 0
    for losses in (1, 2, 3):
        await _lose(store, job_id)
        (claimed,) = await store.claims.claim(store.replica_id, driving=())
        assert (claimed.lost, claimed.overdue) == (losses, False)
    await store.claims.release(job_id, claimed.epoch, suspect=True)
    (tried,) = await store.claims.claim(store.replica_id, driving=())
    assert tried.lost == 0, "this claim follows no loss: it is to be driven"
    await _lose(store, job_id)
    (again,) = await store.claims.claim(store.replica_id, driving=())
    assert again.lost == 4
    await store.claims.release(job_id, again.epoch)
    await store.claims.claim(store.replica_id, driving=())
    await _lose(store, job_id)
    (forgiven,) = await store.claims.claim(store.replica_id, driving=())
    assert forgiven.lost == 1, "a driver that gave it back in good order has cleared it"
    await store.database.execute(
        "UPDATE job SET claim_time = claim_time - interval '61 s', driver = 'dead' WHERE id = $1",
        job_id,
    )
    (healthy,) = await store.claims.claim(store.replica_id, driving=())
    assert healthy.lost == 1, "it had driven for a minute"


async def test_no_delay_outlives_a_job(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.database.execute(
        "UPDATE job SET deadline = clock_timestamp() + interval '1 s' WHERE id = $1", job_id
    )
    await store.claims.release(job_id, epoch, delay=60)
    (claimed,) = await store.claims.claim(store.replica_id, driving=())
    assert claimed.overdue
