"""Waiting for news: woken by NOTIFY, found by the poll when it is lost."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from services.meta_agent.store.append import Append
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.store import StoreOptions
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import add_claimed_job, add_job, decided, fact
from tests.integration.store.proxy import Proxy

SLOW_POLL = StoreOptions(poll_interval=60)


async def test_an_append_wakes_waiters_on_every_replica(open_replica: OpenStore) -> None:
    here = await open_replica("a", options=SLOW_POLL)
    there = await open_replica("b", options=SLOW_POLL)
    job_id, epoch = await add_claimed_job(here)
    waiters = [
        asyncio.create_task(store.notifications.wait(job_id, 1, 50)) for store in (here, there)
    ]
    other = asyncio.create_task(there.notifications.wait("job-other", 0, 0.5))
    await asyncio.sleep(0.05)
    await here.log.append(Append(job_id, epoch, [decided(job_id)]))
    assert await asyncio.gather(*waiters) == [True, True]
    assert await other is False


async def test_a_fact_wakes_the_driver_elsewhere(open_replica: OpenStore) -> None:
    driver = await open_replica("a", options=SLOW_POLL)
    edge = await open_replica("b", options=SLOW_POLL)
    job_id, _ = await add_claimed_job(driver)
    waiter = asyncio.create_task(driver.notifications.wait(job_id, 1, 50))
    await asyncio.sleep(0.05)
    await edge.log.append_fact(job_id, fact(job_id))
    assert await waiter


async def test_news_from_before_the_wait_are_not_missed(open_replica: OpenStore) -> None:
    here = await open_replica("a", options=SLOW_POLL)
    there = await open_replica("b", options=SLOW_POLL)
    job_id, other = await add_job(here), await add_job(here)
    await here.log.append_fact(job_id, fact(job_id))
    await here.log.append_fact(other, fact(other))
    # Hints arrive in order: with the second one the first was heard, when nobody waited.
    assert await there.notifications.wait(other, 1, 50)
    assert await there.notifications.wait(job_id, 1, 0)
    assert not await there.notifications.wait(job_id, 2, 0)


async def test_the_poll_finds_what_no_notification_told(
    open_replica: OpenStore, proxy: Proxy
) -> None:
    writer = await open_replica("a")
    reader = await open_replica("b", options=StoreOptions(poll_interval=0.3))
    job_id = await add_job(writer)
    waiter = asyncio.create_task(reader.notifications.wait(job_id, 1, 50))
    await asyncio.sleep(0.05)
    # As if its NOTIFY were lost: written past the store.
    await writer.database.execute("UPDATE job SET version = 2 WHERE id = $1", job_id)
    assert await waiter


async def test_what_was_missed_while_disconnected_is_found_on_reconnecting(
    open_replica: OpenStore, proxy: Proxy
) -> None:
    writer = await open_replica("a")
    reader = await open_replica("b", url=proxy.url, options=SLOW_POLL)
    job_id, epoch = await add_claimed_job(writer)
    waiter = asyncio.create_task(reader.notifications.wait(job_id, 1, 50))
    await asyncio.sleep(0.05)
    proxy.down()
    await writer.log.append(Append(job_id, epoch, [decided(job_id)]))
    proxy.up()
    assert await waiter
    # And it listens again.
    waiter = asyncio.create_task(reader.notifications.wait(job_id, 2, 50))
    await writer.log.append(Append(job_id, epoch, [decided(job_id)]))
    assert await waiter


async def test_a_new_job_wakes_claimers(open_replica: OpenStore) -> None:
    edge = await open_replica("a", options=SLOW_POLL)
    claimer = await open_replica("b", options=SLOW_POLL)
    mark = claimer.notifications.claimable_mark()
    assert not await claimer.notifications.wait_claimable(mark, 0.1)
    waiter = asyncio.create_task(claimer.notifications.wait_claimable(mark, 50))
    await asyncio.sleep(0)
    await add_job(edge)
    assert await waiter
    # A hint between claim and wait is not lost.
    assert await claimer.notifications.wait_claimable(mark, 0)


async def test_a_released_job_wakes_claimers(open_replica: OpenStore) -> None:
    here = await open_replica("a", options=SLOW_POLL)
    there = await open_replica("b", options=SLOW_POLL)
    job_id, epoch = await add_claimed_job(here)
    mark = there.notifications.claimable_mark()
    waiter = asyncio.create_task(there.notifications.wait_claimable(mark, 50))
    await here.claims.release(job_id, epoch)
    assert await waiter


async def test_many_hints_travel_in_few_notifications(open_replica: OpenStore) -> None:
    here = await open_replica("a", options=SLOW_POLL)
    there = await open_replica("b", options=SLOW_POLL)
    heard: list[str] = []
    listener = await asyncpg.connect(here.database.url)
    try:
        await listener.add_listener("hma_job", lambda *args: heard.append(args[3]))
        for number in range(1000):
            here.notifications.publish(f"job-{number:026}", 7)
        assert await there.notifications.wait(f"job-{999:026}", 6, 10)
        await listener.execute("SELECT 1")
    finally:
        await listener.close()
    assert len(heard) <= 6
    assert max(map(len, heard)) < 8000


async def test_waiting_leaves_nothing_behind(open_replica: OpenStore) -> None:
    store = await open_replica("a", options=SLOW_POLL)
    waits = [store.notifications.wait(f"job-{i}", 0, 0.05) for i in range(20)]
    cancelled = asyncio.create_task(store.notifications.wait("job-x", 0, 60))
    assert await asyncio.gather(*waits) == [False] * 20
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert store.notifications.waiting() == 0


async def test_it_ends_while_the_database_is_away(proxy: Proxy, open_replica: OpenStore) -> None:
    store = await open_replica("a", url=proxy.url)
    proxy.down()
    async with asyncio.timeout(30), Notifications(store.database):
        await asyncio.sleep(0.3)
    proxy.up()


async def test_a_defect_in_a_poll_does_not_end_the_polling(
    open_replica: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await open_replica("a", options=StoreOptions(poll_interval=0.05))
    job_id = await add_job(here)
    fetch, failed = here.notifications._database.fetch, asyncio.Event()

    async def broken(*arguments: object) -> object:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("planted")
        return await fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(here.notifications._database), "fetch", staticmethod(broken))
    waiter = asyncio.create_task(here.notifications.wait(job_id, 1, 50))
    await failed.wait()
    await here.database.execute("UPDATE job SET version = 2 WHERE id = $1", job_id)
    assert await waiter, "only a poll can find this"
