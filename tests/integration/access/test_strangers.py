"""Every RPC with a stranger's job: as if there were none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from hma.errors import NotFound
from hma.rpc.status import from_rpc_error
from hma.v1 import meta_agent_pb2
from services.meta_agent.access.roles import LEAST_ROLE
from tests.integration.access.callers import Door, identity

pb = meta_agent_pb2
NEVER = "job-01ARZ3NDEKTSV4RRFFQ69G5FAV"

REQUESTS: dict[str, Callable[[str], Any]] = {
    "GetJob": lambda job: pb.GetJobRequest(job_id=job),
    "WatchJob": lambda job: pb.WatchJobRequest(job_id=job),
    "ExplainJob": lambda job: pb.ExplainJobRequest(job_id=job),
    "CancelJob": lambda job: pb.CancelJobRequest(job_id=job, request_id="the same"),
    "InterruptJob": lambda job: pb.InterruptJobRequest(job_id=job, request_id="the same"),
    "GrantBudget": lambda job: pb.GrantBudgetRequest(job_id=job, tokens=10, request_id="the same"),
    "DeleteJob": lambda job: pb.DeleteJobRequest(job_id=job, request_id="the same"),
}
WITHOUT_A_JOB = {"CreateJob", "ListJobs", "GetUsage", "GetQuota", "GetSystemStatus"}


async def make(door: Door, caller: Any, request_id: str = "") -> str:
    request = pb.CreateJobRequest(job=door.edge.spec(), request_id=request_id)
    return (await door.edge.api.CreateJob(request, timeout=30, metadata=caller)).job_id


async def call(door: Door, method: str, request: Any, caller: Any) -> Any:
    stub = getattr(door.edge.api, method)
    if method == "WatchJob":
        return await anext(aiter(stub(request, timeout=30, metadata=caller)))
    return await stub(request, timeout=30, metadata=caller)


def test_every_rpc_with_a_job_is_here() -> None:
    public = {name.rpartition("/")[2] for name in LEAST_ROLE if "MetaAgentService" in name}
    assert public == set(REQUESTS) | WITHOUT_A_JOB


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_strangers_job_is_as_if_it_were_none(door: Door, method: str) -> None:
    job_id = await make(door, identity("theirs"))
    # Its owner has used the very request_id, for something else: no reason to compare.
    used = pb.GrantBudgetRequest(job_id=job_id, tokens=77, request_id="the same")
    await door.edge.api.GrantBudget(used, timeout=30, metadata=identity("theirs"))
    told = []
    for job in (job_id, NEVER):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(door, method, REQUESTS[method](job), identity("mine"))
        missing = from_rpc_error(error.value)
        assert isinstance(missing, NotFound)
        told.append((missing.reason, missing.message.replace(job, "JOB")))
    assert told[0] == told[1]
    # Nothing has come of it.
    log = await door.edge.store.log.read(job_id)
    assert [event.WhichOneof("payload") for event in log] == ["job_created", "budget_granted"]


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_strangers_deleted_job_is_as_if_it_had_never_been(door: Door, method: str) -> None:
    job_id = await make(door, identity("theirs"))
    await door.edge.finish(job_id)
    gone = pb.DeleteJobRequest(job_id=job_id, request_id="the same")
    await door.edge.api.DeleteJob(gone, timeout=30, metadata=identity("theirs"))
    for job in (job_id, NEVER):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(door, method, REQUESTS[method](job), identity("mine"))
        assert from_rpc_error(error.value).message == f"There is no job {job}."
    # For its owner, deleting it again by the same request changes nothing.
    await door.edge.api.DeleteJob(gone, timeout=30, metadata=identity("theirs"))


async def test_lists_and_sums_are_of_ones_own(door: Door) -> None:
    job_id = await make(door, identity("lists-theirs"))
    for caller, jobs in ((identity("lists-mine"), []), (identity("lists-theirs"), [job_id])):
        page = await door.edge.api.ListJobs(pb.ListJobsRequest(), timeout=30, metadata=caller)
        assert [job.job_id for job in page.jobs] == jobs
        usage = await door.edge.api.GetUsage(
            pb.GetUsageRequest(by=[pb.USAGE_GROUPING_TENANT]), timeout=30, metadata=caller
        )
        assert usage.total.calls == 0


async def test_the_same_request_id_makes_a_job_in_each_tenant(door: Door) -> None:
    ids = {
        tenant: {await make(door, identity(tenant), "same") for _ in range(2)}
        for tenant in ("one", "two")
    }
    assert all(len(made) == 1 for made in ids.values())
    assert ids["one"] != ids["two"]


async def test_a_page_token_of_another_tenant_is_none(door: Door) -> None:
    for _ in range(2):
        await make(door, identity("pages"))
    first = await door.edge.api.ListJobs(
        pb.ListJobsRequest(page_size=1), timeout=30, metadata=identity("pages")
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await door.edge.api.ListJobs(
            pb.ListJobsRequest(page_token=first.next_page_token),
            timeout=30,
            metadata=identity("mine"),
        )
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
