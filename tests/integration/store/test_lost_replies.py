"""Connections that break before, inside and after a commit: nothing twice, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest

from hma.errors import Fenced, NotFound, Unavailable
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.appender import AppenderLimits
from services.meta_agent.store.store import Store, StoreOptions
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
from tests.integration.store.proxy import Moment, Proxy

MOMENTS: tuple[Moment, ...] = ("before", "inside", "after")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_an_append_whose_reply_is_lost_is_written_once(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store = await open_replica(url=proxy.url)
    jobs = [await add_claimed_job(store) for _ in range(3)]
    for job_id, epoch in jobs:
        await store.log.append(Append(job_id, epoch, [decided(job_id)]))

    proxy.cut(moment)
    versions = await asyncio.gather(
        *(
            store.log.append(Append(job_id, epoch, [decided(job_id), decided(job_id)]))
            for job_id, epoch in jobs
        )
    )
    assert proxy.cuts_made == 1
    assert versions == [4, 4, 4]
    for job_id, _ in jobs:
        assert [e.sequence for e in await store.log.read(job_id)] == [1, 2, 3, 4]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_seal_whose_reply_is_lost_succeeds(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store = await open_replica(url=proxy.url)
    job_id, epoch = await add_claimed_job(store)
    await store.log.append(Append(job_id, epoch, [decided(job_id)]))
    proxy.cut(moment)
    summary = JobSummary(job_pb2.JOB_STATE_SUCCEEDED, "done")
    last = Append(job_id, epoch, [decided(job_id)], summary, seal=True, expected_version=2)
    assert await store.log.append(last) == 3
    assert (await store.jobs.get(job_id)).sealed


async def test_a_new_driver_meanwhile_fences_what_was_not_written(
    open_replica: OpenStore, proxy: Proxy
) -> None:
    zombie, heir = await open_replica("a", url=proxy.url), await open_replica("b")
    job_id, epoch = await add_claimed_job(zombie)
    await zombie.log.append(Append(job_id, epoch, [decided(job_id)]))
    proxy.down()
    lost = asyncio.create_task(zombie.log.append(Append(job_id, epoch, [decided(job_id)])))
    await heir.claims.release(job_id, epoch)
    [claimed] = await heir.claims.claim(heir.replica_id, driving=())
    await heir.log.append(Append(job_id, claimed.epoch, [decided(job_id)]))
    proxy.up()
    with pytest.raises(Fenced):
        await lost
    assert len(await heir.log.read(job_id)) == 3


async def test_an_append_gives_up_when_the_database_stays_away(
    open_replica: OpenStore, proxy: Proxy
) -> None:
    store = await open_replica(
        url=proxy.url, options=StoreOptions(appender=AppenderLimits(away=0.5))
    )
    job_id, epoch = await add_claimed_job(store)
    proxy.down()
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await store.log.append(Append(job_id, epoch, [decided(job_id)]))
    assert time.monotonic() - start < 8  # without a limit of one's own it is ten
    proxy.up()
    assert await store.log.append(Append(job_id, epoch, [decided(job_id)])) == 2


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_fact_whose_reply_is_lost_is_logged_once(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store = await open_replica(url=proxy.url)
    job_id = await add_job(store)
    event = fact(job_id)
    proxy.cut(moment, "hma-meta-agent")
    assert await store.log.append_fact(job_id, event) == 2
    assert proxy.cuts_made == 1
    assert len(await store.log.read(job_id)) == 2


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("request_id", ["", "request-1"])
async def test_a_creation_whose_reply_is_lost_makes_one_job(
    open_replica: OpenStore, proxy: Proxy, moment: Moment, request_id: str
) -> None:
    store = await open_replica(url=proxy.url)
    await add_job(store, new_job(tenant="other"))
    job = new_job(request_id=request_id)
    proxy.cut(moment, "hma-meta-agent")
    made = await store.jobs.create(job, created(job))
    assert made.job_id == job.job_id
    assert proxy.cuts_made == 1
    assert len((await store.jobs.page("acme")).jobs) == 1
    assert len(await store.log.read(job.job_id)) == 1


STEPS = range(9)
"""Messages of a transaction before the one that is cut; the last ones may be beyond its end."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", STEPS)
async def test_a_creation_that_breaks_at_any_step_is_whole_and_made_once(
    open_replica: OpenStore, proxy: Proxy, moment: Moment, step: int
) -> None:
    store = await open_replica(url=proxy.url)
    job = new_job(request_id="request-1")
    documents = [(task_pb2.DocumentRef(document_id="d1", name="a.md"), b"text")]
    proxy.cut(moment, "hma-meta-agent", skip=step)
    made = await store.jobs.create(job, created(job), documents)
    assert made.job_id == job.job_id
    assert [e.sequence for e in await store.log.read(job.job_id)] == [1]
    assert b"".join([p async for p in store.documents.read(job.job_id, "d1")]) == b"text"
    assert len((await store.jobs.page("acme")).jobs) == 1


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", STEPS)
async def test_a_deletion_that_breaks_at_any_step_leaves_all_or_nothing(
    open_replica: OpenStore, proxy: Proxy, moment: Moment, step: int
) -> None:
    store, outside = await open_replica("a", url=proxy.url), await open_replica("b")
    job = new_job()
    documents = [(task_pb2.DocumentRef(document_id="d1", name="a.md"), b"text")]
    await outside.jobs.create(job, created(job), documents)
    [claimed] = await outside.claims.claim(outside.replica_id, driving=())
    await seal(outside, job.job_id, claimed.epoch)
    proxy.cut(moment, "hma-meta-agent", skip=step)
    with contextlib.suppress(Unavailable):
        await store.jobs.delete(job.job_id)
    tables = ("job", "job_event", "job_document")
    left = [await _count(outside, table) for table in tables]
    assert left in ([0, 0, 0], [1, 2, 1])
    with contextlib.suppress(NotFound):
        await store.jobs.delete(job.job_id)
    assert [await _count(outside, table) for table in tables] == [0, 0, 0]


async def _count(store: Store, table: str) -> int:
    found = await store.database.fetchrow(f"SELECT count(*) AS n FROM {table}")
    return int(found["n"]) if found is not None else 0


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_release_whose_reply_is_lost_takes_the_job_from_nobody_else(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    here, there = await open_replica("a", url=proxy.url), await open_replica("b")
    job_id, epoch = await add_claimed_job(here)
    proxy.cut(moment, "hma-meta-agent")
    with pytest.raises(Unavailable):
        await here.claims.release(job_id, epoch)

    async def free() -> bool:  # what was cut inside the statement may still be at work
        await here.claims.release(job_id, epoch)
        return bool(await there.claims.claim(there.replica_id, driving=()))

    await until(free)
    await here.claims.release(job_id, epoch)  # once more, too late
    assert (await there.jobs.get(job_id)).driver == there.replica_id


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_beat_whose_reply_is_lost_costs_no_lease(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store = await open_replica(url=proxy.url)
    proxy.cut(moment, "hma-beat")

    async def cut() -> bool:
        return proxy.cuts_made == 1

    await until(cut)
    assert store.beat.held()
    job_id = await add_job(store)
    assert [c.job_id for c in await store.claims.claim(store.replica_id, driving=())] == [job_id]


@pytest.mark.parametrize("seed", range(4))
async def test_random_cuts_duplicate_and_lose_nothing(
    open_replica: OpenStore, proxy: Proxy, seed: int
) -> None:
    rng = random.Random(seed)
    store, outside = await open_replica("a", url=proxy.url), await open_replica("b")
    jobs = [await add_claimed_job(store) for _ in range(4)]
    written: dict[str, list[str]] = {job_id: [] for job_id, _ in jobs}

    async def drive(job_id: str, epoch: int) -> None:
        while not breaker.done():
            events = [decided(job_id) for _ in range(rng.randint(1, 3))]
            await store.log.append(Append(job_id, epoch, events))
            written[job_id] += [e.event_id for e in events]
            await asyncio.sleep(0.005)

    async def interfere(job_id: str) -> None:
        for _ in range(8):
            event = fact(job_id)
            await outside.log.append_fact(job_id, event)
            written[job_id].append(event.event_id)
            await asyncio.sleep(rng.random() * 0.05)

    async def break_things() -> None:
        async with asyncio.timeout(60):
            while proxy.cuts_made < 6:
                proxy.cut(rng.choice(MOMENTS))
                await asyncio.sleep(rng.random() * 0.2)

    async with asyncio.TaskGroup() as group:
        breaker = group.create_task(break_things())
        for job_id, epoch in jobs:
            group.create_task(drive(job_id, epoch))
            group.create_task(interfere(job_id))

    assert proxy.cuts_made >= 5
    for job_id, _ in jobs:
        events = await outside.log.read(job_id)
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))
        assert sorted(e.event_id for e in events[1:]) == sorted(written[job_id])


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_claim_whose_reply_is_lost_strands_no_job(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store = await open_replica(url=proxy.url)
    job_id = await add_job(store)
    await store.claims.claim(store.replica_id, driving={job_id})  # a warm connection
    await store.database.execute("UPDATE job SET driver = NULL")
    proxy.cut(moment, "hma-meta-agent")
    with pytest.raises(Unavailable):
        await store.claims.claim(store.replica_id, driving=())

    async def claimed() -> bool:
        jobs = await store.claims.claim(store.replica_id, driving=())
        return [j.job_id for j in jobs] == [job_id]

    await until(claimed)


async def test_counters_count_once_when_replies_are_lost(
    open_replica: OpenStore, proxy: Proxy
) -> None:
    store = await open_replica(url=proxy.url)
    key = ("hma_tokens_total", (("kind", "prompt"),))
    await store.fleet.add({key: 1})
    for moment in MOMENTS:
        proxy.cut(moment, "hma-meta-agent")
        with pytest.raises(Unavailable):
            await store.fleet.add({key: 10})
        await store.fleet.add({})
    assert await store.fleet.totals() == {key: 31}
