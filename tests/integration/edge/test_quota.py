"""Quotas over gRPC: what a refused caller is told, and what GetQuota says."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from hma.errors import InvalidRequest, PermissionDenied, PreconditionFailed, QuotaExceeded
from hma.rpc.status import from_rpc_error
from hma.v1 import admin_pb2, job_pb2, meta_agent_pb2
from services.meta_agent.access.caller import Caller, set_caller
from services.meta_agent.edge.quota import get_quota, set_quota
from tests.integration.edge.edge import Edge

Create = meta_agent_pb2.CreateJobRequest
OPERATOR = admin_pb2.CALLER_ROLE_OPERATOR
ADMIN = admin_pb2.CALLER_ROLE_ADMIN


async def limit(edge: Edge, **limits: int) -> None:
    request = admin_pb2.SetQuotaRequest(tenant="default")
    request.limits.CopyFrom(admin_pb2.QuotaLimits(**limits))
    await set_quota(edge.store, request)


async def test_a_job_over_quota_is_refused_with_all_that_a_client_needs(fresh_edge: Edge) -> None:
    await limit(fresh_edge, requests_per_minute=1)
    await fresh_edge.create()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fresh_edge.create()
    error = refused.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(error.trailing_metadata() or ())
    assert trailers["x-ratelimit-limit"] == "1"
    assert trailers["x-ratelimit-remaining"] == "0"
    assert 58 <= int(trailers["x-ratelimit-reset"]) <= 61
    assert trailers["retry-after"] == trailers["x-ratelimit-reset"]
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert [any(d.Unpack(each) for d in status.details) for each in (failure, retry)] == [True] * 2
    assert failure.violations[0].subject == "tenant:default/requests_per_minute"
    typed = from_rpc_error(error)
    assert isinstance(typed, QuotaExceeded)
    assert typed.retry_after is not None


async def test_a_caller_that_waits_gets_its_job_and_reads_what_it_waits_for(
    fresh_edge: Edge,
) -> None:
    await limit(fresh_edge, requests_per_minute=1)
    await fresh_edge.create()
    job = job_pb2.JobSpec(task_description="Which port?", total_budget_tokens=4000)
    made = await fresh_edge.api.CreateJob(
        Create(job=job, over_quota=meta_agent_pb2.OVER_QUOTA_WAIT), timeout=30
    )
    assert made.state == job_pb2.JOB_STATE_QUEUED
    found = await fresh_edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=made.job_id))
    assert found.state_reason.startswith("waits for quota: requests_per_minute has room again at")


async def test_get_quota_says_limits_use_and_when_each_window_frees(fresh_edge: Edge) -> None:
    await limit(fresh_edge, requests_per_hour=5, tokens_per_minute=9000)
    await fresh_edge.create()
    quota = await fresh_edge.api.GetQuota(admin_pb2.GetQuotaRequest(), timeout=30)
    assert quota.tenant == "default"
    assert quota.limits.tokens_per_minute == 9000
    uses = {use.name: use for use in quota.uses}
    assert uses.keys() == {"requests_per_hour", "tokens_per_minute"}
    assert (uses["requests_per_hour"].used, uses["requests_per_hour"].limit) == (1, 5)
    assert uses["requests_per_hour"].HasField("next_free_time")
    assert uses["tokens_per_minute"].used == uses["tokens_per_minute"].held > 0
    assert not uses["tokens_per_minute"].HasField("next_free_time")


async def test_only_operators_see_and_set_the_quota_of_others(fresh_edge: Edge) -> None:
    store = fresh_edge.store
    set_caller(Caller(tenant="acme", subject="key:1", role=ADMIN))
    other = admin_pb2.GetQuotaRequest(tenant="other")
    with pytest.raises(PermissionDenied):
        await get_quota(store, other, "acme")
    with pytest.raises(PermissionDenied):
        await set_quota(store, admin_pb2.SetQuotaRequest(tenant="acme", preset="unlimited"))
    assert (await get_quota(store, admin_pb2.GetQuotaRequest(tenant="acme"), "acme")).tenant
    set_caller(Caller(tenant="acme", subject="key:2", role=OPERATOR))
    await set_quota(store, admin_pb2.SetQuotaRequest(tenant="other", preset="large"))
    found = await get_quota(store, other, "acme")
    assert (found.tenant, found.limits.concurrent_jobs) == ("other", 100)
    with pytest.raises(InvalidRequest):
        await get_quota(store, admin_pb2.GetQuotaRequest(tenant="no such\0name"), "acme")


async def test_a_job_from_before_the_limits_cannot_be_topped_up_past_them(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    grant = meta_agent_pb2.GrantBudgetRequest(job_id=job_id, tokens=900_000, request_id="a")
    await limit(fresh_edge, tokens_per_hour=100)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fresh_edge.api.GrantBudget(grant, timeout=30)
    error = from_rpc_error(refused.value)
    assert isinstance(error, PreconditionFailed)
    assert error.reason == "OUTSIDE_QUOTA"
    await limit(fresh_edge, requests_per_hour=100)
    await set_quota(
        fresh_edge.store,
        admin_pb2.SetQuotaRequest(tenant="default", update=["tokens_per_hour"]),
    )
    job = await fresh_edge.api.GrantBudget(grant, timeout=30)
    assert job.budget.max_tokens > 900_000
