"""What the local stack consists of: for each part its command, environment and check."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hma.local import gateway
from hma.local.access import key_path
from hma.local.connecting import Prove, to_gateway, to_services
from hma.local.database import database_url
from hma.local.readiness import Check, database_answers, grpc_serves, http_answers
from hma.local.settings import StackSettings
from hma.rpc.callers import META_AGENT

# For a stack on one machine, unless the user has set them: nobody needs to be warned
# before a service leaves, and every job is worth a line.
_CHOICES = {
    "HMA_DRAIN_DELAY": "0s",
    "HMA_DRAIN_GRACE": "3s",
    "HMA_BENCHMARK_LOG": "hma_benchmark_logs.csv",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of the stack.

    Attributes:
        name: For people; also names its log file.
        command: What runs it.
        environment: Its whole environment.
        ready: Asks whether it is ready.
        where: Where it can be reached.
        log: Where its output goes.
        stop_signal: Asks it to end in good order.
        orphan_signal: What it gets when the stack's own process dies.
        wave: Parts of a lower wave are stopped first.
        replicated: The stack goes on when it ends, while another like it runs.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    ready: Check
    where: str
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    wave: int = 1
    replicated: bool = False


def parts(settings: StackSettings, environ: Mapping[str, str] = os.environ) -> list[Part]:
    """The parts, in the order in which they start.

    Args:
        settings: Ports, with no zeros left.
        environ: What the parts inherit.
    """
    table = _Table(settings, environ)
    embedded = []
    if settings.embeds_database:
        embedded.append(table.database())
    if settings.embeds_llm:
        embedded.append(table.llm())
    roles = [table.service("analyst", settings.analyst_port, settings.analyst_metrics_port)]
    for index in range(settings.workers):
        ports = settings.worker_port + index, settings.worker_metrics_port + index
        roles.append(table.service("worker", *ports, number=index + 1))
    roles.append(table.service("reducer", settings.reducer_port, settings.reducer_metrics_port))
    replicas = [table.meta_agent(index) for index in range(settings.meta_agents)]
    return [*embedded, *roles, *replicas, table.gateway()]


def client_environment(
    settings: StackSettings, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of a client that shall talk to this stack."""
    return {
        # Whatever address the gateway binds, it is on this machine.
        "HMA_PLAINTEXT_KEY": "allow",
        **environ,
        "HMA_SERVER": server_of(settings),
        # `hma demo` also asks the model directly, for comparison.
        "HMA_LLM_PORT": str(settings.llm_port),
        **_key_of(settings, environ),
    }


def server_of(settings: StackSettings) -> str:
    """What a client is told in HMA_SERVER."""
    return settings.gateway_url.removeprefix("http://")


def _key_of(settings: StackSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Where the client finds the stack's own key, unless it has been given another."""
    own = any(environ.get(name) for name in ("HMA_API_KEY", "HMA_API_KEY_FILE"))
    if own or not settings.access.required:
        return {}
    return {"HMA_API_KEY_FILE": str(key_path(settings))}


class _Table:
    """Makes the parts of one stack."""

    def __init__(self, settings: StackSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._host = settings.connect_host
        self._logs = settings.data / "log"
        internal = f"{self._host}:{settings.gateway_internal_port}"
        self._shared = {
            **_CHOICES,
            **environ,
            "PYTHONUNBUFFERED": "1",
            "HMA_HOST": settings.host,
            "HMA_LLM_PORT": str(settings.llm_port),
            "HMA_META_AGENT_ADDRESS": _any_replica(settings),
            "HMA_ANALYST_ADDRESS": internal,
            "HMA_WORKER_ADDRESS": internal,
            "HMA_REDUCER_ADDRESS": internal,
        }
        if settings.access.required:
            self._shared["HMA_INTERNAL_KEY_FILE"] = str(settings.internal_keys)

    def database(self) -> Part:
        data = self._settings.data / "pg"
        return Part(
            name="database",
            command=[sys.executable, "-m", "hma.local.database", str(data)],
            environment=self._environ,
            ready=database_answers(database_url(data)),
            where=database_url(data),
            log=self._log("database"),
            # Fast shutdown; on SIGTERM PostgreSQL would wait for every client to leave.
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGINT,
            wave=3,
        )

    def llm(self) -> Part:
        # Whatever the others bind: it asks nobody who they are, and no budget bounds who calls it
        # directly. The services look for it here.
        host, port = "127.0.0.1", self._settings.llm_port
        return Part(
            name="llm",
            command=[sys.executable, "-m", "hma.local.llama", host, str(port)],
            environment=self._environ,
            ready=http_answers(host, port, "/health"),
            where=f"http://{host}:{port}/v1",
            log=self._log("llm"),
            wave=2,
        )

    def service(self, role: str, port: int, metrics_port: int, number: int = 0) -> Part:
        name = f"{role}-{number}" if number else role
        return Part(
            name=name,
            command=[sys.executable, "-m", f"services.{role}"],
            environment={
                **self._shared,
                **_own_ports(role, port, metrics_port),
                **self._settings.tls.environment_of(role),
            },
            ready=self._serves(f"{self._host}:{port}", to_services(self._settings.tls)),
            where=f"{self._host}:{port}  http://{self._host}:{metrics_port}/metrics",
            log=self._log(name),
            wave=2,
        )

    def meta_agent(self, index: int) -> Part:
        settings = self._settings
        port = settings.ports_of("meta_agent_port")[index]
        metrics_port = settings.ports_of("meta_agent_metrics_port")[index]
        name = f"meta-agent-{index + 1}" if settings.meta_agents > 1 else "meta-agent"
        environment = {
            **self._shared,
            **_own_ports("meta_agent", port, metrics_port),
            **settings.tls.environment_of(META_AGENT),
        }
        if settings.meta_agents > 1:
            environment["HMA_REPLICA_NAME"] = name
        if settings.embeds_database:
            environment["HMA_DATABASE_URL"] = database_url(settings.data / "pg")
        return Part(
            name=name,
            command=[sys.executable, "-m", "services.meta_agent"],
            # It waits for its database itself.
            environment=environment,
            ready=self._serves(f"{self._host}:{port}", to_services(settings.tls)),
            where=f"{self._host}:{port}  http://{self._host}:{metrics_port}/metrics",
            log=self._log(name),
            replicated=True,
        )

    def gateway(self) -> Part:
        settings = self._settings
        configuration = gateway.configuration_path(settings)
        return Part(
            name="gateway",
            command=gateway.command(configuration),
            environment=self._environ,
            # Through the whole of it: the public listener, its routes, a MetaAgent.
            ready=self._serves(settings.gateway_address, to_gateway(settings.tls)),
            where=f"{settings.gateway_url}  "
            f"(administration http://127.0.0.1:{settings.gateway_admin_port})",
            log=self._log("gateway"),
        )

    def _serves(self, address: str, prove: Prove) -> Check:
        # Without a model a service is not ready. When the model is not of this stack it
        # may come later, and jobs queue until then: no reason not to start.
        enough = not self._settings.embeds_llm
        return grpc_serves(address, answer_is_enough=enough, prove=prove)

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _any_replica(settings: StackSettings) -> str:
    """Where services reach the MetaAgents: a name that gRPC resolves to all of them."""
    host, ports = settings.connect_host, settings.ports_of("meta_agent_port")
    if len(ports) == 1:
        return f"{host}:{ports[0]}"
    # Only addresses can be listed, so a host's name is looked up here.
    family, _, _, _, place = socket.getaddrinfo(host, ports[0], type=socket.SOCK_STREAM)[0]
    ipv6 = family == socket.AF_INET6
    address = f"[{place[0]}]" if ipv6 else place[0]
    replicas = ",".join(f"{address}:{port}" for port in ports)
    return f"{'ipv6' if ipv6 else 'ipv4'}:{replicas}"


def _own_ports(role: str, port: int, metrics_port: int) -> dict[str, str]:
    prefix = f"HMA_{role.upper()}"
    return {f"{prefix}_PORT": str(port), f"{prefix}_METRICS_PORT": str(metrics_port)}
