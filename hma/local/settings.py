"""The table of ports and places of the local stack.

Every part is told its port and its neighbours' addresses from here, through the same
environment variables that the part documents itself, so the two tables agree (a test
compares the defaults).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hma.gateway.limits import GatewayLimits
from hma.local.access_settings import StackAccess
from hma.local.tls_settings import StackTls
from hma.settings import Seconds, Secret, at_least, is_port, load, setting

# Ports of which each process of a kind has one -> the field that says how many there are,
# and how far apart they are: MetaAgents leave room for the ports between.
_REPLICATED = {
    "meta_agent_port": ("meta_agents", 100),
    "meta_agent_metrics_port": ("meta_agents", 100),
    "worker_port": ("workers", 1),
    "worker_metrics_port": ("workers", 1),
}


def _is_no_name(value: str) -> str | None:
    """Checks that it is an IP address, or unset: Envoy binds nothing else."""
    try:
        ipaddress.ip_address(value or "::")
    except ValueError:
        return f'expected an IP address such as "0.0.0.0" or "::", got {value!r}'
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Where the parts of a local stack listen and keep their data.

    A port of 0 means any free one. Worker `i` (from 0) listens on its port plus `i`,
    MetaAgent `i` on its port plus 100 times `i`.
    """

    access: StackAccess = field(default_factory=StackAccess)
    tls: StackTls = field(default_factory=StackTls)
    host: str = setting(
        "HMA_HOST",
        "127.0.0.1",
        "Address that every part binds, but for the embedded model server, the embedded database "
        "and Envoy's administration: nobody else reaches those.",
    )
    gateway_host: str = setting(
        "HMA_GATEWAY_HOST",
        "",
        "Address that the gateway's public listener binds; unset: HMA_HOST. For other machines set "
        "this one: HMA_HOST opens every service, the internal listener and the metrics, too.",
        check=_is_no_name,
    )
    gateway_port: int = setting(
        "HMA_GATEWAY_PORT", 8080, "Envoy: gRPC, gRPC-Web and HTTP/JSON for clients.", check=is_port
    )
    gateway_internal_port: int = setting(
        "HMA_GATEWAY_INTERNAL_PORT", 8081, "Envoy: balances the services' streams.", check=is_port
    )
    gateway_admin_port: int = setting(
        "HMA_GATEWAY_ADMIN_PORT", 9901, "Envoy's administration, on loopback only.", check=is_port
    )
    meta_agent_port: int = setting(
        "HMA_META_AGENT_PORT",
        50051,
        "First MetaAgent; each other 100 above.",
        check=is_port,
    )
    analyst_port: int = setting("HMA_ANALYST_PORT", 50052, "Analyst.", check=is_port)
    reducer_port: int = setting("HMA_REDUCER_PORT", 50053, "Reducer.", check=is_port)
    worker_port: int = setting(
        "HMA_WORKER_PORT", 50054, "First Worker; the others follow.", check=is_port
    )
    meta_agent_metrics_port: int = setting(
        "HMA_META_AGENT_METRICS_PORT",
        9101,
        "First MetaAgent's metrics over HTTP; each other 100 above.",
        check=is_port,
    )
    analyst_metrics_port: int = setting(
        "HMA_ANALYST_METRICS_PORT", 9102, "Analyst's metrics over HTTP.", check=is_port
    )
    reducer_metrics_port: int = setting(
        "HMA_REDUCER_METRICS_PORT", 9103, "Reducer's metrics over HTTP.", check=is_port
    )
    worker_metrics_port: int = setting(
        "HMA_WORKER_METRICS_PORT",
        9104,
        "First Worker's metrics over HTTP; the others follow.",
        check=is_port,
    )
    llm_port: int = setting("HMA_LLM_PORT", 8090, "Embedded llama.cpp server.", check=is_port)
    llm_base_url: str = setting(
        "HMA_LLM_BASE_URL", "", "A model server of your own; then none is embedded."
    )
    routes_file: str = setting(
        "HMA_ROUTES_FILE", "", "A table of routes of your own; then no model is embedded."
    )
    database_url: Secret = setting(
        "HMA_DATABASE_URL", Secret(""), "A PostgreSQL of your own; then none is embedded."
    )
    workers: int = setting(
        "HMA_LOCAL_WORKERS", 2, "Worker processes of the local stack.", check=at_least(1)
    )
    meta_agents: int = setting(
        "HMA_LOCAL_META_AGENTS",
        1,
        "MetaAgent processes of the local stack.",
        check=at_least(1),
    )
    data_dir: str = setting(
        "HMA_DATA_DIR", "var", "Database, logs and made configuration of the local stack."
    )
    start_timeout: Seconds = setting(
        "HMA_LOCAL_START_TIMEOUT", Seconds(90), "How long the parts may take to be ready."
    )
    stop_timeout: Seconds = setting(
        "HMA_LOCAL_STOP_TIMEOUT", Seconds(10), "How long each part may take to stop."
    )
    cors_origins: str = setting(
        "HMA_GATEWAY_CORS_ORIGINS",
        r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?",
        "Regular expression (RE2) of the web origins that may call the gateway.",
    )
    limits: GatewayLimits = field(default_factory=GatewayLimits)

    @property
    def data(self) -> Path:
        """The data directory, absolute."""
        return Path(self.data_dir).absolute()

    @property
    def internal_keys(self) -> Path:
        """The file with the key that the services share, absolute."""
        own = self.access.internal_key_file
        return Path(own).absolute() if own else self.data / "access" / "internal-key"

    @property
    def connect_host(self) -> str:
        """The address under which the parts reach each other."""
        return _reached(self.host)

    @property
    def public_host(self) -> str:
        """The address that the gateway's public listener binds."""
        return self.gateway_host or self.host

    @property
    def gateway_address(self) -> str:
        """host:port under which clients on this machine find the gateway."""
        host = _reached(self.public_host)
        return f"[{host}]:{self.gateway_port}" if ":" in host else f"{host}:{self.gateway_port}"

    @property
    def gateway_url(self) -> str:
        """Where clients on this machine find the gateway."""
        return f"{'https' if self.tls.for_clients else 'http'}://{self.gateway_address}"

    @property
    def embeds_llm(self) -> bool:
        """Whether the stack runs a model server of its own."""
        return not self.llm_base_url and not self.routes_file

    @property
    def embeds_database(self) -> bool:
        """Whether the stack runs a PostgreSQL of its own."""
        return not self.database_url.reveal()

    def ports_of(self, field_name: str) -> list[int]:
        """The ports of this kind, one for each process that has one."""
        count, stride = self._count_and_stride(field_name)
        return [getattr(self, field_name) + stride * index for index in range(count)]

    def bound_by(self, port: str) -> tuple[str, str]:
        """The address at which a port is bound, by its variable, and the setting that says so."""
        if port == "HMA_GATEWAY_PORT" and self.gateway_host:
            return self.gateway_host, "HMA_GATEWAY_HOST"
        return self.host, "HMA_HOST"

    def _count_and_stride(self, field_name: str) -> tuple[int, int]:
        counted_by, stride = _REPLICATED.get(field_name, ("", 1))
        return (int(getattr(self, counted_by)) if counted_by else 1), stride

    def ports(self) -> Iterator[tuple[str, str, int]]:
        """Yields (environment variable, part, port) of every port that will be bound."""
        for each in dataclasses.fields(self):
            if each.metadata.get("check") is not is_port:
                continue
            if each.name == "llm_port" and not self.embeds_llm:
                continue
            variable, name = each.metadata["variable"], each.name.removesuffix("_port")
            ports = self.ports_of(each.name)
            if len(ports) == 1 and not name.startswith("worker"):
                yield variable, name, ports[0]
                continue
            part = name.removesuffix("_metrics").replace("_", "-")
            for number, port in enumerate(ports, 1):
                yield variable, f"{each.name} of {part}-{number}", port

    def resolved(self) -> StackSettings:
        """The same settings with a free port in place of every 0."""
        changes: dict[str, Any] = {}
        with ExitStack() as held:
            for each in dataclasses.fields(self):
                if each.metadata.get("check") is is_port and getattr(self, each.name) == 0:
                    host, _ = self.bound_by(each.metadata["variable"])
                    changes[each.name] = _free_run(held, host, *self._count_and_stride(each.name))
        return dataclasses.replace(self, **changes) if changes else self


def load_stack(environ: Mapping[str, str] = os.environ) -> StackSettings:
    """Reads the settings; zeros are replaced by free ports.

    Raises:
        SettingsError: A variable is wrong; the message names it.
    """
    settings = load(StackSettings, environ)
    settings.access.check({"HMA_HOST": settings.host, "HMA_GATEWAY_HOST": settings.public_host})
    settings.tls.check()
    return settings.resolved()


def _reached(host: str) -> str:
    """Where this machine itself reaches what binds `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _free_run(held: ExitStack, host: str, count: int, stride: int) -> int:
    """The first of `count` free ports, `stride` apart, kept bound until `held` closes."""
    for _ in range(100):
        sockets = ExitStack()
        try:
            first = sockets.enter_context(socket.socket())
            first.bind((host, 0))
            port = int(first.getsockname()[1])
            for index in range(1, count):
                sockets.enter_context(socket.socket()).bind((host, port + stride * index))
        except (OSError, OverflowError):
            sockets.close()
            continue
        held.push(sockets)
        return port
    raise OSError(f"no {count} free ports on {host}, {stride} apart")
