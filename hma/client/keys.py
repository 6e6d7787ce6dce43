"""Keys: `client.keys.create(…)`, and the requests behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from hma.client.paging import Pages
from hma.client.requests import DurationLike, duration, seconds
from hma.errors import InvalidRequest
from hma.v1 import admin_pb2, admin_pb2_grpc

T = TypeVar("T", bound=Message)

RoleName = Literal["reader", "user", "admin", "operator"]
"""What a key's bearer may do; each may do what those before it may."""

_PAGE = 100


def create_key(
    tenant: str, role: RoleName, note: str, lifetime: DurationLike | None
) -> admin_pb2.CreateKeyRequest:
    """The request for a key.

    Raises:
        InvalidRequest: The role or the lifetime is none.
    """
    name = f"CALLER_ROLE_{role.upper()}"
    if name not in admin_pb2.CallerRole.keys():  # noqa: SIM118 - an enum wrapper, no mapping
        raise InvalidRequest.field("role", f"expected reader, user, admin, operator; got {role!r}")
    request = admin_pb2.CreateKeyRequest(
        tenant=tenant, role=admin_pb2.CallerRole.Value(name), note=note
    )
    if lifetime is not None:
        request.lifetime.CopyFrom(duration(seconds(lifetime, "lifetime")))
    return request


def rotate_key(key_id: str, grace: DurationLike | None) -> admin_pb2.RotateKeyRequest:
    """The request for a new secret.

    Raises:
        InvalidRequest: The grace is no duration.
    """
    request = admin_pb2.RotateKeyRequest(key_id=key_id)
    if grace is not None:
        request.grace.CopyFrom(duration(seconds(grace, "grace")))
    return request


class Call(Protocol):
    """Makes a call, and again while the server is away unless it is to be made once."""

    def __call__(self, method: Callable[..., T], request: Message, *, once: bool = False) -> T:
        """The answer."""
        ...


class Keys:
    """The keys of a tenant; needs the role ADMIN, for other tenants OPERATOR."""

    def __init__(self, channel: grpc.Channel, call: Call) -> None:
        self._stub = admin_pb2_grpc.AdminServiceStub(channel)
        self._call = call

    def create(
        self,
        *,
        tenant: str = "",
        role: RoleName = "user",
        note: str = "",
        lifetime: DurationLike | None = None,
    ) -> admin_pb2.CreateKeyResponse:
        """Makes a key. Its secret is in the answer and nowhere else.

        It is not tried again by itself: a key whose answer was lost is one to be revoked.

        Args:
            tenant: Whose it will be; empty: the caller's.
            role: What its bearer may do, at most what the caller may.
            note: What it is for; at most 200 characters.
            lifetime: How long it works; None: until it is revoked.

        Raises:
            PermissionDenied: The caller may not make it.
        """
        return self._call(self._stub.CreateKey, create_key(tenant, role, note, lifetime), once=True)

    def list(self, tenant: str = "") -> Iterator[admin_pb2.ApiKey]:
        """Keys, the newest first, revoked ones included; pages come as needed.

        Args:
            tenant: Whose; empty: the caller's; "*": everybody's.
        """
        pages = Pages(admin_pb2.ListKeysRequest(tenant=tenant), _PAGE)
        while pages.more:
            page = self._call(self._stub.ListKeys, pages.request)
            yield from pages.turn(page.keys, page.next_page_token)

    def rotate(self, key_id: str, grace: DurationLike | None = None) -> admin_pb2.RotateKeyResponse:
        """Gives a key a new secret. It is not tried again by itself.

        Args:
            key_id: The key.
            grace: How long the secret that it has now works on; None: it ends at once.

        Raises:
            NotFound: There is no such key.
        """
        return self._call(self._stub.RotateKey, rotate_key(key_id, grace), once=True)

    def revoke(self, key_id: str) -> admin_pb2.ApiKey:
        """Ends a key; it is refused everywhere within seconds.

        Raises:
            NotFound: There is no such key.
        """
        return self._call(self._stub.RevokeKey, admin_pb2.RevokeKeyRequest(key_id=key_id))


class AsyncKeys:
    """As `Keys`, with `await`."""

    def __init__(self, channel: grpc.aio.Channel, call: Callable[..., Any]) -> None:
        self._stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        self._call = call

    async def create(
        self,
        *,
        tenant: str = "",
        role: RoleName = "user",
        note: str = "",
        lifetime: DurationLike | None = None,
    ) -> admin_pb2.CreateKeyResponse:
        """Makes a key; see `Keys.create`."""
        request = create_key(tenant, role, note, lifetime)
        made: admin_pb2.CreateKeyResponse
        made = await self._call(self._stub.CreateKey, request, once=True)
        return made

    async def list(self, tenant: str = "") -> AsyncIterator[admin_pb2.ApiKey]:
        """Keys, the newest first; see `Keys.list`."""
        pages = Pages(admin_pb2.ListKeysRequest(tenant=tenant), _PAGE)
        while pages.more:
            page: admin_pb2.ListKeysResponse
            page = await self._call(self._stub.ListKeys, pages.request)
            for key in pages.turn(page.keys, page.next_page_token):
                yield key

    async def rotate(
        self, key_id: str, grace: DurationLike | None = None
    ) -> admin_pb2.RotateKeyResponse:
        """Gives a key a new secret; see `Keys.rotate`."""
        request = rotate_key(key_id, grace)
        rotated: admin_pb2.RotateKeyResponse
        rotated = await self._call(self._stub.RotateKey, request, once=True)
        return rotated

    async def revoke(self, key_id: str) -> admin_pb2.ApiKey:
        """Ends a key; see `Keys.revoke`."""
        request = admin_pb2.RevokeKeyRequest(key_id=key_id)
        revoked: admin_pb2.ApiKey = await self._call(self._stub.RevokeKey, request)
        return revoked
