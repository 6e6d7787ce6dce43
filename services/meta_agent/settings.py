"""Settings of the MetaAgent."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hma.errors import SettingsError
from hma.llm.settings import LlmSettings
from hma.rpc.channel import ChannelSettings
from hma.rpc.server import ServerSettings
from hma.rpc.tls import TlsSettings
from hma.settings import Bytes, Seconds, Secret, at_least, is_port, setting
from services.meta_agent.access.settings import AccessSettings
from services.meta_agent.access.tenants import NAME_RULE, is_tenant
from services.meta_agent.edge.limits import Limits
from services.meta_agent.job.priority import AGEING
from services.meta_agent.store.quota_limits import PRESETS
from services.meta_agent.store.quota_lock import TRANCHE

_INTERNAL_LISTENER = "127.0.0.1:8081"
_MESSAGE_OVERHEAD = 1 << 20
_ALL_INTERFACES = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaAgentServerSettings(ServerSettings):
    """Where the MetaAgent serves."""

    port: int = setting("HMA_META_AGENT_PORT", 50051, "gRPC port of the MetaAgent", check=is_port)
    metrics_port: int = setting(
        "HMA_META_AGENT_METRICS_PORT",
        9101,
        "HTTP port of /metrics (this process) and /fleet (all replicas)",
        check=is_port,
    )


def _is_address(value: str) -> str | None:
    host, _, port = value.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) <= 65535:
        return None
    return f'expected "host:port", got {value!r}'


def _is_optional_address(value: str) -> str | None:
    return _is_address(value) if value else None


def _is_database_url(value: Secret) -> str | None:
    # The text may hold a password: it is never repeated.
    text = value.reveal()
    if not text or text.startswith(("postgresql://", "postgres://")):
        return None
    return "expected a URI such as postgresql://user:password@host:5432/hma"


def _is_public_url(value: str) -> str | None:
    parts = urlsplit(value)
    if not value or (parts.scheme in ("http", "https") and parts.hostname):
        return None
    return f'expected a URL such as "https://hma.example.org", got {value!r}'


def _is_share(value: float) -> str | None:
    return None if 0 <= value <= 1 else f"expected 0 to 1, got {value}"


def _is_audit_retention(value: float) -> str | None:
    return None if value == 0 or value >= 86_400 else f"expected 0 or a day and more, got {value}"


def _is_ageing(value: float) -> str | None:
    return None if 0 <= value <= 86_400 else f"expected 0 to a day, got {value}"


def _is_preset(value: str) -> str | None:
    return None if value in PRESETS else f"expected one of {', '.join(PRESETS)}, got {value!r}"


def _is_tenant(value: str) -> str | None:
    return None if is_tenant(value) else f"expected {NAME_RULE}, got {value!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaAgentSettings:
    """Everything that a MetaAgent is told from outside."""

    server: MetaAgentServerSettings = field(default_factory=MetaAgentServerSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    limits: Limits = field(default_factory=Limits)
    llm: LlmSettings = field(default_factory=LlmSettings)
    channels: ChannelSettings = field(default_factory=ChannelSettings)
    database_url: Secret = setting(
        "HMA_DATABASE_URL",
        Secret(""),
        "PostgreSQL URI, such as postgresql://user:password@host:5432/hma; required",
        check=_is_database_url,
    )
    database_wait: Seconds = setting(
        "HMA_DATABASE_WAIT",
        Seconds(60),
        "How long a starting MetaAgent waits for the database",
        check=at_least(0),
    )
    database_connections: int = setting(
        "HMA_DATABASE_CONNECTIONS",
        10,
        "Most pooled database connections of one replica (three more are its own)",
        check=at_least(2),
    )
    analyst_address: str = setting(
        "HMA_ANALYST_ADDRESS",
        _INTERNAL_LISTENER,
        "Where the Analysts are; default: the gateway's internal listener",
        check=_is_address,
    )
    worker_address: str = setting(
        "HMA_WORKER_ADDRESS",
        _INTERNAL_LISTENER,
        "Where the Workers are; default: the gateway's internal listener",
        check=_is_address,
    )
    reducer_address: str = setting(
        "HMA_REDUCER_ADDRESS",
        _INTERNAL_LISTENER,
        "Where the Reducers are; default: the gateway's internal listener",
        check=_is_address,
    )
    replica_name: str = setting(
        "HMA_REPLICA_NAME", "", "Name of this replica in logs and events; unset: the host's name"
    )
    replica_address: str = setting(
        "HMA_REPLICA_ADDRESS",
        "",
        "host:port at which the other replicas reach this one; unset: HMA_HOST, or the host's "
        "name when that is all interfaces, and HMA_META_AGENT_PORT",
        check=_is_optional_address,
    )
    public_url: str = setting(
        "HMA_PUBLIC_URL",
        "",
        "URL under which clients reach the gateway; in front of watch_url. Unset: a path only",
        check=_is_public_url,
    )
    tenant: str = setting(
        "HMA_DEFAULT_TENANT",
        "default",
        "Whose the jobs are with HMA_AUTH=none, and whose the first key is",
        check=_is_tenant,
    )
    max_jobs: int = setting(
        "HMA_MAX_JOBS",
        200,
        "Most jobs that one replica drives at once; the others wait in the queue",
        check=at_least(1),
    )
    max_tasks_in_flight: int = setting(
        "HMA_MAX_TASKS_IN_FLIGHT",
        64,
        "Most tasks that one replica has open at Workers at once",
        check=at_least(1),
    )
    max_attempts: int = setting(
        "HMA_MAX_ATTEMPTS",
        3,
        "Tries per task, the first included, for jobs that do not say",
        check=at_least(1),
    )
    max_failed_claims: int = setting(
        "HMA_MAX_FAILED_CLAIMS",
        5,
        "A job whose driver has failed so often in a row by a defect is ended as FAILED",
        check=at_least(1),
    )
    breaker_failures: int = setting(
        "HMA_BREAKER_FAILURES",
        5,
        "Failures of a route, less its successes, within HMA_BREAKER_WINDOW that close it "
        "for a while",
        check=at_least(1),
    )
    breaker_window: Seconds = setting(
        "HMA_BREAKER_WINDOW",
        Seconds(30),
        "Time after which a failure of a route is forgotten",
        check=at_least(1),
    )
    breaker_open: Seconds = setting(
        "HMA_BREAKER_OPEN",
        Seconds(1),
        "How long a route that failed is left alone the first time; twice as long each next "
        "time, less up to half at random",
        check=at_least(0.1),
    )
    breaker_open_max: Seconds = setting(
        "HMA_BREAKER_OPEN_MAX",
        Seconds(30),
        "How long a route that failed is left alone at most",
        check=at_least(0.1),
    )
    max_waiting_requests: int = setting(
        "HMA_MAX_WAITING_REQUESTS",
        16,
        "Requests that may wait at a model server before fewer tasks are sent to it; 0: its "
        "queue is not looked at",
        check=at_least(0),
    )
    task_timeout: Seconds = setting(
        "HMA_TASK_TIMEOUT",
        Seconds(120),
        "Time limit of one try at a task that names none",
        check=at_least(0.1),
    )
    layer_timeout: Seconds = setting(
        "HMA_LAYER_TIMEOUT",
        Seconds(0),
        "With dispatch in waves: time limit of a layer, for jobs that name none; 0: none",
        check=at_least(0),
    )
    analyst_share: float = setting(
        "HMA_ANALYST_SHARE",
        0.15,
        "Most of a job's budget that planning may cost, 0 to 1",
        check=_is_share,
    )
    straggler_factor: float = setting(
        "HMA_STRAGGLER_FACTOR",
        3.0,
        "A try is interrupted, while others wait for it, after so many times the time that "
        "95 % of its kind take",
        check=at_least(1),
    )
    min_gain: float = setting(
        "HMA_MIN_GAIN",
        0.5,
        "With adaptive halting: the least gain, in answered items per 1,000 tokens, that is "
        "worth another round, for jobs that do not say",
        check=at_least(0),
    )
    retention: Seconds = setting(
        "HMA_RETENTION",
        Seconds(30 * 86_400),
        "How long an ended job is kept, with its log and documents; 0: for ever",
        check=at_least(0),
    )
    retention_batch: int = setting(
        "HMA_RETENTION_BATCH",
        100,
        "Most jobs that expire in one transaction",
        check=at_least(1),
    )
    audit_retention: Seconds = setting(
        "HMA_AUDIT_RETENTION",
        Seconds(0),
        "How long an entry of the audit trail is kept, a day at least; 0: for ever",
        check=_is_audit_retention,
    )
    default_quota: str = setting(
        "HMA_DEFAULT_QUOTA",
        "unlimited",
        'What tenants may use for whom no limits were set: "small", "large" or "unlimited"',
        check=_is_preset,
    )
    quota_tranche: int = setting(
        "HMA_QUOTA_TRANCHE",
        TRANCHE,
        "Tokens that a job draws at once from its tenant's windows, when they have room",
        check=at_least(1),
    )
    priority_ageing: Seconds = setting(
        "HMA_PRIORITY_AGEING",
        Seconds(AGEING),
        "How much earlier a job's turn among its tenant's jobs comes for each 25 points of its "
        "priority: a job that has waited so long stands beside a new one of 25 points more",
        check=_is_ageing,
    )
    idle_state: Seconds = setting(
        "HMA_IDLE_STATE",
        Seconds(3600),
        "After this, what a replica remembers of a job that nobody asks about is dropped from "
        "memory",
        check=at_least(1),
    )
    benchmark_log: str = setting(
        "HMA_BENCHMARK_LOG",
        "",
        "CSV file that gets one line per finished job, such as hma_benchmark_logs.csv; "
        "unset: none. The local stack sets it",
    )

    def advertised_address(self) -> str:
        """host:port at which other replicas reach this one."""
        if self.replica_address:
            return self.replica_address
        host = self.server.host
        if host.strip("[]") in _ALL_INTERFACES:
            host = socket.gethostname()
        return f"{host}:{self.server.port}"

    def benchmark_path(self) -> Path | None:
        """The benchmark log's file; None when it is off."""
        off = self.benchmark_log.lower() in ("", "off", "false", "no", "0")
        return None if off else Path(self.benchmark_log)

    def check(self) -> None:
        """Checks what one setting alone cannot show.

        Raises:
            SettingsError: Settings contradict each other, or a required one is missing.
        """
        faults = []
        if not self.database_url.reveal():
            faults.append(
                "HMA_DATABASE_URL: is required, such as postgresql://user:password@host:5432/hma"
            )
        faults += [*self.access.faults(self.server.host), *self.tls.faults()]
        limits = self.limits
        if limits.default_deadline > limits.max_deadline:
            faults.append("HMA_DEFAULT_DEADLINE: is longer than HMA_MAX_DEADLINE")
        if limits.max_document_bytes > limits.max_job_bytes:
            faults.append("HMA_MAX_DOCUMENT_BYTES: is larger than HMA_MAX_JOB_BYTES")
        least = Bytes(limits.max_job_bytes + _MESSAGE_OVERHEAD)
        if self.server.max_message_bytes < least:
            faults.append(
                f"HMA_MAX_MESSAGE_BYTES: must be {least} or more to carry a job of "
                f"HMA_MAX_JOB_BYTES ({limits.max_job_bytes})"
            )
        if faults:
            raise SettingsError("; ".join(faults))
