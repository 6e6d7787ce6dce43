"""A repeated request gets the first one's result; its id is good for no other request."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hma.errors import AlreadyExists
from hma.rpc.status import from_rpc_error
from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.edge.edge import Edge, running_edge
from tests.integration.store.making import until

Create = meta_agent_pb2.CreateJobRequest
Get = meta_agent_pb2.GetJobRequest
Cancel = meta_agent_pb2.CancelJobRequest
Interrupt = meta_agent_pb2.InterruptJobRequest
Grant = meta_agent_pb2.GrantBudgetRequest
Delete = meta_agent_pb2.DeleteJobRequest


async def refused(call: Awaitable[Any], *words: str) -> None:
    """Expects ALREADY_EXISTS with these words."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS
    found = from_rpc_error(error.value)
    assert isinstance(found, AlreadyExists)
    for word in words:
        assert word in found.message


async def kinds(edge: Edge, job_id: str) -> list[str | None]:
    return [e.WhichOneof("payload") for e in await edge.store.log.read(job_id)]


async def test_a_grant_repeated_with_other_figures_is_refused_and_says_which(edge: Edge) -> None:
    job_id = await edge.create()
    first = Grant(job_id=job_id, request_id="g", tokens=500)
    await edge.api.GrantBudget(first, timeout=30)
    await refused(
        edge.api.GrantBudget(Grant(job_id=job_id, request_id="g", tokens=700), timeout=30),
        "granted 500 tokens, not 700",
    )
    job = await edge.api.GrantBudget(first, timeout=30)
    assert job.budget.max_tokens == 2500
    await edge.finish(job_id)
    # Ended or not: the same answers.
    assert (await edge.api.GrantBudget(first, timeout=30)).budget.max_tokens == 2500
    await refused(
        edge.api.GrantBudget(Grant(job_id=job_id, request_id="g", tokens=1), timeout=30), "500"
    )


async def test_money_granted_twice_is_granted_once_whatever_tokens_it_buys(edge: Edge) -> None:
    spec = job_pb2.JobSpec(task_description="Which port?", budget=job_pb2.Budget(max_cost=0.01))
    job_id = (await edge.api.CreateJob(Create(job=spec), timeout=30)).job_id
    first = Grant(job_id=job_id, request_id="g", cost=0.01)
    job = await edge.api.GrantBudget(first, timeout=30)
    again = await edge.api.GrantBudget(first, timeout=30)
    assert again.budget.max_tokens == job.budget.max_tokens > 0
    assert await kinds(edge, job_id) == ["job_created", "budget_granted"]
    await refused(
        edge.api.GrantBudget(Grant(job_id=job_id, request_id="g", cost=0.02), timeout=30), "money"
    )
    await refused(
        edge.api.GrantBudget(Grant(job_id=job_id, request_id="g", cost=0.01, tokens=5), timeout=30),
        "granted 0 tokens, not 5",
    )


async def test_one_id_is_good_for_one_command_on_a_job(edge: Edge) -> None:
    job_id, other = await edge.create(), await edge.create()
    await edge.api.InterruptJob(Interrupt(job_id=job_id, request_id="x", reason="now"), timeout=30)
    await refused(
        edge.api.InterruptJob(Interrupt(job_id=job_id, request_id="x", reason="later"), timeout=30),
        "reason",
    )
    await refused(
        edge.api.CancelJob(Cancel(job_id=job_id, request_id="x", reason="now"), timeout=30),
        "interrupt it",
    )
    await refused(
        edge.api.GrantBudget(Grant(job_id=job_id, request_id="x", tokens=5), timeout=30),
        "interrupt it",
    )
    assert await kinds(edge, job_id) == ["job_created", "interrupt_requested"]
    await edge.finish(job_id)
    await refused(
        edge.api.DeleteJob(Delete(job_id=job_id, request_id="x"), timeout=30), "interrupt it"
    )
    assert (await edge.api.GetJob(Get(job_id=job_id), timeout=30)).job_id == job_id
    # Another job's commands have ids of their own.
    await edge.api.CancelJob(Cancel(job_id=other, request_id="x"), timeout=30)


async def test_a_job_asked_for_with_a_used_id_is_refused_and_says_what_differs(edge: Edge) -> None:
    spec = edge.spec()
    await edge.api.CreateJob(Create(job=spec, request_id="diff"), timeout=30)
    other = edge.spec("Who is it?")
    await refused(edge.api.CreateJob(Create(job=other, request_id="diff"), timeout=30), "task desc")
    other = edge.spec()
    other.total_budget_tokens = 3000
    await refused(edge.api.CreateJob(Create(job=other, request_id="diff"), timeout=30), "budget")
    other = edge.spec()
    other.documents[0].text = "# A\n\nThe port is 8081.\n"
    await refused(edge.api.CreateJob(Create(job=other, request_id="diff"), timeout=30), "documents")


async def test_repeated_requests_are_answered_alike_after_the_job_was_deleted(
    fresh_edge: Edge, postgres_url: str
) -> None:
    edge = fresh_edge
    wait = Duration(nanos=1_000_000)
    creation = Create(job=edge.spec(), request_id="c", wait=wait)
    job_id = (await edge.api.CreateJob(creation, timeout=30)).job_id
    await edge.finish(job_id)
    deletion = Delete(job_id=job_id, request_id="d")
    await edge.api.DeleteJob(deletion, timeout=30)
    async with running_edge(postgres_url) as elsewhere:
        for each in (edge, elsewhere):
            await each.api.DeleteJob(deletion, timeout=30)
            again = await each.api.CreateJob(creation, timeout=30)
            assert (again.job_id, again.state) == (job_id, job_pb2.JOB_STATE_SUCCEEDED)
            assert not again.HasField("job")
            await refused(
                each.api.CreateJob(Create(job=each.spec("Else?"), request_id="c"), timeout=30),
                job_id,
            )
            for gone in (
                each.api.DeleteJob(Delete(job_id=job_id, request_id="e"), timeout=30),
                each.api.DeleteJob(Delete(job_id=job_id), timeout=30),
                each.api.GetJob(Get(job_id=job_id), timeout=30),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await gone
                assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert (await edge.store.jobs.page("default")).jobs == []


async def test_no_replica_remembers_anything_of_a_deleted_job(
    fresh_edge: Edge, postgres_url: str
) -> None:
    edge, planted = fresh_edge, "quincunx7391"
    async with running_edge(postgres_url) as elsewhere:
        spec = edge.spec(f"What is a {planted}?")
        spec.documents.add(name=f"{planted}.md", text=f"# {planted}\n\n" + planted * 9)
        creation = Create(job=spec, request_id=f"c-{planted}")
        job_id = (await edge.api.CreateJob(creation, timeout=30)).job_id
        stop = Interrupt(job_id=job_id, request_id=f"i-{planted}", reason=planted)
        await edge.api.InterruptJob(stop, timeout=30)
        edge.board.publish(job_pb2.JobProgress(job_id=job_id, sequence=1))
        await edge.note(job_id, planted)
        await edge.finish(job_id)
        edge.board.forget(job_id)  # as the driver does at the end
        for each in (edge, elsewhere):
            await each.api.GetJob(Get(job_id=job_id), timeout=30)
            assert job_id in each.reader
        assert await tables_with(edge, planted) == {"job", "job_event", "job_document"}
        await edge.api.DeleteJob(Delete(job_id=job_id, request_id=f"d-{planted}"), timeout=30)
        assert await tables_with(edge, planted) == set()
        for each in (edge, elsewhere):
            await until_forgotten(each, job_id)
            assert len(each.board) == len(each.relays) == 0


async def until_forgotten(edge: Edge, job_id: str) -> None:
    """Waits for the notification."""

    async def forgotten() -> bool:
        return job_id not in edge.reader

    await until(forgotten)


async def tables_with(edge: Edge, planted: str) -> set[str]:
    """Tables in which a text stands, in any column, as text or in bytes."""
    tables = await edge.store.database.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    found = set()
    for table in tables:
        for row in await edge.store.database.fetch(f'SELECT * FROM "{table["relname"]}"'):
            values = (v if isinstance(v, bytes) else str(v).encode() for v in row.values())
            if any(planted.encode() in value for value in values):
                found.add(table["relname"])
    return found


async def test_repeating_a_wish_without_an_id_does_not_make_the_log_grow(edge: Edge) -> None:
    job_id = await edge.create()
    for reason in ("first", "second", "third"):
        await edge.api.InterruptJob(Interrupt(job_id=job_id, reason=reason), timeout=30)
        await edge.api.CancelJob(
            meta_agent_pb2.CancelJobRequest(job_id=job_id, reason=reason), timeout=30
        )
    events = await edge.store.log.read(job_id, 0, 100)
    wishes = [e for e in events if e.HasField("interrupt_requested")]
    assert [e.interrupt_requested.reason for e in wishes] == ["first"]
    assert len(events) == 3
