"""The token that says which service calls: signed by the caller, checked by the called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hma.errors import Unauthenticated
from hma.rpc.tokens import LIFETIME, TokenKeys

HEADER = "x-hma-caller"

Keys = Callable[[], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class _Signed:
    token: str
    key: bytes
    renew_at: float


class CallerTokens:
    """Tokens of one service."""

    def __init__(
        self,
        role: str,
        keys: Keys,
        *,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Signs nothing yet.

        Args:
            role: Who this process is, such as "worker".
            keys: The keys that the services share now.
            lifetime: Seconds for which a token is good.
            clock: Seconds since the epoch.
        """
        self._role = role
        self._keys = keys
        self._tokens = TokenKeys(keys, lifetime=lifetime, clock=clock)
        self._clock = clock
        self._half_life = lifetime / 2
        self._signed: dict[str, _Signed] = {}

    def token_for(self, audience: str) -> str:
        """A token for another service; the same one for half its life."""
        key, now = self._keys()[0], self._clock()
        signed = self._signed.get(audience)
        if signed is None or signed.key != key or now >= signed.renew_at:
            token = self._tokens.sign(self._role, audience)
            signed = self._signed[audience] = _Signed(token, key, now + self._half_life)
        return signed.token

    def caller_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
        """The role of who calls this service; None when the metadata has no token.

        Raises:
            Unauthenticated: The token is not genuine, not for this service, or too old; or
                there are several.
        """
        shown = [value for name, value in metadata if name == HEADER]
        if not shown:
            return None
        if len(shown) > 1 or not isinstance(shown[0], str):
            raise Unauthenticated("The call has more than one token.", reason="TOKEN_INVALID")
        return self._tokens.verify(shown[0], self._role).subject
