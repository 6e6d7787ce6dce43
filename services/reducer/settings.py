"""Settings of the Reducer."""

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
class ReducerServer(ServerSettings):
    """How the Reducer serves."""

    port: int = setting("HMA_REDUCER_PORT", 50053, "gRPC port of the Reducer", check=is_port)
    metrics_port: int = setting(
        "HMA_REDUCER_METRICS_PORT", 9103, "HTTP port of the Reducer's metrics", check=is_port
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducerSettings:
    """All settings of the Reducer's process."""

    server: ReducerServer
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
        "HMA_REDUCER_MAX_CONCURRENT",
        20,
        "most answers made at once in one process; above it they are refused",
        check=at_least(1),
    )
    document_cache: Bytes = setting(
        "HMA_REDUCER_DOCUMENT_CACHE",
        Bytes(64 << 20),
        "most bytes of documents kept in memory",
        check=at_least(0),
    )
    idle_state: Seconds = setting(
        "HMA_IDLE_STATE",
        Seconds(IDLE),
        "documents that nobody has read for so long are dropped from memory",
        check=at_least(1),
    )
