"""Short-lived tokens with which the services of one installation know each other.

A token says who calls (`subject`), whom it is for (`audience`) and until when, and is signed
with a key that all services share: JSON Web Tokens (RFC 7519) with HMAC-SHA-256. Whoever
has the key may speak as anybody, so it is for services only. To change it, add the new key
at the end of every service's file; when all have read it, move it to the front, so that it
signs; after the lifetime of a token take the old one away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from hma.errors import Unauthenticated

LIFETIME = 60.0
"""Seconds for which a token is good."""

LEEWAY = 5.0
"""Seconds by which the clocks of two services may differ."""

LEAST_KEY_BYTES = 32
_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says.

    Attributes:
        subject: Who calls.
        more: Other claims, such as the tenant that a request is for.
    """

    subject: str
    more: Mapping[str, Any]


class TokenKeys:
    """Signs with the first of its keys, and takes what any of them has signed."""

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
        for key in self._keys():
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[_ALGORITHM],
                    audience=audience,
                    # Times are compared below, by the clock of this object.
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
            if claims["exp"] + LEEWAY < self._clock():
                raise Unauthenticated("The internal token has expired.", reason="TOKEN_EXPIRED")
            return Claims(claims.pop("sub"), claims)
        raise Unauthenticated("The internal token is not genuine.", reason="TOKEN_INVALID")
