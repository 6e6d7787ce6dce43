"""Settings of the Worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from hma.idle import IDLE
from hma.llm.settings import LlmSettings
from hma.rpc.access_settings import ServiceAccess
from hma.rpc.channel import ChannelSettings
from hma.rpc.server import ServerSettings
from hma.rpc.tls import TlsSettings
from hma.settings import Bytes, Seconds, at_least, is_port, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerServer(ServerSettings):
    """How the Worker serves."""

    port: int = setting("HMA_WORKER_PORT", 50054, "gRPC port of the Worker", check=is_port)
    metrics_port: int = setting(
        "HMA_WORKER_METRICS_PORT", 9104, "HTTP port of the Worker's metrics", check=is_port
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All settings of the Worker's process."""

    server: WorkerServer
    channel: ChannelSettings
    llm: LlmSettings
    access: ServiceAccess = field(default_factory=ServiceAccess)
    tls: TlsSettings = field(default_factory=TlsSettings)
    meta_agent_address: str = setting(
        "HMA_META_AGENT_ADDRESS",
        "127.0.0.1:50051",
        "where documents are read and results go whose stream broke (InternalService)",
    )
    max_concurrent: int = setting(
        "MAX_CONCURRENT_WORKERS",
        20,
        "most tasks at once in one Worker process; above it they are refused, unspent",
        check=at_least(1),
    )
    document_cache: Bytes = setting(
        "HMA_WORKER_DOCUMENT_CACHE",
        Bytes(128 << 20),
        "most bytes of documents, with their search indexes, kept in memory",
        check=at_least(0),
    )
    idle_state: Seconds = setting(
        "HMA_IDLE_STATE",
        Seconds(IDLE),
        "documents that nobody has read for so long are dropped from memory",
        check=at_least(1),
    )
