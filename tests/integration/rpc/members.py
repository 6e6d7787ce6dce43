"""Servers and channels of members of an installation, on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from hma.rpc.access_settings import ServiceAccess
from hma.rpc.membership import Membership
from hma.rpc.server import ServerSettings, Service, bind
from hma.rpc.tls import TlsSettings
from hma.v1 import (
    meta_agent_pb2,
    meta_agent_pb2_grpc,
    reducer_pb2,
    reducer_pb2_grpc,
)

KEY, OTHER_KEY = "k" * 32, "q" * 32
PLAIN = TlsSettings()


def write(path: Path, text: str) -> None:
    """Replaces a file as a whole."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.replace(path)


def access(path: Path, *keys: str) -> ServiceAccess:
    """Access with a key file."""
    write(path, "".join(f"{key}\n" for key in keys or (KEY,)))
    return ServiceAccess(internal_key_file=str(path))


def member(role: str, path: Path, *keys: str, tls: TlsSettings = PLAIN) -> Membership:
    """A member with a key file of its own."""
    return Membership.of(role, access(path / f"{role}-keys", *keys), tls, "127.0.0.1")


class Internal(meta_agent_pb2_grpc.InternalServiceServicer):
    """Takes whatever reaches it."""

    def __init__(self) -> None:
        self.served = 0

    async def ReportAttempt(self, request: Any, context: Any) -> Any:
        self.served += 1
        return meta_agent_pb2.ReportAttemptResponse(recorded=True)

    async def ReadDocument(self, request: Any, context: Any) -> Any:
        self.served += 1
        yield meta_agent_pb2.ReadDocumentResponse(chunk=b"text")

    async def WatchProgress(self, request: Any, context: Any) -> Any:
        self.served += 1
        yield meta_agent_pb2.WatchProgressResponse()

    async def ReserveRoute(self, request: Any, context: Any) -> Any:
        self.served += 1
        return meta_agent_pb2.ReserveRouteResponse()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(self, server)


class Reducing(reducer_pb2_grpc.ReducerServiceServicer):
    """Echoes: a response per request; keeps the certificates that callers showed."""

    def __init__(self) -> None:
        self.served = 0
        self.shown: list[bytes] = []

    async def Reduce(self, request_iterator: Any, context: Any) -> Any:
        self.served += 1
        self.shown += context.auth_context().get("x509_pem_cert", ())
        async for _ in request_iterator:
            yield reducer_pb2.ReduceResponse()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        reducer_pb2_grpc.add_ReducerServiceServicer_to_server(self, server)


@asynccontextmanager
async def serving_as(
    membership: Membership | None,
    register: Callable[[grpc.aio.Server], None],
    *,
    name: str = "hma.v1.InternalService",
) -> AsyncIterator[str]:
    """host:port of a member's server, as `serve` makes it."""
    settings = ServerSettings(port=0, metrics_port=0)
    services = [Service(name, register)]
    server, health, port = bind(settings, services, CollectorRegistry(), membership=membership)
    await server.start()
    await health.say(True)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
