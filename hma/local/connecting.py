"""How the local stack itself reaches its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from hma.client.trust import channel_credentials as client_credentials
from hma.local.tls_settings import StackTls
from hma.rpc.callers import CLI, SERVER_NAME
from hma.rpc.tls import channel_credentials as service_credentials


@dataclass(frozen=True, slots=True)
class Proof:
    """What is shown and believed at the other end of a TLS connection.

    Attributes:
        credentials: Certificates.
        name: What the other's certificate is for; empty: the address that is called.
    """

    credentials: grpc.ChannelCredentials
    name: str = ""


Prove = Callable[[], Proof | None]
"""Reads the certificates anew; None: the connection is plain."""


def plain() -> Proof | None:
    """A connection in plain text."""
    return None


def to_services(tls: StackTls) -> Prove:
    """Connections to services themselves, past the gateway."""
    if not tls.between_services:
        return plain
    return lambda: Proof(service_credentials(tls.of(CLI).watch().current()), SERVER_NAME)


def to_gateway(tls: StackTls) -> Prove:
    """Connections that clients make, too."""
    if not tls.for_clients:
        return plain
    return lambda: Proof(client_credentials(tls.client_ca_file))


def open_channel(address: str, proof: Proof | None) -> grpc.Channel:
    """A channel of its own: one that was refused would back off for a second."""
    options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1)]
    if proof is None:
        return grpc.insecure_channel(address, options=options)
    if proof.name:
        options.append(("grpc.ssl_target_name_override", proof.name))
    return grpc.secure_channel(address, proof.credentials, options=options)
