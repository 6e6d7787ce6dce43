"""Several MetaAgents behind the gateway: one is killed while jobs run and clients call."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

import hma
from hma.v1 import job_pb2, meta_agent_pb2, meta_agent_pb2_grpc
from tests.chaos.fleet import HOST, Fleet, open_fleet
from tests.chaos.jobs import MILLS, SCRIPT

pytestmark = pytest.mark.timeout(600)

REPLICAS = ("meta-agent-1", "meta-agent-2")
DEADLINE = 60.0
QUESTIONS = "Answer these questions:\n" + "\n".join(
    f"{n}. In which year was mill number {n} built?" for n in range(1, 4)
)
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_PARTIAL)


@dataclass
class Calls:
    """Unary calls that clients made without trying again.

    Attributes:
        answered: How many were, by method.
        failed: (start, end, status) of those that were not; seconds of time.monotonic.
    """

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[float, float, str]] = field(default_factory=list)


@pytest.fixture
async def fleet(open_directory: Path) -> AsyncIterator[Fleet]:
    """Two MetaAgents and all else."""
    async with open_fleet(open_directory / "replicas", SCRIPT, token_delay=0.03) as running:
        yield running


async def test_the_death_of_a_replica_costs_no_call_but_those_in_flight_and_no_job(
    fleet: Fleet,
) -> None:
    calls, stop = Calls(), asyncio.Event()
    async with hma.AsyncClient(f"{HOST}:{fleet.port}") as client:
        jobs = [await _submit(client, f"before-{n}") for n in range(6)]
        victim = fleet.parts[await _driving(fleet)]
        callers = [asyncio.create_task(_call(fleet, each, calls, stop)) for each in jobs]
        await _until(lambda: calls.answered.total() > 100)

        killed = time.monotonic()
        victim.signal(victim.kills)
        await victim.ended(30)
        gone = time.monotonic()

        before = calls.answered.total()
        jobs += [await _submit(client, f"after-{n}") for n in range(4)]
        await _until(lambda: calls.answered.total() > before + 200)
        stop.set()
        await asyncio.gather(*callers)
        states = [(await client.wait(job_id)).state for job_id in jobs]
        page = await asyncio.to_thread(_metrics, fleet.port)

    assert [each for each in calls.failed if each[0] > gone] == []
    # Each caller has one call in flight.
    assert len(calls.failed) <= len(callers)
    assert all(end >= killed for _, end, _ in calls.failed)
    assert set(calls.answered) == {"GetJob", "ListJobs", "GetSystemStatus"}
    assert set(states) <= set(ENDED), states
    assert "hma_tokens_total" in page


async def _submit(client: hma.AsyncClient, name: str) -> str:
    return await client.submit(
        QUESTIONS,
        documents=[MILLS],
        budget=60_000,
        deadline=DEADLINE,
        shape="team",
        request_id=name,
    )


async def _call(fleet: Fleet, job_id: str, calls: Calls, stop: asyncio.Event) -> None:
    """One call after the other; the gateway is the only one that may try again."""
    options = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"{HOST}:{fleet.port}", options=options) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        while not stop.is_set():
            for method, request in (
                ("GetJob", meta_agent_pb2.GetJobRequest(job_id=job_id)),
                ("ListJobs", meta_agent_pb2.ListJobsRequest(page_size=5)),
                ("GetSystemStatus", meta_agent_pb2.GetSystemStatusRequest()),
            ):
                begin = time.monotonic()
                try:
                    await getattr(stub, method)(request, timeout=30)
                except grpc.aio.AioRpcError as error:
                    status = f"{method} {error.code().name} {error.details()}"
                    calls.failed.append((begin, time.monotonic(), status))
                else:
                    calls.answered[method] += 1


async def _driving(fleet: Fleet) -> str:
    """A replica that drives jobs: their end depends on it."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for name in REPLICAS:
            if await asyncio.to_thread(_driven, fleet.parts[name].metrics) >= 1:
                return name
        await asyncio.sleep(0.1)
    raise AssertionError("no replica drives a job")


def _driven(port: int) -> float:
    lines = _metrics(port).splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("hma_jobs_driven ")))


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as page:
        return str(page.read().decode())


async def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
