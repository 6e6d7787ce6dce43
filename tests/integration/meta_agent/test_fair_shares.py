"""Who comes first when there is more to do than there is room for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hma.rpc.attempt import Attempt
from hma.v1 import job_pb2, worker_pb2
from services.meta_agent.driving import drivers
from tests.integration.meta_agent.replica import (
    Scripts,
    answer_task,
    open_replica,
    serve_scripts,
)
from tests.unit.meta_agent.simulation import make_created

FLOOD = 50


async def slow(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
    await asyncio.sleep(0.1)
    return await answer_task(start, attempt)


def job_of(tenant: str) -> job_pb2.JobCreated:
    created = make_created(items=3)
    created.tenant = tenant
    return created


@pytest.mark.parametrize(
    "max_jobs", [pytest.param(6, id="few-drivers"), pytest.param(80, id="few-places")]
)
async def test_a_tenant_that_floods_does_not_keep_others_waiting(
    postgres_url: str, max_jobs: int
) -> None:
    async with (
        serve_scripts(Scripts(execute=slow, places=300)) as channel,
        open_replica(postgres_url, channel, places=4, max_jobs=max_jobs) as replica,
    ):
        flood = [await replica.create(job_of("flood")) for _ in range(FLOOD)]
        await replica.until(flood[0], lambda fold: fold.attempts)
        small = [await replica.create(job_of(name)) for name in ("b", "c") for _ in range(2)]
        ended = {job: await replica.ended(job, timeout=50) for job in [*small, *flood]}
    assert all(fold.state == job_pb2.JOB_STATE_SUCCEEDED for fold in ended.values())
    last = max(ended[job].end_time for job in small)
    before = sum(ended[job].end_time < last for job in flood)
    assert before < FLOOD / 2, f"{before} of the flood went first"


async def test_a_place_that_is_free_again_is_taken_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "LOOK_AGAIN", 30.0)
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel, max_jobs=1) as replica,
    ):
        for job_id in [await replica.create(job_of("a")) for _ in range(4)]:
            await replica.ended(job_id, timeout=30)
