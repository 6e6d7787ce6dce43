"""The asyncio client against a scripted MetaAgent over real gRPC."""

from __future__ import annotations

import asyncio
import time

import pytest

import hma
from hma.client import Backoff
from hma.errors import CallFailed, DeadlinePassed, NotFound, PreconditionFailed, Unavailable
from hma.v1 import common_pb2
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent

QUICK = Backoff(tries=4, first=0.02)


def connect(server: ScriptedMetaAgent) -> hma.AsyncClient:
    return hma.AsyncClient(server.address, backoff=QUICK, resume=QUICK)


async def test_jobs_run_side_by_side(server: ScriptedMetaAgent) -> None:
    async with connect(server) as client, asyncio.TaskGroup() as group:
        runs = [group.create_task(client.run(f"Job {n}?", budget=5000)) for n in range(5)]
    assert all(run.result().state == hma.JobState.JOB_STATE_SUCCEEDED for run in runs)
    assert len({run.result().job_id for run in runs}) == 5


async def test_a_broken_watch_resumes_without_gap_or_repeat(server: ScriptedMetaAgent) -> None:
    server.break_watch_after(3, 7, 7, 20)
    async with connect(server) as client:
        job_id = await client.submit("Which ports?", budget=5000)
        sequences = [u.event.sequence async for u in client.watch(job_id) if u.HasField("event")]
        last = (await client.get(job_id)).last_sequence
    assert sequences == list(range(1, last + 1))
    assert server.servicer.calls["WatchJob"] == 4


async def test_a_watch_of_what_is_seen_ends_at_once(server: ScriptedMetaAgent) -> None:
    async with connect(server) as client:
        job = await client.run("Which ports?", budget=5000)
        updates = client.watch(job.job_id, after=job.last_sequence, events_only=True)
        assert [update async for update in updates] == []


async def test_a_cancelled_watch_ends_at_once(slow_server: ScriptedMetaAgent) -> None:
    async with connect(slow_server) as client:
        job_id = await client.submit("Which ports?", budget=5000)

        async def follow() -> None:
            async for _ in client.watch(job_id):
                pass

        task = asyncio.create_task(follow())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)


async def test_a_lost_reply_makes_one_job_only(server: ScriptedMetaAgent) -> None:
    server.lose_reply("CreateJob")
    async with connect(server) as client:
        job_id = await client.submit("Which ports?", budget=5000)
    assert list(server.servicer.jobs) == [job_id]


async def test_every_command_works(slow_server: ScriptedMetaAgent) -> None:
    async with connect(slow_server) as client:
        first = await client.submit("One?", budget=5000)
        second = await client.submit("Two?", budget=5000)
        assert [job.job_id async for job in client.list(limit=5)] == [second, first]
        await client.grant(first, 100)
        await client.interrupt(first)
        await client.cancel(second)
        assert (await client.wait(first)).state == hma.JobState.JOB_STATE_PARTIAL
        assert (await client.wait(second)).state == hma.JobState.JOB_STATE_CANCELLED
        with pytest.raises(PreconditionFailed):
            await client.cancel(first)
        slow_server.lose_reply("DeleteJob")
        await client.delete(first)
        with pytest.raises(NotFound):
            await client.get(first)
        assert (await client.status()).replicas == 1


async def test_wait_gives_up_in_time(slow_server: ScriptedMetaAgent) -> None:
    async with connect(slow_server) as client:
        job_id = await client.submit("Which ports?", budget=5000)
        began = time.monotonic()
        with pytest.raises(DeadlinePassed):
            await client.wait(job_id, 0.5)
    assert time.monotonic() - began > 0.4


async def test_nobody_there_says_what_to_start() -> None:
    async with hma.AsyncClient("127.0.0.1:1", backoff=Backoff(tries=1)) as client:
        with pytest.raises(Unavailable, match="make up") as caught:
            await client.status()
    assert caught.value.reason == "UNREACHABLE"


async def test_an_answering_server_is_not_called_unreachable(server: ScriptedMetaAgent) -> None:
    server.fail("GetSystemStatus", *[Unavailable("the database is away")] * 4)
    async with connect(server) as client:
        with pytest.raises(Unavailable) as caught:
            await client.status()
    assert caught.value.reason == "UNAVAILABLE"


async def test_a_job_is_explained(server: ScriptedMetaAgent) -> None:
    async with connect(server) as client:
        job = await client.run("Which ports?", budget=5000)
        told = await client.explain(job.job_id)
        with pytest.raises(NotFound):
            await client.explain("job-01k0other000000000000000000")
    assert [account.task_id for account in told.accounts] == [
        *("plan", "t1", "t2", "t3", "t4"),
        "reduce",
    ]


async def test_a_call_that_a_stopping_server_cancels_is_sent_again(
    server: ScriptedMetaAgent,
) -> None:
    server.fail("CreateJob", CallFailed("stopping", common_pb2.FAILURE_CLASS_CANCELLED))
    async with connect(server) as client:
        job = await client.run("Which ports?", budget=5000)
    assert job.state == hma.JobState.JOB_STATE_SUCCEEDED
