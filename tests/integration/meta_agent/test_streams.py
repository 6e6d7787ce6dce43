"""What becomes of a job's streams when their attempts, or the driver, end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hma.rpc.attempt_stream import Finished, Outcome
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2, worker_pb2
from services.meta_agent.driving.streams import Streams
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold, TaskFold
from tests.integration.rpc.support import until
from tests.unit.meta_agent.simulation import make_created, make_rules

DONE = Finished(attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED))


class ScriptedStream:
    """A stream that ends when told to, and closes when told to."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.ends = asyncio.Event()
        self.closes = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.acked = False

    async def __aenter__(self) -> ScriptedStream:
        return self

    async def __aexit__(self, kind: Any, _error: Any, _trace: Any) -> None:
        try:
            if kind is None:
                await self.closes.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if kind is not None:
            self.cancelled.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self.ends.wait()
        self.outcome = DONE
        return
        yield

    def ack(self) -> None:
        self.acked = True


class Services:
    """Opens scripted streams."""

    def __init__(self) -> None:
        self.streams: dict[str, ScriptedStream] = {}

    def open(self, start: worker_pb2.ExecuteStart) -> ScriptedStream:
        stream = self.streams[start.attempt.ref.task_uid] = ScriptedStream()
        return stream


class Clock:
    """Stands still."""

    def now(self) -> float:
        return 0.0


def make_fold(*uids: str) -> JobFold:
    """A job with an open attempt at each task."""
    attempts = [
        AttemptFold(
            uid=uid,
            number=1,
            role=common_pb2.ROLE_WORKER,
            route="fast",
            epoch=1,
            grant=attempt_pb2.Grant(call=1, tokens=9),
            start=0.0,
            deadline=60.0,
        )
        for uid in uids
    ]
    tasks = {
        uid: TaskFold(
            uid=uid,
            task=task_pb2.Task(id=uid),
            layer=0,
            source=attempt_pb2.PLAN_SOURCE_STRUCTURAL,
            allotted=9,
        )
        for uid in uids
    }
    return JobFold(
        job_id="j",
        epoch=1,
        created=make_created(items=0),
        state=job_pb2.JOB_STATE_RUNNING,
        tasks=tasks,
        attempts={attempt.key: attempt for attempt in attempts},
    )


def finish(fold: JobFold, uid: str) -> JobFold:
    done = replace(fold.attempts[uid, 1], status=AttemptStatus.FINISHED)
    return replace(fold, attempts=MappingProxyType({**fold.attempts, done.key: done}))


async def opened(*uids: str) -> tuple[Streams, Services, JobFold]:
    services, fold = Services(), make_fold(*uids)
    streams = Streams(services, Clock(), lambda: None)  # type: ignore[arg-type]
    streams.carry_out(fold, 0.0, make_rules())
    await asyncio.sleep(0)
    return streams, services, fold


async def end(streams: Streams, stream: ScriptedStream) -> None:
    stream.ends.set()
    await until(lambda: bool(streams.inbox()))


async def test_closing_hangs_up_at_once_on_what_runs_and_waits_for_what_is_over() -> None:
    streams, services, fold = await opened("runs", "over")
    await end(streams, services.streams["over"])
    fold = finish(fold, "over")
    streams.carry_out(fold, 0.0, make_rules())
    assert services.streams["over"].acked
    closing = asyncio.create_task(streams.close())
    async with asyncio.timeout(30):
        await services.streams["runs"].cancelled.wait()
    assert not closing.done()
    services.streams["over"].closes.set()
    async with asyncio.timeout(30):
        await closing
    assert not services.streams["over"].cancelled.is_set()


async def test_closing_that_is_cancelled_still_ends_every_stream() -> None:
    streams, services, fold = await opened("runs", "over")
    await end(streams, services.streams["over"])
    streams.carry_out(finish(fold, "over"), 0.0, make_rules())
    closing = asyncio.create_task(streams.close())
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(closing, return_exceptions=True)
        for stream in services.streams.values():
            await stream.cancelled.wait()


async def test_streams_of_ended_attempts_are_forgotten_and_not_opened_again() -> None:
    streams, services, fold = await opened("a", "b")
    first = services.streams["a"]
    await end(streams, first)
    fold = finish(fold, "a")
    streams.carry_out(fold, 0.0, make_rules())
    assert len(streams) == 2
    first.closes.set()

    def forgotten() -> bool:
        streams.carry_out(fold, 0.0, make_rules())
        return len(streams) == 1

    await until(forgotten)
    assert services.streams["a"] is first
    await streams.close()
