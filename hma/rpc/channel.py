"""Client channels between services."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from hma.settings import Bytes, Seconds, at_least, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """How a process reaches the others."""

    max_message_bytes: Bytes = setting(
        "HMA_MAX_MESSAGE_BYTES",
        Bytes(40 << 20),
        "largest message that is sent or received; above the largest job (32 MiB)",
        check=at_least(1 << 16),
    )
    keepalive: Seconds = setting(
        "HMA_CLIENT_KEEPALIVE",
        Seconds(20),
        "interval of HTTP/2 pings on client connections; above the servers' minimum",
        check=at_least(1),
    )


def open_channel(address: str, settings: ChannelSettings | None = None) -> grpc.aio.Channel:
    """A channel to `address`; connects on first use, and again whenever it has to.

    Close it with `await channel.close()`, or use it as an async context manager.
    """
    settings = settings or ChannelSettings()
    credentials = _credentials()
    options = _options(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _credentials() -> grpc.ChannelCredentials | None:
    """Credentials of every channel between services: none, they share a trusted network.

    TLS between services would be decided here, and in `hma.rpc.server.bind`.
    """
    return None


def _options(settings: ChannelSettings) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A peer that restarts is found again in seconds, not in gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # One layer owns each retry, and it is not this one.
        ("grpc.enable_retries", 0),
        ("grpc.primary_user_agent", "hma"),
    ]
