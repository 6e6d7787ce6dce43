"""Every kind of bad input over gRPC: a clear error, and the process goes on unharmed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hma.errors import InvalidRequest
from hma.rpc.status import from_rpc_error
from hma.settings import Bytes
from hma.v1 import job_pb2, meta_agent_pb2, task_pb2
from services.meta_agent.edge.limits import Limits
from tests.integration.edge.edge import Edge, running_edge

Spec = job_pb2.JobSpec
Document = job_pb2.DocumentInput


@pytest.fixture
async def edge(module_postgres_url: str) -> AsyncIterator[Edge]:
    """An edge with small limits, so that tests need not send what breaks the large ones."""
    limits = Limits(max_document_bytes=Bytes(2 << 20), max_job_bytes=Bytes(3 << 20))
    async with running_edge(module_postgres_url, limits=limits) as running:
        yield running


def spec(**fields: object) -> Spec:
    values: dict[str, object] = {"task_description": "Why?", "total_budget_tokens": 2000, **fields}
    return Spec(**values)  # type: ignore[arg-type]


def plan(*tasks: tuple[str, list[str]]) -> task_pb2.Plan:
    return task_pb2.Plan(
        tasks=[task_pb2.Task(id=i, instruction="Do.", depends_on=after) for i, after in tasks]
    )


BAD: list[tuple[str, Spec, str]] = [
    ("empty description", spec(task_description=""), "job.task_description"),
    ("long description", spec(task_description="x" * 100_001), "job.task_description"),
    ("zero budget", spec(total_budget_tokens=0), "job.total_budget_tokens"),
    ("negative budget", spec(total_budget_tokens=-1), "job.total_budget_tokens"),
    ("absurd budget", spec(total_budget_tokens=2**31 - 1), "job.total_budget_tokens"),
    ("budget for nothing", spec(total_budget_tokens=1), "job.total_budget_tokens"),
    (
        "past deadline",
        spec(budget=job_pb2.Budget(deadline=Duration(seconds=-60))),
        "job.budget.deadline",
    ),
    (
        "large document",
        spec(documents=[Document(name="a", content=b"x" * ((2 << 20) + 1))]),
        "job.documents[0].content",
    ),
    (
        "large job",
        spec(documents=[Document(name=n, content=b"x" * (2 << 20)) for n in "ab"]),
        "job.documents",
    ),
    (
        "binary",
        spec(documents=[Document(name="a", content=b"\x7fELF\0")]),
        "job.documents[0].content",
    ),
    (
        "invalid UTF-8",
        spec(documents=[Document(name="a", content=b"\xff\xfe")]),
        "job.documents[0].content",
    ),
    ("unknown route", spec(policy=job_pb2.JobPolicy(route="warp")), "job.policy.route"),
    ("cyclic plan", spec(plan=plan(("a", ["b"]), ("b", ["a"]))), "job.plan.tasks[0].depends_on[0]"),
    ("unknown dependency", spec(plan=plan(("a", ["b"]))), "job.plan.tasks[0].depends_on[0]"),
    ("duplicate task", spec(plan=plan(("a", []), ("a", []))), "job.plan.tasks[1].id"),
]


@pytest.mark.parametrize(("bad", "field"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
async def test_a_bad_job_is_refused_by_field_and_leaves_nothing(
    edge: Edge, bad: Spec, field: str
) -> None:
    before = await count(edge)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest(job=bad), timeout=30)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    found = from_rpc_error(error.value)
    assert isinstance(found, InvalidRequest)
    assert [v.field for v in found.violations] == [field]
    assert_reads_well(error.value)
    assert await count(edge) == before
    await edge.create()


async def count(edge: Edge) -> tuple[int, int, int]:
    """Rows of jobs, events and documents."""
    row = await edge.store.database.pool.fetchrow(
        "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM job_event), "
        "(SELECT count(*) FROM job_document)"
    )
    assert row is not None
    return row[0], row[1], row[2]


async def test_the_path_of_a_cycle_reaches_the_client(edge: Edge) -> None:
    bad = spec(plan=plan(("load", []), ("b", ["c", "load"]), ("c", ["d"]), ("d", ["b"])))
    with pytest.raises(grpc.aio.AioRpcError, match="b -> c -> d -> b"):
        await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest(job=bad), timeout=30)


async def test_hundreds_of_faults_still_fit_an_answer(edge: Edge) -> None:
    names = [("é" * 60, ["ü" * 50]) for _ in range(500)]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await edge.api.CreateJob(
            meta_agent_pb2.CreateJobRequest(job=spec(plan=plan(*names))), timeout=30
        )
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    found = from_rpc_error(error.value)
    assert isinstance(found, InvalidRequest)
    assert len(found.violations) > 5


@pytest.mark.parametrize(
    "junk",
    [b"\xff\xff\xff", b"\n\x05ab", b"\x0a\x04\x0a\x02\xff\xfe", b"\x00"],
    ids=["junk", "cut off", "description not UTF-8", "tag zero"],
)
@pytest.mark.parametrize("method", ["CreateJob", "GetJob"])
async def test_malformed_protobuf_is_the_callers_fault(
    edge: Edge, method: str, junk: bytes
) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = edge.channel.unary_unary(
        f"/hma.v1.MetaAgentService/{method}"
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(junk, timeout=30)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert_reads_well(error.value)
    await edge.create()


async def test_a_message_beyond_the_transports_limit_is_refused(edge: Edge) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    options = [("grpc.max_send_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}", options=options) as channel:
        call = channel.unary_unary("/hma.v1.MetaAgentService/CreateJob")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(bytes(41 << 20), timeout=30)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await edge.create()


async def test_an_unknown_method_is_unimplemented(edge: Edge) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = edge.channel.unary_unary(
        "/hma.v1.MetaAgentService/DropTables"
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"", timeout=30)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_large_good_job_passes(edge: Edge) -> None:
    good = spec(documents=[Document(name="a.md", content=b"# A line\n\nand another\n" * 60_000)])
    response = await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest(job=good), timeout=30)
    request = meta_agent_pb2.ReadDocumentRequest(job_id=response.job_id, document_id="d1")
    content = b"".join([part.chunk async for part in edge.internal.ReadDocument(request)])
    assert content == good.documents[0].content


def assert_reads_well(error: grpc.aio.AioRpcError) -> None:
    """One sentence for a person; nothing of the server's insides."""
    text = error.details() or ""
    assert text
    for inside in ("Traceback", "Error(", "Exception", ".py", "asyncpg", "<"):
        assert inside not in text
