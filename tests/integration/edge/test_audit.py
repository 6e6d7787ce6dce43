"""Over gRPC: who changed what, and who was refused, is in the trail; contents are not."""

from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import pytest

from hma.errors import InvalidRequest, PermissionDenied
from hma.v1 import admin_pb2, meta_agent_pb2
from services.meta_agent.access.caller import Caller, CallerRole
from services.meta_agent.edge.auditing import list_entries
from services.meta_agent.store.ids import new_job_id
from tests.integration.edge.edge import Edge

OPERATOR = CallerRole.CALLER_ROLE_OPERATOR


def caller(role: CallerRole.ValueType = OPERATOR, tenant: str = "default") -> Caller:
    return Caller(tenant=tenant, subject="key:k1", role=role)


async def entries(edge: Edge, **fields: object) -> list[admin_pb2.AuditEntry]:
    """What the trail says of the default tenant, the first entry first."""
    await edge.trail.flush()
    request = admin_pb2.ListAuditEntriesRequest(**fields)  # type: ignore[arg-type]
    response = await list_entries(edge.store.audit, request, caller())
    return list(reversed(response.entries))


def shown(found: list[admin_pb2.AuditEntry]) -> list[tuple[str, str, str]]:
    return [(entry.method, entry.resource, entry.code) for entry in found]


async def test_every_mutation_is_recorded_with_its_outcome(fresh_edge: Edge) -> None:
    edge = fresh_edge
    job_id = await edge.create(request_id="make")
    await edge.create(request_id="make")  # again: it took effect before
    await edge.api.InterruptJob(meta_agent_pb2.InterruptJobRequest(job_id=job_id))
    await edge.api.GrantBudget(meta_agent_pb2.GrantBudgetRequest(job_id=job_id, tokens=100))
    await edge.api.CancelJob(meta_agent_pb2.CancelJobRequest(job_id=job_id))
    delete = meta_agent_pb2.DeleteJobRequest(job_id=job_id)
    with pytest.raises(grpc.aio.AioRpcError):
        await edge.api.DeleteJob(delete)
    await edge.finish(job_id)
    await edge.api.DeleteJob(delete)
    with pytest.raises(grpc.aio.AioRpcError):
        await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest())
    found = await entries(edge)
    assert sorted(shown(found)) == sorted(
        [
            ("CreateJob", job_id, "OK"),
            ("CreateJob", job_id, "OK"),
            ("InterruptJob", job_id, "OK"),
            ("GrantBudget", job_id, "OK"),
            ("CancelJob", job_id, "OK"),
            ("DeleteJob", job_id, "FAILED_PRECONDITION"),
            ("DeleteJob", job_id, "OK"),
            ("CreateJob", "", "INVALID_ARGUMENT"),
        ]
    )
    assert {entry.subject for entry in found} == {"anonymous"}
    assert {entry.tenant for entry in found} == {"default"}


async def test_reads_are_recorded_only_when_they_are_refused(fresh_edge: Edge) -> None:
    edge = fresh_edge
    job_id = await edge.create()
    await edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id))
    await edge.api.ListJobs(meta_agent_pb2.ListJobsRequest())
    await edge.api.GetUsage(meta_agent_pb2.GetUsageRequest())
    with pytest.raises(grpc.aio.AioRpcError):  # at fault, but nothing was withheld
        await edge.api.ListJobs(meta_agent_pb2.ListJobsRequest(page_size=-1))
    stranger = new_job_id()
    for call in (
        edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=stranger)),
        edge.api.ExplainJob(meta_agent_pb2.ExplainJobRequest(job_id=stranger)),
        edge.api.CancelJob(meta_agent_pb2.CancelJobRequest(job_id=stranger)),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in edge.api.WatchJob(meta_agent_pb2.WatchJobRequest(job_id=stranger)):
            pass
    assert sorted(shown(await entries(edge, refused_only=True))) == [
        (method, stranger, "NOT_FOUND")
        for method in ("CancelJob", "ExplainJob", "GetJob", "WatchJob")
    ]
    assert shown(await entries(edge, job_id=job_id)) == [("CreateJob", job_id, "OK")]


async def test_after_deleting_the_trail_says_who_did_it_and_nothing_of_the_content(
    fresh_edge: Edge,
) -> None:
    edge = fresh_edge
    words = "Confidential: which port is the vault's?"
    job_id = await edge.create(words, request_id="secret request id")
    interrupt = meta_agent_pb2.InterruptJobRequest(job_id=job_id, reason="confidential too")
    await edge.api.InterruptJob(interrupt)
    await edge.finish(job_id)
    await edge.api.DeleteJob(meta_agent_pb2.DeleteJobRequest(job_id=job_id))
    found = await entries(edge, job_id=job_id)
    assert [entry.method for entry in found] == ["CreateJob", "InterruptJob", "DeleteJob"]
    rows = await edge.store.database.fetch("SELECT to_json(e) FROM audit_entry e")
    text = json.dumps([row[0] for row in rows]).casefold()
    for part in ("confidential", "vault", "secret", "8080"):
        assert part not in text


async def test_a_repeated_call_is_not_told_ok_while_the_trail_cannot_be_written(
    fresh_edge: Edge,
) -> None:
    edge = fresh_edge
    job_id = await edge.create()
    cancel = meta_agent_pb2.CancelJobRequest(job_id=job_id, request_id="c")
    await edge.api.CancelJob(cancel)
    await edge.store.database.execute("ALTER TABLE audit_entry RENAME TO elsewhere")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.api.CancelJob(cancel)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    await edge.store.database.execute("ALTER TABLE elsewhere RENAME TO audit_entry")
    await edge.api.CancelJob(cancel)
    assert sorted(shown(await entries(edge, job_id=job_id))) == [
        ("CancelJob", job_id, "INTERNAL"),
        ("CancelJob", job_id, "OK"),
        ("CancelJob", job_id, "OK"),
        ("CreateJob", job_id, "OK"),
    ]


@pytest.mark.parametrize(
    ("role", "tenant", "allowed"),
    [
        ("READER", "", False),
        ("USER", "", False),
        ("ADMIN", "", True),
        ("ADMIN", "default", True),
        ("ADMIN", "zeta", False),
        ("ADMIN", "*", False),
        ("OPERATOR", "zeta", True),
        ("OPERATOR", "*", True),
    ],
)
async def test_an_admin_reads_its_own_trail_and_an_operator_any(
    edge: Edge, role: str, tenant: str, allowed: bool
) -> None:
    who = caller(CallerRole.Value(f"CALLER_ROLE_{role}"))
    request = admin_pb2.ListAuditEntriesRequest(tenant=tenant)
    if allowed:
        await list_entries(edge.store.audit, request, who)
    else:
        with pytest.raises(PermissionDenied):
            await list_entries(edge.store.audit, request, who)


async def test_refused_strangers_are_in_nobodys_trail_but_the_operators(fresh_edge: Edge) -> None:
    edge = fresh_edge
    edge.trail.denied(
        subject="",
        tenant="",
        method="/hma.v1.MetaAgentService/GetJob",
        address="203.0.113.7",
        request_id="r9",
        reason="KEY_UNKNOWN",
        code="UNAUTHENTICATED",
    )
    assert await entries(edge) == []
    [entry] = await entries(edge, tenant="*")
    assert (entry.method, entry.address, entry.reason) == ("GetJob", "203.0.113.7", "KEY_UNKNOWN")
    assert (entry.code, entry.request_id, entry.count) == ("UNAUTHENTICATED", "r9", 1)


def _negative(request: admin_pb2.ListAuditEntriesRequest) -> None:
    request.page_size = -1


def _huge(request: admin_pb2.ListAuditEntriesRequest) -> None:
    request.page_size = 1_001


def _nul(request: admin_pb2.ListAuditEntriesRequest) -> None:
    request.job_id = "job\0"


def _late(request: admin_pb2.ListAuditEntriesRequest) -> None:
    request.start_time.seconds = 2**50


def _token(request: admin_pb2.ListAuditEntriesRequest) -> None:
    request.page_token = "W10"


@pytest.mark.parametrize("spoil", [_negative, _huge, _nul, _late, _token])
async def test_a_faulty_question_is_refused(
    edge: Edge, spoil: Callable[[admin_pb2.ListAuditEntriesRequest], None]
) -> None:
    request = admin_pb2.ListAuditEntriesRequest()
    spoil(request)
    with pytest.raises(InvalidRequest):
        await list_entries(edge.store.audit, request, caller())
