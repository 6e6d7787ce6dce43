"""Settings of the Analyst."""

from __future__ import annotations

from dataclasses import dataclass, field

from hma.llm.settings import LlmSettings
from hma.rpc.access_settings import ServiceAccess
from hma.rpc.channel import ChannelSettings
from hma.rpc.server import ServerSettings
from hma.rpc.tls import TlsSettings
from hma.settings import at_least, is_port, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalystServer(ServerSettings):
    """How the Analyst serves."""

    port: int = setting("HMA_ANALYST_PORT", 50052, "gRPC port of the Analyst", check=is_port)
    metrics_port: int = setting(
        "HMA_ANALYST_METRICS_PORT", 9102, "HTTP port of the Analyst's metrics", check=is_port
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalystSettings:
    """All settings of the Analyst's process."""

    server: AnalystServer
    channel: ChannelSettings
    llm: LlmSettings
    access: ServiceAccess = field(default_factory=ServiceAccess)
    tls: TlsSettings = field(default_factory=TlsSettings)
    meta_agent_address: str = setting(
        "HMA_META_AGENT_ADDRESS",
        "127.0.0.1:50051",
        "where results go whose stream broke (InternalService)",
    )
    max_concurrent: int = setting(
        "HMA_ANALYST_MAX_CONCURRENT",
        20,
        "most plans made at once in one process; above it they are refused",
        check=at_least(1),
    )
