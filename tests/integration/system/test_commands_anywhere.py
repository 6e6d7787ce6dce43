"""Commands take effect whichever replica they reach, and the model server sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.edge.edge import Edge, running_edge
from tests.integration.system.ledger import agrees
from tests.integration.system.whole import Whole, open_whole
from tests.scripted_llm import Call, Reply, ScriptedLLM

MILLS = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n")
QUESTION = "In which year was the mill built?"

Cancel = meta_agent_pb2.CancelJobRequest
Interrupt = meta_agent_pb2.InterruptJobRequest


def endless(_call: Call) -> Reply:
    """Writes on for as long as it may."""
    return Reply(text=" and so on" * 2000, token_delay=0.5)


def writing(llm: ScriptedLLM) -> bool:
    return any(call.state == "running" and call.completion_tokens for call in llm.calls)


@asynccontextmanager
async def job_driven_elsewhere(
    url: str, deadline: float = 60
) -> AsyncIterator[tuple[Whole, Edge, str]]:
    """A replica whose model writes for a job, and another that drives nothing."""
    async with open_whole(url, endless, profile="smollm2") as driving, running_edge(url) as other:
        job_id = await driving.client.submit(
            QUESTION, documents=[MILLS], budget=8000, deadline=deadline
        )
        await driving.llm.wait_until(writing)
        assert (await other.store.jobs.get(job_id)).driver != other.store.replica_id
        yield driving, other, job_id


@pytest.mark.parametrize(
    ("command", "state"),
    [("cancel", job_pb2.JOB_STATE_CANCELLED), ("interrupt", job_pb2.JOB_STATE_PARTIAL)],
)
async def test_a_command_at_a_replica_that_does_not_drive_aborts_the_call(
    postgres_url: str, command: str, state: job_pb2.JobState.ValueType
) -> None:
    async with job_driven_elsewhere(postgres_url) as (driving, other, job_id):
        if command == "cancel":
            await other.api.CancelJob(Cancel(job_id=job_id, request_id="c"), timeout=30)
        else:
            await other.api.InterruptJob(Interrupt(job_id=job_id, request_id="i"), timeout=30)
        await driving.llm.wait_until(lambda llm: all(c.state == "aborted" for c in llm.calls))
        job = await driving.client.wait(job_id, timeout=30)
        agrees(job, driving)
    assert job.state == state


async def test_a_deadline_aborts_the_call_and_every_replica_sees_the_end(postgres_url: str) -> None:
    async with job_driven_elsewhere(postgres_url, deadline=12) as (driving, other, job_id):
        await driving.llm.wait_until(lambda llm: all(c.state == "aborted" for c in llm.calls))
        row = await other.watches.wait_ended(job_id, 30)
        job = await driving.client.get(job_id)
        agrees(job, driving)
    assert row.sealed
    assert job.end_time.ToNanoseconds() <= job.deadline_time.ToNanoseconds()


async def test_progress_of_a_real_driver_is_seen_elsewhere(postgres_url: str) -> None:
    async with job_driven_elsewhere(postgres_url) as (driving, other, job_id):
        watching = other.api.WatchJob(meta_agent_pb2.WatchJobRequest(job_id=job_id), timeout=30)
        async for update in watching:
            if update.progress.attempts:
                break
        else:
            pytest.fail("the watch ended without progress")
        assert update.progress.job_id == job_id
        watching.cancel()
        await other.api.CancelJob(Cancel(job_id=job_id), timeout=30)
        await driving.client.wait(job_id, timeout=30)
