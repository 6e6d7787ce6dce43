"""The identity that the gateway hands on: a signed token in `x-hma-identity`.

The MetaAgent makes it when Envoy asks whether a request may pass, Envoy puts it on the
request, and the MetaAgent that serves the request believes nothing else. It stays between
the two; clients never see it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hma.errors import Unauthenticated
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.roles import Role

HEADER = "x-hma-identity"
AUDIENCE = "meta-agent"

_ROLES: dict[int, Role] = {value: value for value in admin_pb2.CallerRole.values() if value}

LIFETIME = 600.0
"""Seconds for which an identity is good. Envoy asks when the headers are there, and sends
the request on when the whole of a body is: a slow upload must not outlive its identity."""


def sign_identity(keys: TokenKeys, caller: Caller) -> str:
    """The token that says who calls."""
    return keys.sign(
        caller.subject,
        AUDIENCE,
        tenant=caller.tenant,
        role=int(caller.role),
        address=caller.address,
        request_id=caller.request_id,
    )


def identity_of(keys: TokenKeys, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
    """Who calls, from the metadata of an RPC.

    Raises:
        Unauthenticated: The metadata has no identity, several, or one that is not genuine.
    """
    tokens = [value for name, value in metadata if name == HEADER]
    if not tokens:
        raise Unauthenticated(
            "The MetaAgent takes calls from the gateway only.", reason="NO_IDENTITY"
        )
    if len(tokens) > 1 or not isinstance(tokens[0], str):
        raise Unauthenticated("The call has more than one identity.", reason="TOKEN_INVALID")
    claims = keys.verify(tokens[0], AUDIENCE)
    tenant, role = claims.more.get("tenant"), claims.more.get("role")
    # A token with which a service proves its own name says nothing about a tenant.
    if not isinstance(tenant, str) or not isinstance(role, int) or role not in _ROLES:
        raise Unauthenticated("The token is not an identity.", reason="TOKEN_INVALID")
    return Caller(
        tenant=tenant,
        subject=claims.subject,
        role=_ROLES[role],
        address=str(claims.more.get("address", "")),
        request_id=str(claims.more.get("request_id", "")),
    )
