from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
import pytest

from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.edge import watch
from tests.integration.edge.edge import Edge
from tests.integration.rpc.support import until

Watch = meta_agent_pb2.WatchJobRequest
Update = meta_agent_pb2.WatchJobResponse


async def sequences(updates: AsyncIterable[Update]) -> list[int]:
    return [u.event.sequence async for u in updates if u.HasField("event")]


async def next_event(updates: AsyncIterator[Update]) -> job_pb2.JobEvent:
    while True:
        update = await asyncio.wait_for(anext(updates), 30)
        if update.HasField("event"):
            return update.event


async def next_progress(updates: AsyncIterator[Update]) -> job_pb2.JobProgress:
    while True:
        update = await asyncio.wait_for(anext(updates), 30)
        if update.HasField("progress"):
            return update.progress


async def test_an_ended_jobs_log_is_streamed_whole_and_ends(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.note(job_id, "busy", count=2 * watch.LOT + 5)
    await edge.finish(job_id)
    last = 2 * watch.LOT + 7
    assert await sequences(edge.api.WatchJob(Watch(job_id=job_id), timeout=30)) == list(
        range(1, last + 1)
    )
    resumed = edge.api.WatchJob(Watch(job_id=job_id, after_sequence=last - 3), timeout=30)
    assert await sequences(resumed) == [last - 2, last - 1, last]


@pytest.mark.parametrize("beyond", [0, 5])
async def test_watching_from_the_end_of_an_ended_job_ends_at_once(edge: Edge, beyond: int) -> None:
    job_id = await edge.create()
    await edge.finish(job_id)
    resumed = edge.api.WatchJob(Watch(job_id=job_id, after_sequence=2 + beyond), timeout=30)
    assert await sequences(resumed) == []


async def test_events_arrive_live_in_order_until_the_last(edge: Edge) -> None:
    job_id = await edge.create()
    updates = aiter(edge.api.WatchJob(Watch(job_id=job_id), timeout=30))
    assert (await next_event(updates)).HasField("job_created")
    await edge.note(job_id, "one")
    assert (await next_event(updates)).state_changed.reason == "one"
    request = meta_agent_pb2.InterruptJobRequest(job_id=job_id, reason="now")
    await edge.api.InterruptJob(request, timeout=30)
    assert (await next_event(updates)).interrupt_requested.reason == "now"
    await edge.finish(job_id)
    last = await next_event(updates)
    assert last.job_finished.answer.text == "8080"
    assert last.sequence == 4
    with pytest.raises(StopAsyncIteration):
        await anext(updates)


async def test_a_broken_watch_resumes_without_a_gap(edge: Edge) -> None:
    job_id = await edge.create()
    call = edge.api.WatchJob(Watch(job_id=job_id), timeout=30)
    await edge.note(job_id, "one", count=10)
    seen = [(await next_event(aiter(call))).sequence for _ in range(4)]
    call.cancel()
    await edge.note(job_id, "two", count=10)
    await edge.finish(job_id)
    rest = edge.api.WatchJob(Watch(job_id=job_id, after_sequence=seen[-1]), timeout=30)
    assert seen + await sequences(rest) == list(range(1, 23))
    # Closing a stream has not touched the job.
    assert (await edge.store.jobs.get(job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_progress_comes_after_the_events_and_then_live(edge: Edge) -> None:
    job_id = await edge.create()
    edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1, ready_tasks=7))
    updates = aiter(edge.api.WatchJob(Watch(job_id=job_id), timeout=30))
    first, second = await anext(updates), await anext(updates)
    assert (first.event.sequence, second.progress.ready_tasks) == (1, 7)
    edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1, ready_tasks=6))
    assert (await next_progress(updates)).ready_tasks == 6


async def test_snapshots_are_coalesced_to_four_a_second(edge: Edge) -> None:
    job_id = await edge.create()
    updates = aiter(edge.api.WatchJob(Watch(job_id=job_id), timeout=30))
    await next_event(updates)
    loop = asyncio.get_running_loop()
    shown: list[int] = []

    async def read() -> None:
        while not shown or shown[-1] < 60:
            shown.append((await next_progress(updates)).ready_tasks)

    begin = loop.time()
    reading = asyncio.create_task(read())
    for number in range(61):
        edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1, ready_tasks=number))
        await asyncio.sleep(0.02)
    await asyncio.wait_for(reading, 30)
    # However late each arrives: so many fit into the time that it took.
    assert 2 <= len(shown) <= 1 + (loop.time() - begin) / 0.25
    assert shown == sorted(shown)


async def test_events_only_leaves_progress_out(edge: Edge) -> None:
    job_id = await edge.create()
    edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1))
    call = edge.api.WatchJob(Watch(job_id=job_id, events_only=True), timeout=30)
    await edge.note(job_id, "one")
    edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=2))
    await edge.finish(job_id)
    updates = [update async for update in call]
    assert [u.WhichOneof("update") for u in updates] == ["event"] * 3


@pytest.mark.parametrize("events_only", [True, False])
async def test_an_idle_watch_leaves_the_database_alone(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, events_only: bool
) -> None:
    job_id = await edge.create()
    reads = 0
    read = edge.store.log.read

    async def counted(*arguments: Any) -> list[job_pb2.JobEvent]:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    monkeypatch.setattr(edge.store.log, "read", counted)
    call = edge.api.WatchJob(Watch(job_id=job_id, events_only=events_only), timeout=30)
    await next_event(aiter(call))
    for number in range(30):
        edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1, ready_tasks=number))
        await asyncio.sleep(0.02)
    # A look every ten seconds, were the machine so slow; not one for each snapshot.
    assert reads < 10
    call.cancel()


async def test_a_slow_watcher_slows_nobody_and_misses_no_event(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.claim(job_id)
    slow = edge.api.WatchJob(Watch(job_id=job_id), timeout=60)
    quick = aiter(edge.api.WatchJob(Watch(job_id=job_id), timeout=60))
    await next_event(aiter(slow))
    # Far more than the transport buffers: the slow watcher's stream is stuck.
    for number in range(40):
        await edge.note(job_id, f"{number} " + "x" * 20_000, count=25)
        edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1, ready_tasks=number))
    await edge.finish(job_id)
    assert await sequences(quick) == list(range(1, 1003))
    # Only now does the slow one read on.
    rest = await sequences(slow)
    assert rest == list(range(2, 1003))


async def test_a_watcher_that_takes_nothing_loses_its_place(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.watches, "stall", 0.3)
    job_id = await edge.create()
    for number in range(20):
        await edge.note(job_id, f"{number} " + "x" * 20_000, count=25)
    deaf = edge.api.WatchJob(Watch(job_id=job_id), timeout=60)
    await deaf.wait_for_connection()  # the first event is on its way
    await until(lambda: len(edge.watches) == 0)
    # Should it read one day, it hears why, behind what was on its way.
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(sequences(deaf), 30)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "Nothing was read" in (error.value.details() or "")
    # One that reads stays, however long nothing happens.
    reading = aiter(edge.api.WatchJob(Watch(job_id=job_id, after_sequence=500), timeout=60))
    await next_event(reading)
    await asyncio.sleep(0.6)
    assert len(edge.watches) == 1


async def test_a_stopping_replica_sends_watchers_elsewhere(edge: Edge) -> None:
    job_id = await edge.create()
    updates = aiter(edge.api.WatchJob(Watch(job_id=job_id), timeout=30))
    await next_event(updates)
    edge.watches.drain()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(anext(updates), 30)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_watch_ends_when_the_job_is_deleted(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.finish(job_id)
    read = edge.watches.follow(job_id, 0)
    first = await anext(read)
    assert first.event.sequence == 1
    await edge.api.DeleteJob(meta_agent_pb2.DeleteJobRequest(job_id=job_id), timeout=30)
    # What was read before the job was deleted is still delivered.
    assert [u.event.sequence async for u in read] == [2]


async def test_many_watchers_of_one_job_see_the_same(edge: Edge) -> None:
    job_id = await edge.create()
    watching = [
        asyncio.create_task(sequences(edge.api.WatchJob(Watch(job_id=job_id), timeout=30)))
        for _ in range(40)
    ]
    await edge.note(job_id, "one", count=50)
    await edge.finish(job_id)
    for seen in await asyncio.wait_for(asyncio.gather(*watching), 30):
        assert seen == list(range(1, 53))
    assert len(edge.board) == 0
