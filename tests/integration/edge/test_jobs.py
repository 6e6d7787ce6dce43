from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hma.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
)
from hma.rpc.status import from_rpc_error
from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.edge import reader
from services.meta_agent.store.append import Append
from tests.integration.edge.edge import Edge

Get = meta_agent_pb2.GetJobRequest
Cancel = meta_agent_pb2.CancelJobRequest
Interrupt = meta_agent_pb2.InterruptJobRequest
Grant = meta_agent_pb2.GrantBudgetRequest
Delete = meta_agent_pb2.DeleteJobRequest
List = meta_agent_pb2.ListJobsRequest


async def events_of(edge: Edge, job_id: str) -> list[job_pb2.JobEvent]:
    return await edge.store.log.read(job_id)


async def test_an_accepted_job_is_stored_whole(edge: Edge) -> None:
    spec = job_pb2.JobSpec(task_description="Which port? Who?", total_budget_tokens=2000)
    spec.documents.add(name="a.md", text="# A\n\nThe port is 8080.\n")
    response = await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest(job=spec), timeout=30)
    assert response.state == job_pb2.JOB_STATE_QUEUED
    assert response.watch_url == f"http://hma.test/v1/jobs/{response.job_id}:watch"
    assert not response.HasField("job")
    job = await edge.api.GetJob(Get(job_id=response.job_id), timeout=30)
    assert (job.state, job.tenant, job.last_sequence) == (job_pb2.JOB_STATE_QUEUED, "default", 1)
    assert [item.text for item in job.items] == ["Which port?", "Who?"]
    assert job.ledger.budget_tokens == job.budget.max_tokens == 2000
    assert job.deadline_time.seconds - job.create_time.seconds == 600
    assert [d.name for d in job.documents] == ["a.md"]


async def test_a_long_log_is_read_whole_and_read_on(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.note(job_id, "first", count=reader.PAGE + 50)
    job = await edge.api.GetJob(Get(job_id=job_id), timeout=30)
    assert (job.last_sequence, job.state_reason) == (reader.PAGE + 51, "first")
    await edge.note(job_id, "second")
    job = await edge.api.GetJob(Get(job_id=job_id), timeout=30)
    assert (job.last_sequence, job.state_reason) == (reader.PAGE + 52, "second")


async def test_an_event_that_cannot_be_folded_does_not_hide_the_job(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.note(job_id, "before")
    later = job_pb2.JobEvent(job_id=job_id, event_id="later", epoch=edge.epochs[job_id])
    # As a later release would write it: a field that this one does not know.
    later.MergeFromString(b"\xfa\x3f\x00")
    assert later.WhichOneof("payload") is None
    append = Append(job_id=job_id, epoch=edge.epochs[job_id], events=[later], min_reader=99)
    await edge.store.log.append(append)
    await edge.note(job_id, "after")
    job = await edge.api.GetJob(Get(job_id=job_id), timeout=30)
    assert (job.last_sequence, job.state_reason) == (4, "after")
    # A command is answered, too, not only noted.
    granted = await edge.api.GrantBudget(Grant(job_id=job_id, tokens=10), timeout=30)
    assert granted.ledger.budget_tokens == job.ledger.budget_tokens + 10
    await edge.finish(job_id)
    job = await edge.api.GetJob(Get(job_id=job_id), timeout=30)
    assert (job.state, job.answer.text) == (job_pb2.JOB_STATE_SUCCEEDED, "8080")
    await edge.api.ExplainJob(meta_agent_pb2.ExplainJobRequest(job_id=job_id), timeout=30)


async def test_the_same_request_id_makes_one_job(edge: Edge) -> None:
    first = await edge.create(request_id="r1")
    again = await asyncio.gather(*(edge.create(request_id="r1") for _ in range(5)))
    assert set(again) == {first}
    assert await edge.create(request_id="r2") != first
    assert await edge.create() != await edge.create()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await edge.create("Something else?", request_id="r1")
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert isinstance(from_rpc_error(error.value), AlreadyExists)


async def test_waiting_answers_when_the_job_ends(edge: Edge) -> None:
    job_id = await edge.create(request_id="r1")
    wait = Duration(seconds=20)
    getting = asyncio.ensure_future(edge.api.GetJob(Get(job_id=job_id, wait=wait), timeout=30))
    again = meta_agent_pb2.CreateJobRequest(job=edge.spec(), request_id="r1", wait=wait)
    creating = asyncio.ensure_future(edge.api.CreateJob(again, timeout=30))
    await edge.note(job_id, "not yet")
    done, _ = await asyncio.wait([getting, creating], timeout=0.3)
    assert not done
    await edge.finish(job_id)
    got, created = await asyncio.wait_for(asyncio.gather(getting, creating), 30)
    assert got.state == created.job.state == created.state == job_pb2.JOB_STATE_SUCCEEDED
    assert got.answer.text == created.job.answer.text == "8080"
    assert created.job_id == job_id


async def test_waiting_ends_with_its_time_and_before_the_callers_deadline(edge: Edge) -> None:
    job_id = await edge.create()
    brief = Get(job_id=job_id, wait=Duration(nanos=100_000_000))
    job = await edge.api.GetJob(brief, timeout=30)
    assert job.state == job_pb2.JOB_STATE_QUEUED
    long = Get(job_id=job_id, wait=Duration(seconds=60))
    job = await edge.api.GetJob(long, timeout=1)
    assert job.state == job_pb2.JOB_STATE_QUEUED


async def test_a_stopping_replica_answers_those_who_wait(edge: Edge) -> None:
    job_id = await edge.create()
    request = Get(job_id=job_id, wait=Duration(seconds=60))
    call = asyncio.ensure_future(edge.api.GetJob(request, timeout=60))
    done, _ = await asyncio.wait([call], timeout=0.2)
    assert not done
    edge.watches.drain()
    job = await asyncio.wait_for(call, 30)
    assert job.state == job_pb2.JOB_STATE_QUEUED


async def test_pages_show_every_job_once_the_newest_first(fresh_edge: Edge) -> None:
    made = [await fresh_edge.create(f"Question {n}?") for n in range(5)]
    await fresh_edge.finish(made[1], job_pb2.JOB_STATE_FAILED)
    seen: list[str] = []
    token = ""
    while True:
        page = await fresh_edge.api.ListJobs(List(page_size=2, page_token=token), timeout=30)
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    failed = await fresh_edge.api.ListJobs(List(states=[job_pb2.JOB_STATE_FAILED]), timeout=30)
    (job,) = failed.jobs
    assert (job.job_id, job.state_reason, job.task_description) == (
        made[1],
        "by hand",
        "Question 1?",
    )
    assert job.HasField("end_time")
    assert not job.tasks
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await fresh_edge.api.ListJobs(List(page_token="made up"), timeout=30)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    found = from_rpc_error(error.value)
    assert isinstance(found, InvalidRequest)
    assert found.violations[0].field == "page_token"


async def test_commands_are_noted_once_per_request_id(edge: Edge) -> None:
    job_id = await edge.create()
    for _ in range(3):
        await edge.api.InterruptJob(
            Interrupt(job_id=job_id, request_id="i", reason="enough"), timeout=30
        )
        job = await edge.api.GrantBudget(
            Grant(job_id=job_id, request_id="g", tokens=500), timeout=30
        )
    await edge.api.CancelJob(Cancel(job_id=job_id, request_id="c", reason="no"), timeout=30)
    kinds = [e.WhichOneof("payload") for e in await events_of(edge, job_id)]
    assert kinds == ["job_created", "interrupt_requested", "budget_granted", "cancel_requested"]
    assert job.budget.max_tokens == job.ledger.budget_tokens == 2500
    await edge.api.GrantBudget(Grant(job_id=job_id, tokens=1), timeout=30)
    job = await edge.api.GrantBudget(Grant(job_id=job_id, tokens=1), timeout=30)
    assert job.budget.max_tokens == 2502


async def test_the_largest_budget_holds_for_top_ups(edge: Edge) -> None:
    job_id = await edge.create()
    most = Grant(job_id=job_id, request_id="most", tokens=10_000_000 - 2000)
    await edge.api.GrantBudget(most, timeout=30)
    # A retry of what was granted is no further grant.
    job = await edge.api.GrantBudget(most, timeout=30)
    assert job.budget.max_tokens == 10_000_000
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await edge.api.GrantBudget(Grant(job_id=job_id, tokens=1), timeout=30)
    found = from_rpc_error(error.value)
    assert isinstance(found, InvalidRequest)
    assert found.violations[0].field == "tokens"


async def test_an_ended_job_takes_no_commands_but_cancelling_twice_is_fine(edge: Edge) -> None:
    done, cancelled = await edge.create(), await edge.create()
    await edge.finish(done)
    await edge.finish(cancelled, job_pb2.JOB_STATE_CANCELLED)
    for call in (
        edge.api.CancelJob(Cancel(job_id=done), timeout=30),
        edge.api.InterruptJob(Interrupt(job_id=done), timeout=30),
        edge.api.GrantBudget(Grant(job_id=done, tokens=5), timeout=30),
        edge.api.InterruptJob(Interrupt(job_id=cancelled), timeout=30),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert isinstance(from_rpc_error(error.value), PreconditionFailed)
    job = await edge.api.CancelJob(Cancel(job_id=cancelled), timeout=30)
    assert job.state == job_pb2.JOB_STATE_CANCELLED


async def test_a_command_whose_answer_was_lost_succeeds_after_the_end_too(edge: Edge) -> None:
    job_id = await edge.create()
    request = Interrupt(job_id=job_id, request_id="once")
    await edge.api.InterruptJob(request, timeout=30)
    await edge.finish(job_id)
    job = await edge.api.InterruptJob(request, timeout=30)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_only_an_ended_job_can_be_deleted_and_then_it_is_gone(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.api.GetJob(Get(job_id=job_id), timeout=30)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await edge.api.DeleteJob(Delete(job_id=job_id), timeout=30)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    await edge.finish(job_id)
    await edge.api.DeleteJob(Delete(job_id=job_id), timeout=30)
    assert await events_of(edge, job_id) == []
    for call in (
        edge.api.GetJob(Get(job_id=job_id), timeout=30),
        edge.api.DeleteJob(Delete(job_id=job_id), timeout=30),
        edge.api.CancelJob(Cancel(job_id=job_id), timeout=30),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "job_id", ["job-01M7Y7DHRZ17J6QC96EJQ0M79J", "job-1", "../etc", "job-" + "é" * 26]
)
async def test_an_unknown_job_is_not_found_by_any_call(edge: Edge, job_id: str) -> None:
    watching = edge.api.WatchJob(meta_agent_pb2.WatchJobRequest(job_id=job_id), timeout=30)
    for call in (
        edge.api.GetJob(Get(job_id=job_id, wait=Duration(seconds=9)), timeout=30),
        edge.api.CancelJob(Cancel(job_id=job_id), timeout=30),
        edge.api.InterruptJob(Interrupt(job_id=job_id), timeout=30),
        edge.api.GrantBudget(Grant(job_id=job_id, tokens=5), timeout=30),
        edge.api.DeleteJob(Delete(job_id=job_id), timeout=30),
        anext(aiter(watching)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        assert isinstance(from_rpc_error(error.value), NotFound)


async def test_jobs_of_other_tenants_do_not_exist(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    await fresh_edge.store.database.pool.execute("UPDATE job SET tenant = 'acme'")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await fresh_edge.api.GetJob(Get(job_id=job_id), timeout=30)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    page = await fresh_edge.api.ListJobs(List(), timeout=30)
    assert not page.jobs
