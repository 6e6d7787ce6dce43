"""Progress is seen on every replica, whichever drives the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.edge.edge import Edge, running_edge
from tests.integration.edge.test_watch import next_event, next_progress, sequences
from tests.integration.store.making import until

Watch = meta_agent_pb2.WatchJobRequest
Ask = meta_agent_pb2.WatchProgressRequest
PROGRESS = "/hma.v1.InternalService/WatchProgress"


@pytest.fixture
async def two(postgres_url: str) -> AsyncIterator[tuple[Edge, Edge]]:
    """Two replicas on one database."""
    async with running_edge(postgres_url) as one, running_edge(postgres_url) as other:
        yield one, other


def snapshot(job_id: str, ready: int) -> job_pb2.JobProgress:
    return job_pb2.JobProgress(job_id=job_id, sequence=1, ready_tasks=ready)


async def reaches(condition: Callable[[], object]) -> None:
    async def met() -> bool:
        return bool(condition())

    await until(met)


async def progress_of(updates: AsyncIterator[meta_agent_pb2.WatchJobResponse], ready: int) -> None:
    """Reads until a snapshot says `ready`."""
    async with asyncio.timeout(30):
        while (await next_progress(updates)).ready_tasks != ready:
            pass


async def test_a_replica_that_does_not_drive_shows_events_then_progress_then_live(
    two: tuple[Edge, Edge],
) -> None:
    driving, other = two
    job_id = await driving.create()
    await driving.note(job_id, "one", count=2)
    driving.board.publish(snapshot(job_id, 7))
    updates = aiter(other.api.WatchJob(Watch(job_id=job_id, after_sequence=1), timeout=30))
    first, second, third = [await asyncio.wait_for(anext(updates), 30) for _ in range(3)]
    assert (first.event.sequence, second.event.sequence) == (2, 3)
    assert third.progress.ready_tasks == 7
    driving.board.publish(snapshot(job_id, 6))
    await progress_of(updates, 6)
    await driving.note(job_id, "two")
    assert (await next_event(updates)).state_changed.reason == "two"
    await driving.finish(job_id)
    driving.board.forget(job_id)
    assert (await next_event(updates)).HasField("job_finished")
    with pytest.raises(StopAsyncIteration):
        await anext(updates)
    # The client hears of the end before the replica has put everything away.
    await reaches(lambda: len(other.relays) == len(other.board) == 0)


async def test_many_watchers_share_one_relay_which_ends_with_the_last(
    two: tuple[Edge, Edge],
) -> None:
    driving, other = two
    job_id = await driving.create()
    await driving.claim(job_id)
    driving.board.publish(snapshot(job_id, 3))
    calls = [other.api.WatchJob(Watch(job_id=job_id), timeout=30) for _ in range(20)]
    for call in calls:
        await progress_of(aiter(call), 3)
    assert len(other.relays) == 1
    assert driving.running(PROGRESS) == 1
    for call in calls[1:]:
        call.cancel()
    driving.board.publish(snapshot(job_id, 2))
    await progress_of(aiter(calls[0]), 2)
    assert driving.running(PROGRESS) == 1
    calls[0].cancel()
    await reaches(lambda: not len(other.relays) and not driving.running(PROGRESS))
    assert len(other.board) == 0


async def test_watchers_of_events_only_need_no_relay(two: tuple[Edge, Edge]) -> None:
    driving, other = two
    job_id = await driving.create()
    await driving.claim(job_id)
    call = other.api.WatchJob(Watch(job_id=job_id, events_only=True), timeout=30)
    await next_event(aiter(call))
    assert len(other.relays) == 0
    call.cancel()


async def test_progress_follows_the_job_to_another_driver_and_home(two: tuple[Edge, Edge]) -> None:
    first, watching = two
    job_id = await first.create()
    await first.claim(job_id)
    first.board.publish(snapshot(job_id, 9))
    updates = aiter(watching.api.WatchJob(Watch(job_id=job_id), timeout=60))
    await progress_of(updates, 9)
    # The watching replica takes the job over: its own snapshots are shown, nothing is relayed.
    await first.store.claims.release(job_id, first.epochs.pop(job_id))
    first.board.forget(job_id)
    await watching.note(job_id, "taken over")
    watching.board.publish(snapshot(job_id, 5))
    await progress_of(updates, 5)
    await reaches(lambda: not first.running(PROGRESS))
    # And gives it back.
    await watching.store.claims.release(job_id, watching.epochs.pop(job_id))
    watching.board.forget(job_id)
    await first.note(job_id, "taken back")
    first.board.publish(snapshot(job_id, 4))
    await progress_of(updates, 4)


async def test_a_driver_that_stands_still_is_left_when_another_has_the_job(
    two: tuple[Edge, Edge],
) -> None:
    stuck, watching = two
    job_id = await stuck.create()
    await stuck.claim(job_id)
    stuck.board.publish(snapshot(job_id, 9))
    updates = aiter(watching.api.WatchJob(Watch(job_id=job_id), timeout=60))
    await progress_of(updates, 9)
    # It keeps its streams open and says nothing; its job is claimed all the same.
    await stuck.store.database.execute("UPDATE job SET driver = NULL WHERE id = $1", job_id)
    await watching.note(job_id, "taken over")
    await reaches(lambda: not stuck.running(PROGRESS))
    watching.board.publish(snapshot(job_id, 5))
    await progress_of(updates, 5)


async def test_a_replica_answers_for_what_it_drives_only(two: tuple[Edge, Edge]) -> None:
    driving, other = two
    job_id = await driving.create()
    await driving.claim(job_id)
    driving.board.publish(snapshot(job_id, 9))
    watching = aiter(other.api.WatchJob(Watch(job_id=job_id), timeout=30))
    await progress_of(watching, 9)  # so the other one has a relayed snapshot
    relayed = [r async for r in other.internal.WatchProgress(Ask(job_id=job_id), timeout=30)]
    assert relayed == []
    own = driving.internal.WatchProgress(Ask(job_id=job_id), timeout=30)
    first = await own.read()
    assert isinstance(first, meta_agent_pb2.WatchProgressResponse)
    assert first.progress.ready_tasks == 9
    driving.board.forget(job_id)
    assert await own.read() is grpc.aio.EOF


async def test_a_stopping_replica_ends_what_it_tells_others(two: tuple[Edge, Edge]) -> None:
    driving, _ = two
    job_id = await driving.create()
    driving.board.publish(snapshot(job_id, 9))
    own = driving.internal.WatchProgress(Ask(job_id=job_id), timeout=30)
    await own.read()
    driving.watches.drain()
    assert await asyncio.wait_for(own.read(), 30) is grpc.aio.EOF


async def test_a_watcher_elsewhere_that_stops_reading_holds_up_nobody(
    two: tuple[Edge, Edge],
) -> None:
    driving, other = two
    job_id = await driving.create()
    await driving.claim(job_id)
    dead = other.api.WatchJob(Watch(job_id=job_id), timeout=60)
    quick = aiter(other.api.WatchJob(Watch(job_id=job_id), timeout=60))
    await next_event(aiter(dead))
    for number in range(20):
        await driving.note(job_id, f"{number} " + "x" * 50_000, count=20)
        driving.board.publish(snapshot(job_id, number))
    await driving.finish(job_id)
    driving.board.forget(job_id)
    assert await asyncio.wait_for(sequences(quick), 30) == list(range(1, 403))
    assert await asyncio.wait_for(sequences(dead), 30) == list(range(2, 403))
