"""A MetaAgent's edge that asks who calls, and callers of several tenants."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hma.ext_authz.v1 import ext_authz_pb2
from hma.rpc.internal_keys import gateway_credential
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2, admin_pb2_grpc
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.identity import HEADER, sign_identity
from services.meta_agent.access.roles import OPERATOR, USER, Role
from services.meta_agent.access.settings import AccessSettings
from tests.integration.edge.edge import Edge, running_edge
from tests.issuer import ISSUER

KEY = b"k" * 32
Metadata = tuple[tuple[str, str], ...]


def identity(tenant: str, role: Role = USER) -> Metadata:
    """The metadata of a caller whom the gateway has let pass."""
    caller = Caller(tenant=tenant, subject=f"jwt:{tenant}", role=role, address="192.0.2.1")
    return ((HEADER, sign_identity(TokenKeys([KEY]), caller)),)


@dataclass
class Heard:
    """Remembers refusals."""

    refusals: list[dict[str, str]] = field(default_factory=list)

    def denied(self, **what: str) -> None:
        self.refusals.append(what)


@dataclass
class Door:
    """The running edge and what it says to the gateway."""

    edge: Edge
    heard: Heard

    @property
    def admin(self) -> Any:
        """The AdminService."""
        return admin_pb2_grpc.AdminServiceStub(self.edge.channel)

    async def make_key(self, tenant: str = "acme", **how: Any) -> admin_pb2.CreateKeyResponse:
        """A new key."""
        request = admin_pb2.CreateKeyRequest(tenant=tenant, **how)
        made: admin_pb2.CreateKeyResponse = await self.admin.CreateKey(
            request, timeout=30, metadata=identity("default", OPERATOR)
        )
        return made

    async def check(
        self, *, caller: Metadata | None = None, token: Any = None, **headers: str
    ) -> ext_authz_pb2.CheckResponse:
        """Asks as the gateway does; `x_api_key` and the like name headers."""
        request = ext_authz_pb2.CheckRequest()
        request.attributes.source.address.socket_address.address = "192.0.2.9"
        http = request.attributes.request.http
        http.method, http.path = "GET", "/v1/jobs?secret=1"
        for name, value in headers.items():
            http.headers[name.replace("_", "-")] = value
        if token is not None:
            found = request.attributes.metadata_context.filter_metadata
            found["envoy.filters.http.jwt_authn"].update(token)
        if caller is None:
            caller = (("x-hma-caller", gateway_credential(KEY)),)
        call: Any = self.edge.channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=ext_authz_pb2.CheckRequest.SerializeToString,
            response_deserializer=ext_authz_pb2.CheckResponse.FromString,
        )
        response: ext_authz_pb2.CheckResponse = await call(request, timeout=30, metadata=caller)
        return response


@contextlib.asynccontextmanager
async def open_door(
    url: str, directory: Path, *, port: int = 0, issuer: str = ISSUER
) -> AsyncIterator[Door]:
    """An edge over `url` that asks who calls."""
    file = directory / "internal-key"
    file.write_bytes(KEY + b"\n")
    heard = Heard()
    access = AccessSettings(internal_key_file=str(file), jwt_issuer=issuer)
    async with running_edge(url, access=access, observer=heard, port=port) as edge:
        yield Door(edge, heard)
