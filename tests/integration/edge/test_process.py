"""`python -m services.meta_agent` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from hma.rpc.caller_tokens import HEADER
from hma.rpc.channel import open_channel
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2, admin_pb2_grpc, job_pb2, meta_agent_pb2, meta_agent_pb2_grpc
from services.meta_agent.access.roles import OPERATOR
from tests.integration.access.callers import KEY, identity


@contextlib.asynccontextmanager
async def meta_agent(**environ: str) -> AsyncIterator[Process]:
    """A running process; killed if it is still there in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.meta_agent",
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HMA_")},
            "HMA_META_AGENT_PORT": "0",
            "HMA_META_AGENT_METRICS_PORT": "0",
            "HMA_LLM_PORT": "1",
            "HMA_DRAIN_DELAY": "0.05",
            "HMA_DRAIN_GRACE": "5",
            "HMA_AUTH": "none",
            **environ,
        },
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: Process, message: str) -> dict[str, object]:
    """The first line of the log with this message."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := await process.stderr.readline():
            with contextlib.suppress(ValueError):
                entry: dict[str, object] = json.loads(line)
                if entry["message"] == message:
                    return entry
    raise AssertionError(f"the process ended without saying {message!r}")


async def ended(process: Process) -> tuple[int, str]:
    """Exit code and what was said."""
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, stderr.decode()


async def read_on(updates: AsyncIterator[meta_agent_pb2.WatchJobResponse]) -> None:
    async for _ in updates:
        pass


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


async def test_it_serves_until_it_is_told_to_stop(postgres_url: str, tmp_path: Path) -> None:
    log = tmp_path / "benchmark.csv"
    async with meta_agent(HMA_DATABASE_URL=postgres_url, HMA_BENCHMARK_LOG=str(log)) as process:
        port = (await said(process, "serving"))["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            api: meta_agent_pb2_grpc.MetaAgentServiceAsyncStub
            api = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
            spec = job_pb2.JobSpec(task_description="Why?", total_budget_tokens=2000)
            request = meta_agent_pb2.CreateJobRequest(job=spec)
            job_id = (await api.CreateJob(request, timeout=30)).job_id
            updates = aiter(api.WatchJob(meta_agent_pb2.WatchJobRequest(job_id=job_id), timeout=30))
            assert (await anext(updates)).event.HasField("job_created")
            # A driver has it, and ends it when it is cancelled.
            await api.CancelJob(meta_agent_pb2.CancelJobRequest(job_id=job_id), timeout=30)
            kinds = [u.event.WhichOneof("payload") async for u in updates if u.HasField("event")]
            assert kinds[-1] == "job_finished"
            job = await api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), timeout=30)
            assert job.state == job_pb2.JOB_STATE_CANCELLED
        process.send_signal(signal.SIGTERM)
        code, text = await ended(process)
        assert (code, "Traceback" in text) == (0, False)
    with log.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["job_id"], row["state"]) == (job_id, "CANCELLED")


async def test_a_stopping_process_ends_open_watches_at_once(postgres_url: str) -> None:
    async with meta_agent(HMA_DATABASE_URL=postgres_url, HMA_DRAIN_GRACE="20") as process:
        port = (await said(process, "serving"))["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            api: meta_agent_pb2_grpc.MetaAgentServiceAsyncStub
            api = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
            spec = job_pb2.JobSpec(task_description="Why?", total_budget_tokens=2000)
            request = meta_agent_pb2.CreateJobRequest(job=spec)
            job_id = (await api.CreateJob(request, timeout=30)).job_id
            updates = aiter(api.WatchJob(meta_agent_pb2.WatchJobRequest(job_id=job_id)))
            await anext(updates)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await asyncio.wait_for(read_on(updates), 30)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        exit_code, _ = await asyncio.wait_for(ended(process), 30)
        assert exit_code == 0


async def test_an_ended_job_expires_by_its_setting(postgres_url: str) -> None:
    async with meta_agent(HMA_DATABASE_URL=postgres_url, HMA_RETENTION="1s") as process:
        port = (await said(process, "serving"))["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            api: meta_agent_pb2_grpc.MetaAgentServiceAsyncStub
            api = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
            spec = job_pb2.JobSpec(task_description="Why?", total_budget_tokens=2000)
            request = meta_agent_pb2.CreateJobRequest(job=spec)
            job_id = (await api.CreateJob(request, timeout=30)).job_id
            await api.CancelJob(meta_agent_pb2.CancelJobRequest(job_id=job_id), timeout=30)
            line = await said(process, "jobs have expired")
            assert line["jobs"] == 1
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), timeout=30)
            assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_missing_database_is_named_without_a_traceback() -> None:
    url = f"postgresql://hma:s3cret-word@127.0.0.1:{unused_port()}/hma"
    async with meta_agent(HMA_DATABASE_URL=url, HMA_DATABASE_WAIT="0.3") as process:
        code, text = await ended(process)
    assert code == 1
    assert "no PostgreSQL answers at 127.0.0.1:" in text
    assert "HMA_DATABASE_URL" in text
    assert "Traceback" not in text
    assert "s3cret-word" not in text


async def test_a_database_that_does_not_exist_is_a_matter_of_settings(postgres_url: str) -> None:
    url = postgres_url.replace(urlsplit(postgres_url).path, "/nowhere")
    async with meta_agent(HMA_DATABASE_URL=url) as process:
        code, text = await ended(process)
    assert code == 2
    assert "HMA_DATABASE_URL" in text
    assert "Traceback" not in text


async def test_it_waits_for_a_database_that_is_still_starting(tmp_path: Path) -> None:
    # Nothing listens yet: the process must say that it waits, and go on waiting.
    url = f"postgresql://hma@127.0.0.1:{unused_port()}/hma"
    async with meta_agent(HMA_DATABASE_URL=url, HMA_DATABASE_WAIT="60") as process:
        port = urlsplit(url).port
        await said(process, f"waiting for PostgreSQL at 127.0.0.1:{port}")
        assert process.returncode is None


async def test_a_taken_port_is_named(postgres_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with meta_agent(HMA_DATABASE_URL=postgres_url, HMA_META_AGENT_PORT=port) as process:
            code, text = await ended(process)
    assert code == 1
    assert "HMA_META_AGENT_PORT" in text
    assert "Traceback" not in text


async def test_all_wrong_settings_are_told_at_once() -> None:
    async with meta_agent(
        HMA_DATABASE_URL="x", HMA_WORKER_ADDRESS="y", HMA_MAX_JOBS="0"
    ) as process:
        code, text = await ended(process)
    assert code == 2
    for variable in ("HMA_DATABASE_URL", "HMA_WORKER_ADDRESS", "HMA_MAX_JOBS"):
        assert variable in text


async def test_who_poses_as_a_service_is_in_the_trail(postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "internal-key"
    file.write_bytes(KEY)
    forged = TokenKeys([b"other" * 8]).sign("worker", "meta-agent")
    own = TokenKeys([KEY]).sign("gateway", "meta-agent")
    async with meta_agent(
        HMA_DATABASE_URL=postgres_url, HMA_AUTH="on", HMA_INTERNAL_KEY_FILE=str(file)
    ) as process:
        port = (await said(process, "serving"))["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            internal: Any = meta_agent_pb2_grpc.InternalServiceStub(channel)
            for token in (None, forged, own):
                with pytest.raises(grpc.aio.AioRpcError):
                    await internal.ReportAttempt(
                        meta_agent_pb2.ReportAttemptRequest(),
                        timeout=30,
                        metadata=((HEADER, token),) if token else (),
                    )
            admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
            request = admin_pb2.ListAuditEntriesRequest(tenant="*")
            async with asyncio.timeout(30):
                while True:
                    operator = identity("default", OPERATOR)
                    found = (await admin.ListAuditEntries(request, metadata=operator)).entries
                    if len(found) == 3:
                        break
                    await asyncio.sleep(0.1)
    assert {(entry.method, entry.reason) for entry in found} == {
        ("ReportAttempt", "NO_CALLER"),
        ("ReportAttempt", "TOKEN_INVALID"),
        ("ReportAttempt", "CALLER_NOT_ALLOWED"),
    }
    assert all(entry.address.startswith("ipv4:127.0.0.1:") for entry in found)
    assert {entry.tenant for entry in found} == {""}
