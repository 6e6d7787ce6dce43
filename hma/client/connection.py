"""Where the server is, how to talk to it, and what a failed call means."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Any

import grpc

from hma.errors import DeadlinePassed, HmaError, InvalidRequest, Unavailable
from hma.rpc.status import from_rpc_error

DEFAULT_SERVER = "localhost:8080"
_MESSAGE_BYTES = 64 << 20
# A proxy sees a call's deadline at the same moment as we do. Once an answer has begun, it can only
# reset the stream, which gRPC calls INTERNAL; that may be here before our own clock says so.
_CLOCKS = 0.05

OPTIONS: tuple[tuple[str, int], ...] = (
    # A job with its ledger can pass gRPC's default limit of 4 MiB.
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    # gRPC's own reconnect pause starts at a second; our retries are quicker.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Notices a peer that vanished under a quiet stream.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server's address.

    Attributes:
        target: What gRPC dials.
        secure: Whether the connection uses TLS.
    """

    target: str
    secure: bool = False

    @property
    def is_local(self) -> bool:
        """Whether what is sent never leaves this machine: a loopback address, or localhost."""
        host = self.target.rpartition(":")[0].strip("[]").lower().rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        # Unspecified as a destination is loopback, too.
        mapped = getattr(address, "ipv4_mapped", None) or address
        return mapped.is_loopback or mapped.is_unspecified

    @classmethod
    def parse(cls, address: str | None) -> Server:
        """Reads "host:port", "http://host:port" or "https://host[:port]".

        Args:
            address: The address; None reads HMA_SERVER, else "localhost:8080".

        Raises:
            InvalidRequest: It is none of these.
        """
        text = (address or os.environ.get("HMA_SERVER") or DEFAULT_SERVER).strip()
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "http", text
        rest = rest.rstrip("/")
        if scheme not in ("http", "https") or not rest or "/" in rest or " " in rest:
            raise InvalidRequest.field("server", f'expected "host:port", got {text!r}')
        host, colon, port = rest.rpartition(":")
        if not colon or rest.endswith("]"):
            return cls(f"{rest}:{443 if scheme == 'https' else 8080}", scheme == "https")
        if not host or not port.isdigit() or int(port) > 65535:
            raise InvalidRequest.field("server", f'expected "host:port", got {text!r}')
        return cls(rest, scheme == "https")


def failure_of(error: grpc.RpcError, server: Server, left: float | None = None) -> HmaError:
    """The typed error that `error` stands for.

    A connection that was never made carries no metadata at all, which tells it
    from a server or a proxy that answered UNAVAILABLE.

    Args:
        error: What gRPC says.
        server: Who was called.
        left: Seconds that the call had left; None: it had no deadline.
    """
    if left is not None and left < _CLOCKS and _is_reset(error):
        return DeadlinePassed(f"{server.target} had not answered in time")
    if error.code() is grpc.StatusCode.UNAVAILABLE and not _answered(error):
        return Unavailable(_unreachable(server), reason="UNREACHABLE")
    if error.code() is grpc.StatusCode.CANCELLED:
        # Who cancels a call of his own gets no RpcError: the server stops, and said so.
        return Unavailable(f"{server.target} ended the call before it was answered")
    return from_rpc_error(error)


def _unreachable(server: Server) -> str:
    if server.secure:
        return (
            f"nothing that can be trusted answers at https://{server.target}; name its address "
            "with --server or HMA_SERVER, and the file with its certificate authority with "
            "HMA_CA_FILE; `hma doctor` says more"
        )
    return (
        f"nothing answers at {server.target}; start HMA with `make up`, or name its "
        "address with --server or HMA_SERVER (https://… if it speaks TLS)"
    )


def _is_reset(error: grpc.RpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")


def _answered(error: grpc.RpcError) -> bool:
    call: Any = error  # types-grpcio gives RpcError only a part of its methods
    return bool(call.trailing_metadata()) or bool(call.initial_metadata())
