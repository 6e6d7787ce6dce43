"""The whole of HMA as processes: two MetaAgents, Workers, Analyst, Reducers, Envoy, PostgreSQL.

Envoy runs with the repository's configuration; only its lists of endpoints are longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hma.gateway.limits import GatewayLimits
from hma.local import gateway
from hma.local.access_settings import StackAccess
from hma.local.database import database_url
from hma.local.descriptors import write_descriptor_set
from hma.local.readiness import Check, database_answers, grpc_serves, http_answers
from hma.local.settings import StackSettings
from hma.local.tether import tethered
from tests.chaos.ports import free_ports

HOST = "127.0.0.1"
START = 60.0
"""Seconds that a process may take to be ready, on a machine that is busy with others."""

DRAINED = 40.0
"""Seconds after SIGTERM in which a service must have ended."""

# A few times quicker than in production: a run takes seconds, not minutes.
_ENVIRONMENT = {
    "HMA_DRAIN_DELAY": "1.5s",
    "HMA_DRAIN_GRACE": "4s",
    "HMA_READINESS_INTERVAL": "0.3s",
    "HMA_LLM_STALL_TIMEOUT": "4s",
    "HMA_LLM_BACKOFF_INITIAL": "0.2s",
    "HMA_LLM_PROFILE": "standard",
    "HMA_DATABASE_CONNECTIONS": "6",
    "HMA_LOG_FORMAT": "text",
    "HMA_AUTH": "none",
    "PYTHONUNBUFFERED": "1",
}
# What the kernel has been given outlives the server. With synchronous_commit=off it would
# not have been given all that was committed, and these tests find that out.
_FAST = ["fsync=off", "full_page_writes=off"]


@dataclass
class Part:
    """One process of the fleet, over all of its lives.

    Attributes:
        name: For people, plans and its log.
        command: What runs it.
        environment: Its whole environment.
        ready: Asks it whether it is ready.
        log: Where its output goes; all lives in one file.
        ends: What an orderly stop is to it.
        kills: What a sudden end is to it.
        metrics: Port of its metrics page; 0 for none.
        process: The present life.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    ready: Check
    log: Path
    ends: signal.Signals = signal.SIGTERM
    kills: signal.Signals = signal.SIGKILL
    metrics: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begins a life."""
        with self.log.open("ab") as output:
            output.write(f"--- {self.name} starts at {time.time():.3f}\n".encode())
            output.flush()
            self.process = subprocess.Popen(
                tethered(self.command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
            )

    @property
    def pid(self) -> int:
        """Of the present or the last life."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def code(self) -> int | None:
        """Exit code of the last life; None while it lives."""
        return None if self.process is None else self.process.poll()

    async def ended(self, timeout: float) -> int | None:
        """Waits for its end; None when it did not come."""
        end = time.monotonic() + timeout
        while (code := self.code()) is None and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return code

    async def until_ready(self, timeout: float = START) -> None:
        """Waits until it is ready."""
        end = time.monotonic() + timeout
        while not await asyncio.to_thread(self.ready):
            assert time.monotonic() < end, f"{self.name} is not ready: {self.log}"
            await asyncio.sleep(0.05)


class Fleet:
    """All parts, in `directory`, where other users may pass."""

    def __init__(
        self,
        directory: Path,
        script: list[dict[str, Any]],
        *,
        token_delay: float = 0.01,
        limits: GatewayLimits | None = None,
    ) -> None:
        self.directory = directory
        self.logs = directory / "log"
        self.logs.mkdir(parents=True)
        self.journal = directory / "journal"
        self.data = directory / "pg" / "data"
        self.parts: dict[str, Part] = {}
        self._ports = free_ports()
        self._environment = {**os.environ, **_ENVIRONMENT}
        self._script = directory / "script.json"
        self._script.write_text(json.dumps(script))
        self._token_delay = token_delay
        self._limits = limits or GatewayLimits()
        self._build()

    @property
    def database_url(self) -> str:
        """Of the fleet's PostgreSQL."""
        return database_url(self.data)

    @property
    def pids(self) -> set[int]:
        """The processes that are the fleet's own, without PostgreSQL's children."""
        return {part.pid for part in self.parts.values() if part.code() is None}

    @property
    def services(self) -> list[Part]:
        """Those that are HMA's own."""
        return [part for part in self.parts.values() if part.metrics]

    async def ready(self) -> None:
        """Waits until every part is ready."""
        await asyncio.gather(*(part.until_ready() for part in self.parts.values()))

    async def close(self) -> None:
        """Ends everything, the database last."""
        for part in self.parts.values():
            if part.code() is None and part.name != "database":
                part.signal(signal.SIGCONT)
                part.signal(signal.SIGKILL)
        database = self.parts["database"]
        if database.code() is None and database.process is not None:
            database.signal(signal.SIGINT)
        for part in self.parts.values():
            if part.process is not None and await part.ended(20) is None:
                part.process.kill()
                part.process.wait()

    def _build(self) -> None:
        model = next(self._ports)
        names = ("meta-agent-1", "meta-agent-2", "worker-1", "worker-2", "analyst")
        roles = [*names, "reducer-1", "reducer-2"]
        ports = {name: (next(self._ports), next(self._ports)) for name in roles}
        self.port, internal, admin = (next(self._ports) for _ in range(3))
        replicas = [f"{HOST}:{ports[name][0]}" for name in roles if name.startswith("meta-agent")]
        self._environment |= {
            "HMA_HOST": HOST,
            "HMA_LLM_BASE_URL": f"http://{HOST}:{model}/v1",
            "HMA_DATABASE_URL": self.database_url,
            "HMA_META_AGENT_ADDRESS": "ipv4:" + ",".join(replicas),
            "HMA_ANALYST_ADDRESS": f"{HOST}:{internal}",
            "HMA_WORKER_ADDRESS": f"{HOST}:{internal}",
            "HMA_REDUCER_ADDRESS": f"{HOST}:{internal}",
        }
        self._add_database()
        self._add_model(model)
        for name in roles:
            self._add_service(name, *ports[name])
        self._add_gateway(ports, internal, admin)

    def _add(self, name: str, command: list[str], ready: Check, **more: Any) -> None:
        environment = more.pop("environment", self._environment)
        log = self.logs / f"{name}.log"
        self.parts[name] = Part(name, command, environment, ready, log, **more)

    def _add_database(self) -> None:
        command = [sys.executable, "-m", "hma.local.database", str(self.data)]
        for option in _FAST:
            command += ["-c", option]
        ready = database_answers(self.database_url)
        # SIGQUIT is PostgreSQL's immediate shutdown: it comes back by recovery.
        self._add("database", command, ready, ends=signal.SIGINT, kills=signal.SIGQUIT)

    def _add_model(self, port: int) -> None:
        command = [sys.executable, "-m", "tests.scripted_llm", "--port", str(port)]
        command += ["--token-delay", str(self._token_delay), "--script", str(self._script)]
        command += ["--journal", str(self.journal), "--context-tokens", "32768"]
        self._add("model", command, http_answers(HOST, port, "/health"))

    def _add_service(self, name: str, port: int, metrics: int) -> None:
        role = name.rstrip("-12").replace("-", "_")
        prefix = f"HMA_{role.upper()}"
        environment = {
            **self._environment,
            f"{prefix}_PORT": str(port),
            f"{prefix}_METRICS_PORT": str(metrics),
            "HMA_REPLICA_NAME": name,
        }
        command = [sys.executable, "-m", f"services.{role}"]
        ready = grpc_serves(f"{HOST}:{port}")
        self._add(name, command, ready, environment=environment, metrics=metrics)

    def _add_gateway(self, ports: Mapping[str, tuple[int, int]], internal: int, admin: int) -> None:
        descriptors = self.directory / "hma.protoset"
        write_descriptor_set(descriptors)
        settings = StackSettings(
            access=StackAccess(auth="none"),
            gateway_port=self.port,
            gateway_internal_port=internal,
            gateway_admin_port=admin,
            limits=self._limits,
        )
        configuration = gateway.render(settings, descriptors)
        for cluster in configuration["static_resources"]["clusters"]:
            role = cluster["name"].removesuffix("_metrics").replace("_", "-")
            place = int(cluster["name"].endswith("_metrics"))
            found = [pair[place] for name, pair in ports.items() if name.startswith(role)]
            cluster["load_assignment"]["endpoints"] = [
                {"lb_endpoints": [_endpoint(port) for port in found]}
            ]
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(configuration))
        self._add("gateway", gateway.command(path), grpc_serves(f"{HOST}:{self.port}"))


def _endpoint(port: int) -> dict[str, Any]:
    return {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}}


@asynccontextmanager
async def open_fleet(
    directory: Path,
    script: list[dict[str, Any]],
    *,
    token_delay: float = 0.01,
    limits: GatewayLimits | None = None,
) -> AsyncIterator[Fleet]:
    """A fleet that is ready; ended when the context is left."""
    fleet = Fleet(directory, script, token_delay=token_delay, limits=limits)
    try:
        for part in fleet.parts.values():
            part.start()
        await fleet.ready()
        yield fleet
    finally:
        await fleet.close()
