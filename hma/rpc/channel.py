"""Client channels between services."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from hma.rpc.callers import SERVER_NAME, certificate_name
from hma.rpc.member_channel import MemberChannel
from hma.rpc.membership import Membership
from hma.rpc.tls import channel_credentials
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


def open_channel(
    address: str,
    settings: ChannelSettings | None = None,
    membership: Membership | None = None,
    *,
    server: str = "",
) -> grpc.aio.Channel:
    """A channel to `address`; connects on first use, and again whenever it has to.

    Close it with `await channel.close()`, or use it as an async context manager.

    Args:
        address: host:port.
        settings: How.
        membership: Who calls; its calls say so, and its certificates are shown. None: nobody
            in particular, over a plain connection.
        server: The role that a certificate at the other end must have; empty: any of the
            installation, where the gateway may stand between.
    """
    options = _options(settings or ChannelSettings())
    if membership is None:
        return grpc.aio.insecure_channel(address, options=options)
    tls = membership.tls
    if tls is None:
        return MemberChannel(
            lambda: grpc.aio.insecure_channel(address, options=options), membership.metadata_for
        )
    # Addresses come and go; what a service is called by stays.
    name = certificate_name(server) if server else SERVER_NAME
    named = [*options, ("grpc.ssl_target_name_override", name)]
    return MemberChannel(
        lambda: grpc.aio.secure_channel(address, channel_credentials(tls.current()), options=named),
        membership.metadata_for,
        made_from=tls.current,
    )


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
