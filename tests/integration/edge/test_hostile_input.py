"""Input made to cost more than it weighs: refused, in time, while others are served."""

from __future__ import annotations

import asyncio
import json
import time
import unicodedata
from typing import Any

import grpc
import pytest

from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.edge.limits import Limits
from tests.integration.edge.edge import Edge, running_edge

CreateJob = "/hma.v1.MetaAgentService/CreateJob"


async def refusal(edge: Edge, spec: job_pb2.JobSpec) -> str:
    """What is said against a job."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.api.CreateJob(meta_agent_pb2.CreateJobRequest(job=spec), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


async def test_a_flood_of_marks_is_refused_while_the_replica_goes_on(edge: Edge) -> None:
    flood = "x" + "\u0301\u0327" * 120_000  # fits the thread that small requests get
    specs = []
    for place in ("text", "content", "name", "description", "reference"):
        spec = edge.spec()
        if place == "text":
            spec.documents[0].text = flood
        elif place == "content":
            spec.documents[0].text = ""
            spec.documents[0].content = flood.encode()
        elif place == "name":
            spec.documents[0].name = flood[:200]
        elif place == "description":
            spec.task_description = flood[:90_000]
        else:
            spec.plan.tasks.add(id="t1", instruction="Look.", documents=[flood])
        specs.append(spec)
    most = 0.0

    async def tick() -> None:
        nonlocal most
        while True:
            begin = time.thread_time()
            await asyncio.sleep(0)
            most = max(most, time.thread_time() - begin)

    ticking = asyncio.create_task(tick())
    said = [await refusal(edge, spec) for spec in specs]
    ticking.cancel()
    assert all("combining marks" in text for text in said[:4]), said
    assert "has no document" in said[4]
    # What the loop worked in one go, whoever else works on this machine. To normalise the
    # flood as it stands takes minutes; the lease is lost after five seconds.
    assert most < 5, most


async def test_text_that_grows_in_normal_form_is_measured_as_it_is_kept(
    module_postgres_url: str,
) -> None:
    grows = "\U0001d160" * 300  # 4 bytes each, 12 in NFC
    assert len(unicodedata.normalize("NFC", grows).encode()) == 3 * len(grows.encode())
    limits = Limits(max_document_bytes=2_000, max_job_bytes=6_000)  # type: ignore[arg-type]
    async with running_edge(module_postgres_url, limits=limits) as edge:
        spec = edge.spec()
        spec.documents[0].text = grows
        assert "3,600 bytes in Unicode's NFC" in await refusal(edge, spec)
        spec.documents[0].text = grows[:150]
        for n in range(3):
            spec.documents.add(name=f"{n}.md", text=grows[:150])
        assert "the job holds 7,2" in await refusal(edge, spec)


@pytest.mark.parametrize(
    "name", ["a\u202egnp.md", "a\u200b.md", "a\ufeff.md", "a\n.md", "a\x9b.md"]
)
async def test_names_that_are_not_what_they_look_like_are_refused(edge: Edge, name: str) -> None:
    spec = edge.spec()
    spec.documents[0].name = name
    assert "not seen" in await refusal(edge, spec)


@pytest.mark.parametrize("request_id", ["a\u202eb", "a\nb", "a\u200bb", "a\x9bb"])
async def test_a_request_id_that_is_not_what_it_looks_like_is_refused(
    edge: Edge, request_id: str
) -> None:
    request = meta_agent_pb2.CreateJobRequest(job=edge.spec(), request_id=request_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.api.CreateJob(request, timeout=30)
    assert "request_id" in str(caught.value.details())


async def test_an_output_schema_is_refused_when_its_pattern_is_no_regular_one(edge: Edge) -> None:
    spec = edge.spec()
    task = spec.plan.tasks.add(id="t1", instruction="Look.")
    for pattern in (r"(a)\1", "(?=a)b"):
        value = {"type": "string", "pattern": pattern}
        task.output_schema = json.dumps({"type": "object", "properties": {"a": value}})
        assert "not a regular expression" in await refusal(edge, spec)


@pytest.mark.parametrize("opening", ['{"a":', "[", '{"properties":{"a":'])
async def test_a_schema_that_is_nested_deep_is_refused(edge: Edge, opening: str) -> None:
    spec = edge.spec()
    task = spec.plan.tasks.add(id="t1", instruction="Look.")
    task.output_schema = (opening * 20_000)[:20_000]
    assert "output_schema" in await refusal(edge, spec)


async def test_a_message_is_measured_as_it_is_when_unpacked(edge: Edge) -> None:
    call: Any = edge.channel.unary_unary(CreateJob)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        # 41 MiB of nothing, some 40 KiB on the wire.
        await call(bytes(41 << 20), compression=grpc.Compression.Gzip, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(caught.value.details())


async def test_metadata_has_a_size(edge: Edge) -> None:
    many = [(f"x-{n}", "v" * 1_000) for n in range(40)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.api.ListJobs(meta_agent_pb2.ListJobsRequest(), metadata=many, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_are_nested_deep_are_no_message(edge: Edge) -> None:
    """A field that nobody knows may be a group within groups: parsers must not follow."""
    call: Any = edge.channel.unary_unary(CreateJob)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xfb\x06" * 1_000_000, timeout=30)  # starts group 111, again and again
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
