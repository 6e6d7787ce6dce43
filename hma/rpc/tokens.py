"""Short-lived tokens with which the services of one installation know each other.

A token says who calls (`subject`), whom it is for (`audience`) and until when, and is signed
with a key that all services share: JSON Web Tokens (RFC 7519) with HMAC-SHA-256. Whoever
has the key may speak as anybody, so it is for services only. To change it, add the new key
at the end of every service's file; when all have read it, move it to the front, so that it
signs; after the lifetime of a token take the old one away.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jwt

from hma.errors import Unauthenticated

LIFETIME = 60.0
"""Seconds for which a token is good."""

LEEWAY = 5.0
"""Seconds by which the clocks of two services may differ."""

LEAST_KEY_BYTES = 32
_ALGORITHM = "HS256"
_MOST_GENUINE = 10_000


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says.

    Attributes:
        subject: Who calls.
        more: Other claims, such as the tenant that a request is for.
    """

    subject: str
    more: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Genuine:
    claims: Claims
    audience: str
    until: float


class TokenKeys:
    """Signs with the first of its keys, and takes what any of them has signed.

    A token is shown many times. That it is genuine is remembered as long as the keys stay,
    for 10,000 tokens at most; whom it is for and until when is asked each time.
    """

    def __init__(
        self,
        keys: Sequence[bytes] | Callable[[], Sequence[bytes]],
        *,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Checks the keys.

        Args:
            keys: At least one; each of 32 bytes or more. Or what says which they are now,
                for keys that are changed while they are used.
            lifetime: Seconds for which a token is good.
            clock: Seconds since the epoch.

        Raises:
            ValueError: There is none, or one is too short to be safe.
        """
        known = keys() if callable(keys) else tuple(keys)
        if not known:
            raise ValueError("there is no key")
        if any(len(key) < LEAST_KEY_BYTES for key in known):
            raise ValueError(f"a key is shorter than {LEAST_KEY_BYTES} bytes")
        self._keys = keys if callable(keys) else lambda: known
        self._lifetime = lifetime
        self._clock = clock
        self._genuine: OrderedDict[str, _Genuine] = OrderedDict()
        self._genuine_by: Sequence[bytes] = known

    @property
    def signing(self) -> bytes:
        """The key that signs now."""
        return self._keys()[0]

    def sign(self, subject: str, audience: str, **more: Any) -> str:
        """A token for one service.

        Args:
            subject: Who calls.
            audience: Whom it is for.
            more: Other claims.
        """
        now = self._clock()
        claims = {"sub": subject, "aud": audience, "iat": now, "exp": now + self._lifetime}
        return jwt.encode({**more, **claims}, self._keys()[0], _ALGORITHM)

    def verify(self, token: str, audience: str) -> Claims:
        """What a token says, if it is genuine, for `audience`, and good now.

        Raises:
            Unauthenticated: It is none of these.
        """
        keys = self._keys()
        if keys is not self._genuine_by and keys != self._genuine_by:
            self._genuine.clear()
            self._genuine_by = keys
        found = self._genuine.get(token)
        if found is None or found.audience != audience:
            found = _read(token, audience, keys)
            self._genuine[token] = found
            while len(self._genuine) > _MOST_GENUINE:
                self._genuine.popitem(last=False)
        if found.until + LEEWAY < self._clock():
            raise Unauthenticated("The internal token has expired.", reason="TOKEN_EXPIRED")
        return found.claims


def _read(token: str, audience: str, keys: Sequence[bytes]) -> _Genuine:
    for key in keys:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=audience,
                # Times are compared by the clock of who asks.
                options={
                    "require": ["sub", "aud", "exp"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError:
            break
        subject = claims.pop("sub")
        return _Genuine(Claims(subject, MappingProxyType(claims)), audience, claims["exp"])
    raise Unauthenticated("The internal token is not genuine.", reason="TOKEN_INVALID")
