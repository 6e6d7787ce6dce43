"""What does not fit is refused at once, says when to come back, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hma.errors import Overloaded
from hma.rpc.status import from_rpc_error
from hma.settings import Bytes
from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.edge import door
from services.meta_agent.edge.limits import Limits
from tests.integration.edge.edge import Edge, running_edge
from tests.integration.store.making import until

Create = meta_agent_pb2.CreateJobRequest
Watch = meta_agent_pb2.WatchJobRequest


@pytest.fixture
async def narrow(postgres_url: str) -> AsyncIterator[Edge]:
    limits = Limits(max_queued_jobs=3, max_inflight_bytes=Bytes(200_000), max_watches=2)
    async with running_edge(postgres_url, limits=limits) as edge:
        yield edge


async def overloaded(call: Any) -> Overloaded:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    found = from_rpc_error(error.value)
    assert isinstance(found, Overloaded)
    assert found.retry_after
    trailers = {str(key): value for key, value in error.value.trailing_metadata() or ()}
    assert int(trailers["retry-after"]) >= 1
    return found


async def test_jobs_beyond_the_queue_are_refused_until_it_is_shorter(
    narrow: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await narrow.create(request_id=f"r{number}") for number in range(3)]
    assert (await overloaded(narrow.create(request_id="r3"))).reason == "QUEUE_FULL"
    # What was accepted is answered all the same.
    assert await narrow.create(request_id="r0") == made[0]
    assert len((await narrow.store.jobs.page("default")).jobs) == 3
    monkeypatch.setattr(door, "COUNTED_FOR", 0.0)
    assert (await overloaded(narrow.create())).reason == "QUEUE_FULL"
    await narrow.claim(made[0])  # claims them all
    assert await narrow.create(request_id="r3") not in made


async def test_the_flood_of_one_tenant_does_not_lock_out_the_others(
    narrow: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "COUNTED_FOR", 0.0)
    for _ in range(3):
        await narrow.create()
    await narrow.store.database.execute("UPDATE job SET tenant = 'flood'")
    # Of three places each of two tenants has one and a half.
    await narrow.create()
    assert (await overloaded(narrow.create())).reason == "QUEUE_FULL"
    await narrow.store.database.execute("UPDATE job SET tenant = 'b' WHERE tenant = 'default'")
    # Of three tenants each has one place, of four less than one.
    await narrow.create()
    await narrow.store.database.execute("UPDATE job SET tenant = 'c' WHERE tenant = 'default'")
    assert (await overloaded(narrow.create())).reason == "QUEUE_FULL"


async def test_the_queue_is_counted_once_for_many_callers(
    narrow: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, counted = narrow.store.jobs.queued, 0

    async def queued(most: int) -> dict[str, int]:
        nonlocal counted
        counted += 1
        return await count(most)

    monkeypatch.setattr(door, "COUNTED_FOR", 3600.0)
    monkeypatch.setattr(narrow.store.jobs, "queued", queued)
    results = await asyncio.gather(*(narrow.create() for _ in range(30)), return_exceptions=True)
    assert counted == 1
    assert any(isinstance(result, str) for result in results)
    await overloaded(narrow.create())


async def test_requests_beyond_the_bytes_in_flight_are_refused_and_then_fit(
    narrow: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = narrow.spec()
    spec.documents.add(name="b.md", text="x " * 60_000)
    hold, entered = asyncio.Event(), asyncio.Event()
    create = narrow.store.jobs.create

    async def held(*arguments: Any) -> Any:
        entered.set()
        await hold.wait()
        return await create(*arguments)

    monkeypatch.setattr(narrow.store.jobs, "create", held)
    wait = Duration(seconds=20)
    first = asyncio.ensure_future(narrow.api.CreateJob(Create(job=spec, wait=wait), timeout=30))
    await entered.wait()
    refusal = await overloaded(narrow.api.CreateJob(Create(job=spec), timeout=30))
    assert refusal.reason == "TOO_MANY_BYTES"
    hold.set()
    monkeypatch.setattr(narrow.store.jobs, "create", create)
    # The first caller still waits for the job's end; its bytes are no longer in flight.

    async def stored() -> bool:
        return bool((await narrow.store.jobs.page("default")).jobs)

    await until(stored)
    [job] = (await narrow.store.jobs.page("default")).jobs
    await narrow.api.CreateJob(Create(job=spec), timeout=30)
    assert not first.done()
    await narrow.finish(job.job_id)
    assert (await first).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_request_larger_than_the_bound_passes_when_it_is_alone(narrow: Edge) -> None:
    spec = narrow.spec()
    spec.documents.add(name="b.md", text="x " * 200_000)
    assert (await narrow.api.CreateJob(Create(job=spec), timeout=30)).job_id


async def test_watchers_beyond_the_bound_are_refused_and_leaving_makes_room(narrow: Edge) -> None:
    job_id = await narrow.create()
    calls = [narrow.api.WatchJob(Watch(job_id=job_id), timeout=30) for _ in range(2)]
    for call in calls:
        await anext(aiter(call))
    third = narrow.api.WatchJob(Watch(job_id=job_id), timeout=30)
    assert (await overloaded(anext(aiter(third)))).reason == "TOO_MANY_WATCHERS"
    calls[0].cancel()

    async def let_in() -> bool:
        try:
            await anext(aiter(narrow.api.WatchJob(Watch(job_id=job_id), timeout=30)))
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(let_in)
