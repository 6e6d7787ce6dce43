"""Secrets are planted wherever there can be any; then everything is searched for them.

Real processes of every service, with a model server that says in its errors what it was
sent, a database that goes away, and clients that put credentials where they do not belong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import grpc
import pytest

import hma
from hma.rpc.channel import open_channel
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc
from services.meta_agent.store.ids import new_job_id
from tests.integration.client.test_command_line import hma as run_hma
from tests.integration.edge.test_process import unused_port
from tests.integration.store.making import until
from tests.scripted_llm import Call, Reply, ScriptedLLM

ROOT = Path(__file__).parents[3]
ROLES = ("meta_agent", "analyst", "worker", "reducer")


def planted(name: str) -> str:
    """A text that stands nowhere else."""
    return f"planted-{name}-{secrets.token_hex(8)}"


@dataclass
class Fleet:
    """The services, as processes."""

    logs: Path
    environ: dict[str, str]
    ports: dict[str, int]
    metrics: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        for role in ROLES:
            with (self.logs / f"{role}.log").open("ab") as log:
                self.processes[role] = subprocess.Popen(
                    [sys.executable, "-m", f"services.{role}"],
                    cwd=ROOT,
                    env=self.environ,
                    stdout=log,
                    stderr=log,
                )

    async def serving(self) -> None:
        """Waits until all of them serve."""

        async def all_say_so() -> bool:
            return all("serving" in text for text in self.said().values())

        await until(all_say_so, timeout=60, every=0.1)

    def said(self) -> dict[str, str]:
        """The logs."""
        return {f"{role}.log": (self.logs / f"{role}.log").read_text() for role in ROLES}

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pages(self) -> Iterator[tuple[str, str]]:
        """All pages of metrics."""
        for role, port in self.metrics.items():
            for page in ("metrics", "fleet") if role == "meta_agent" else ("metrics",):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30) as read:
                    yield f"{role}/{page}", read.read().decode()


@contextlib.asynccontextmanager
async def fleet_of(logs: Path, environ: Mapping[str, str]) -> AsyncIterator[Fleet]:
    ports = {role: unused_port() for role in ROLES}
    metrics = {role: unused_port() for role in ROLES}
    own = {k: v for k, v in os.environ.items() if not k.startswith("HMA_")}
    for role in ROLES:
        own[f"HMA_{role.upper()}_PORT"] = str(ports[role])
        own[f"HMA_{role.upper()}_METRICS_PORT"] = str(metrics[role])
        own[f"HMA_{role.upper()}_ADDRESS"] = f"127.0.0.1:{ports[role]}"
    more = {"HMA_DRAIN_DELAY": "0.05", "HMA_DRAIN_GRACE": "3", "HMA_LOG_LEVEL": "debug"}
    fleet = Fleet(logs, {**own, **more, **environ}, ports, metrics)
    fleet.start()
    try:
        await fleet.serving()
        yield fleet
    finally:
        await asyncio.to_thread(fleet.stop)


class Reflecting:
    """A model server whose errors say what it was sent."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, call: Call) -> Reply:
        self.calls += 1
        said = f"refused: {call.headers.get('Authorization', '')} {call.headers}"
        statuses = (401, 500, 503, 429, 400, 403)
        if self.calls <= len(statuses):
            return Reply(status=statuses[self.calls - 1], message=said, retry_after=0.01)
        if self.calls % 3 == 0:
            return Reply(error_after=2, message=said)
        return Reply()


async def provoke(port: int, secret: Mapping[str, str]) -> list[str]:
    """Errors of many kinds; what clients are told of them."""
    told: list[str] = []
    metadata = (
        ("authorization", f"Bearer {secret['bearer']}"),
        ("x-api-key", secret["api key"]),
        ("cookie", f"session={secret['cookie']}"),
        ("x-hma-identity", secret["jwt"]),
        ("x-webhook-secret", secret["webhook"]),
    )
    async with open_channel(f"127.0.0.1:{port}") as channel:
        api: meta_agent_pb2_grpc.MetaAgentServiceAsyncStub
        api = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        api_key = secret["api key"]
        requests: list[tuple[Any, Any]] = [
            (api.GetJob, meta_agent_pb2.GetJobRequest(job_id=new_job_id())),
            (api.GetJob, meta_agent_pb2.GetJobRequest(job_id=api_key)),
            (api.CancelJob, meta_agent_pb2.CancelJobRequest(job_id=api_key)),
            (api.DeleteJob, meta_agent_pb2.DeleteJobRequest(job_id=secret["jwt"])),
            (api.ListJobs, meta_agent_pb2.ListJobsRequest(page_token=secret["bearer"])),
            (api.CreateJob, meta_agent_pb2.CreateJobRequest()),
            (api.GetSystemStatus, meta_agent_pb2.GetSystemStatusRequest()),
        ]
        for method, request in requests:
            try:
                told.append(str(await method(request, metadata=metadata, timeout=30)))
            except grpc.aio.AioRpcError as error:
                told.append(f"{error.code()} {error.details()} {error.trailing_metadata()}")
        for path, data in (
            ("/hma.v1.MetaAgentService/CreateJob", b"\xff" * 100),
            (f"/hma.v1.MetaAgentService/{secret['webhook']}", b""),
        ):
            call: Any = channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(data, metadata=metadata, timeout=30)
            told.append(f"{caught.value.code()} {caught.value.details()}")
    return told


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"postgres:{password}@"))


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_planted_secret_is_found_anywhere(
    postgres_url: str, tmp_path: Path, log_format: str
) -> None:
    secret = {
        "database": planted("database"),
        "llm key": planted("llm"),
        "route key": planted("route"),
        "internal key": planted("internal") * 2,
        "bearer": planted("bearer"),
        "cookie": planted("cookie"),
        "webhook": planted("webhook"),
        "api key": f"hma_{secrets.token_hex(6)}_{secrets.token_hex(22)[:43]}",
        "jwt": f"eyJhbGciOiJub25lIn0.{secrets.token_hex(20)}.{secrets.token_hex(20)}",
    }
    internal, routes = tmp_path / "internal-key", tmp_path / "routes.toml"
    internal.write_text(secret["internal key"])
    model = Reflecting()
    async with contextlib.AsyncExitStack() as stack:
        llm = await stack.enter_async_context(ScriptedLLM(model))
        routes.write_text(
            f'default = "fast"\n[routes.fast]\nbase_url = "{llm.base_url}"\nmodel = "{llm.model}"\n'
            f'profile = "standard"\n[routes.paid]\nbase_url = "{llm.base_url}"\n'
            f'model = "{llm.model}"\nprofile = "standard"\napi_key_variable = "PAID_ROUTE"\n'
        )
        fleet = await stack.enter_async_context(
            fleet_of(
                tmp_path,
                {
                    "HMA_DATABASE_URL": with_password(postgres_url, secret["database"]),
                    "HMA_ROUTES_FILE": str(routes),
                    "HMA_LLM_API_KEY": secret["llm key"],
                    "PAID_ROUTE": secret["route key"],
                    "HMA_API_KEY": secret["api key"],
                    "HMA_INTERNAL_KEY_FILE": str(internal),
                    "HMA_AUTH": "none",
                    "HMA_LOG_FORMAT": log_format,
                },
            )
        )
        address = f"127.0.0.1:{fleet.ports['meta_agent']}"
        client = await stack.enter_async_context(hma.AsyncClient(address, timeout=60))
        jobs = [
            await client.run(
                "1. Which port?\n2. Which year?",
                documents=[("a.md", "# A\n\nThe port is 80.\n")],
                budget=20_000,
                deadline=20,
                route=route,
            )
            for route in ("fast", "paid")
        ]
        told = await provoke(fleet.ports["meta_agent"], secret)
        connection = await asyncpg.connect(postgres_url)
        stack.push_async_callback(connection.close)
        # The database hangs up on everybody, in the middle of things.
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'hma-%'"
        )
        told += await provoke(fleet.ports["meta_agent"], secret)
        exported = [
            (await asyncio.to_thread(run_hma, address, "export", job.job_id)).stdout for job in jobs
        ]
        assert all(exported)
        seen = {"told": "\n".join(told), "export": "\n".join(exported)}
        seen |= dict(await asyncio.to_thread(lambda: list(fleet.pages())))
        await until(partial(refusals_are_written, connection), every=0.1)
        async for table, text in tables(connection):
            seen[table] = text
        await asyncio.to_thread(fleet.stop)
        seen |= fleet.said()
    assert model.calls >= 6
    assert any(f"Bearer {secret['llm key']}" in str(call.headers) for call in llm.calls)
    assert any(f"Bearer {secret['route key']}" in str(call.headers) for call in llm.calls)
    for role in ROLES:
        assert "serving" in seen[f"{role}.log"], seen[f"{role}.log"][-2000:]
    assert "NOT_FOUND" in seen["audit_entry"]
    found = {
        f"{name} in {place}" for place, text in seen.items() for name, value in secret.items()
        if value in text or value[-30:] in text
    }  # fmt: skip
    assert not found
    for log in (text for name, text in seen.items() if name.endswith(".log")):
        assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:9000]


async def refusals_are_written(connection: Any) -> bool:
    """Whether the trail has them: they are written behind the calls."""
    query = "SELECT FROM audit_entry WHERE code = 'NOT_FOUND'"
    return await connection.fetchrow(query) is not None


async def tables(connection: Any) -> AsyncIterator[tuple[str, str]]:
    """Every table, as text; bytes as far as they are text."""
    names = await connection.fetch("SELECT relname FROM pg_stat_user_tables")
    for (name,) in names:
        rows = await connection.fetch(f'SELECT * FROM "{name}"')
        values = [value for row in rows for value in row.values()]
        yield (
            name,
            "\n".join(
                value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                for value in values
            ),
        )


@pytest.mark.parametrize("role", ROLES)
async def test_wrong_settings_are_told_without_their_values(role: str) -> None:
    secret = planted("settings")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", f"services.{role}"],
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HMA_")},
            "HMA_DATABASE_URL": f"mysql://user:{secret}@db/hma",
            "HMA_LLM_API_KEY": secret,
            "HMA_LLM_BASE_URL": f"http://user:{secret}@127.0.0.1:1/v1",
            "HMA_MAX_MESSAGE_BYTES": "many",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "HMA_MAX_MESSAGE_BYTES" in done.stderr
    assert secret not in done.stdout + done.stderr
