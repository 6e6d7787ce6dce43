"""The identity that the gateway hands on: a signed token in `x-hma-identity`.

The MetaAgent makes it when Envoy asks whether a request may pass, Envoy puts it on the
request, and the MetaAgent that serves the request believes nothing else. It stays between
the two; clients never see it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace

from hma.errors import Unauthenticated
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.roles import Role

HEADER = "x-hma-identity"
AUDIENCE = "meta-agent"

_ROLES: dict[int, Role] = {value: value for value in admin_pb2.CallerRole.values() if value}

LIFETIME = 660.0
"""Seconds for which an identity is good. Envoy asks when the headers are there, and sends
the request on when the whole of a body is: a slow upload must not outlive its identity."""

REUSED = 60.0
"""Seconds for which the same caller gets the same one: ten minutes of its life are left."""

REQUEST_ID = "x-request-id"
_MOST_ID_CHARS = 64
_MOST = 10_000


class Identities:
    """Signs who calls; the same caller gets the same token for `REUSED` seconds."""

    def __init__(
        self, keys: TokenKeys, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Signs nothing yet.

        Args:
            keys: What signs.
            most: Tokens that are kept.
            clock: Seconds.
        """
        self._keys = keys
        self._most = most
        self._clock = clock
        # Of the key that signed it, and until when it is handed out.
        self._signed: OrderedDict[Caller, tuple[str, bytes, float]] = OrderedDict()

    def of(self, caller: Caller) -> str:
        """The token that says who calls."""
        anybody = replace(caller, request_id="")
        key, now = self._keys.signing, self._clock()
        if anybody in self._signed:
            token, signed_by, until = self._signed[anybody]
            if signed_by == key and now < until:
                self._signed.move_to_end(anybody)
                return token
        token = sign_identity(self._keys, anybody)
        self._signed[anybody] = (token, key, now + REUSED)
        self._signed.move_to_end(anybody)
        while len(self._signed) > self._most:
            self._signed.popitem(last=False)
        return token


def sign_identity(keys: TokenKeys, caller: Caller) -> str:
    """A new token that says who calls, but not which request it is."""
    return keys.sign(
        caller.subject,
        AUDIENCE,
        tenant=caller.tenant,
        role=int(caller.role),
        address=caller.address,
    )


def identity_of(keys: TokenKeys, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
    """Who calls, from the metadata of an RPC.

    Raises:
        Unauthenticated: The metadata has no identity, several, or one that is not genuine.
    """
    tokens: list[str | bytes] = []
    request_id = ""
    for name, value in metadata:
        if name == HEADER:
            tokens.append(value)
        elif name == REQUEST_ID and isinstance(value, str):
            request_id = value[:_MOST_ID_CHARS]
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
        request_id=request_id,
    )
