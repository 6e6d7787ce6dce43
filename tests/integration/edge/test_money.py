"""Budgets in money: at admission and as a top-up, over gRPC."""

from __future__ import annotations

import grpc
import pytest

from hma.errors import InvalidRequest, PreconditionFailed
from hma.rpc.status import from_rpc_error
from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.edge.edge import Edge

Grant = meta_agent_pb2.GrantBudgetRequest


async def create(edge: Edge, *, tokens: int = 0, money: float = 0.0) -> str:
    spec = edge.spec()
    spec.total_budget_tokens = tokens
    spec.budget.max_cost = money
    response = await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest(job=spec), timeout=30)
    return response.job_id


async def granted(edge: Edge, job_id: str) -> list[tuple[int, float]]:
    events = await edge.store.log.read(job_id)
    return [
        (e.budget_granted.tokens, e.budget_granted.cost)
        for e in events
        if e.HasField("budget_granted")
    ]


async def refusal(edge: Edge, request: Grant) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await edge.api.GrantBudget(request, timeout=30)
    return from_rpc_error(error.value)


async def test_money_alone_makes_a_job(edge: Edge) -> None:
    job_id = await create(edge, money=0.02)
    row = await edge.store.jobs.get(job_id)
    assert row.budget_tokens == 20_000
    job = await edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), timeout=30)
    assert (job.budget.max_tokens, job.budget.max_cost) == (20_000, 0.02)


async def test_granted_money_is_in_the_log_once_per_request_id(edge: Edge) -> None:
    job_id = await create(edge, tokens=2000, money=0.5)
    for _ in range(3):
        await edge.api.GrantBudget(Grant(job_id=job_id, request_id="a", cost=0.25), timeout=30)
    await edge.api.GrantBudget(Grant(job_id=job_id, tokens=5, cost=0.125), timeout=30)
    assert await granted(edge, job_id) == [(0, 0.25), (5, 0.125)]


async def test_money_for_a_job_of_money_alone_brings_the_tokens_it_buys(edge: Edge) -> None:
    job_id = await create(edge, money=0.02)
    await edge.api.GrantBudget(Grant(job_id=job_id, cost=0.01), timeout=30)
    assert await granted(edge, job_id) == [(10_000, 0.01)]
    # Never beyond the largest budget, however much money there is.
    await edge.api.GrantBudget(Grant(job_id=job_id, cost=1e6), timeout=30)
    assert (await granted(edge, job_id))[-1] == (10_000_000 - 30_000, 1e6)


@pytest.mark.parametrize("cost", [0.5, 1e308])
async def test_money_for_a_job_without_a_limit_in_money_is_refused(edge: Edge, cost: float) -> None:
    job_id = await create(edge, tokens=2000)
    found = await refusal(edge, Grant(job_id=job_id, cost=cost, tokens=1))
    assert isinstance(found, InvalidRequest)
    assert found.violations[0].field == "cost"
    assert "max_cost" in found.violations[0].description
    assert await granted(edge, job_id) == []


async def test_money_beyond_all_numbers_is_refused(edge: Edge) -> None:
    job_id = await create(edge, tokens=2000, money=1.7e308)
    found = await refusal(edge, Grant(job_id=job_id, cost=1.7e308))
    assert isinstance(found, InvalidRequest)
    assert await granted(edge, job_id) == []


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
async def test_bad_money_changes_nothing(edge: Edge, cost: float) -> None:
    job_id = await create(edge, tokens=2000, money=0.5)
    found = await refusal(edge, Grant(job_id=job_id, cost=cost))
    assert isinstance(found, InvalidRequest)
    assert await granted(edge, job_id) == []


async def test_an_ended_job_takes_no_money(edge: Edge) -> None:
    for tokens, money in ((2000, 0.0), (0, 0.02)):
        job_id = await create(edge, tokens=tokens, money=money)
        await edge.finish(job_id, job_pb2.JOB_STATE_CANCELLED)
        found = await refusal(edge, Grant(job_id=job_id, cost=0.5))
        assert isinstance(found, PreconditionFailed)
