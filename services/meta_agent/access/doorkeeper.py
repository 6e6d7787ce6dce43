"""Says who makes a request, by key or by token."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from hma.errors import Unavailable
from services.meta_agent.access import refusing
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.claims import ClaimNames, caller_of
from services.meta_agent.access.credentials import ShownToken, credentials_of
from services.meta_agent.access.key_text import ShownKey
from services.meta_agent.access.last_use import LastUse
from services.meta_agent.store.keys import KeyRow

# Compared with when there is no such key: an answer must not come sooner for that.
_NO_HASH = bytes(32)
_KEY = "key"


class FindsKeys(Protocol):
    """Where keys are found."""

    async def find(self, key_id: str) -> KeyRow | None:
        """The key with a name; None when there is none."""
        ...


class TellsTime(Protocol):
    """Database time."""

    def now(self) -> float:
        """Unix seconds."""
        ...


class Doorkeeper:
    """Identifies callers."""

    def __init__(
        self, keys: FindsKeys, uses: LastUse, clock: TellsTime, names: ClaimNames | None
    ) -> None:
        """Asks nobody yet.

        Args:
            keys: Where keys are found.
            uses: Told of every key that was good.
            clock: Database time: keys expire by it.
            names: Which claims of a token say what; None: no tokens are taken.
        """
        self._keys = keys
        self._uses = uses
        self._clock = clock
        self._names = names

    async def identify(
        self,
        headers: Mapping[str, str],
        token: Mapping[str, Any],
        *,
        address: str,
        request_id: str,
    ) -> Caller:
        """Who makes a request.

        Args:
            headers: By lower-case name; repeated ones joined with ",".
            token: What the gateway's jwt_authn has said of it.
            address: Where it comes from.
            request_id: The gateway's id of it.

        Raises:
            Refusal: Nobody who may.
            Unavailable: The database cannot be reached.
        """
        shown = credentials_of(headers)
        if isinstance(shown, ShownToken):
            if self._names is None:
                # Who has the gateway's credential could say that anything was verified.
                raise refusing.token_invalid()
            caller = caller_of(token, self._names)
        else:
            caller = await self._bearer(shown)
        return replace(caller, address=address, request_id=request_id)

    async def recheck(self, caller: Caller) -> None:
        """Refuses a caller who is still served, but whose key has ended meanwhile.

        Raises:
            Refusal: The key was revoked, or has expired. A new secret ends no call.
        """
        kind, _, key_id = caller.subject.partition(":")
        if kind != _KEY:
            return
        try:
            row = await self._keys.find(key_id)
        except Unavailable:
            return  # nobody knows; what is served needs the database itself
        if row is None or row.revoke_time is not None:
            raise refusing.key_revoked(caller.subject, caller.tenant)
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        if row.expire_time is not None and row.expire_time <= now:
            raise refusing.key_expired(caller.subject, caller.tenant)

    async def _bearer(self, shown: ShownKey) -> Caller:
        found = await self._keys.find(shown.key_id)
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        row = check_key(found, shown, now)
        self._uses.note(row.key_id, now)
        return Caller(tenant=row.tenant, subject=f"{_KEY}:{row.key_id}", role=row.role)


def check_key(row: KeyRow | None, shown: ShownKey, now: datetime) -> KeyRow:
    """The key, for who shows a secret of it that works.

    Args:
        row: The key with the name that is shown; None when there is none.
        shown: What is shown.
        now: Database time.

    Raises:
        Refusal: It does not.
    """
    current = hmac.compare_digest(shown.secret_hash, row.secret_hash if row else _NO_HASH)
    old_hash = row.old_secret_hash if row else None
    old = hmac.compare_digest(shown.secret_hash, old_hash or _NO_HASH)
    if row is None or not (current or (old and old_hash)):
        raise refusing.key_unknown()
    subject = f"{_KEY}:{row.key_id}"
    if row.revoke_time is not None:
        raise refusing.key_revoked(subject, row.tenant)
    if row.expire_time is not None and row.expire_time <= now:
        raise refusing.key_expired(subject, row.tenant)
    until = row.old_secret_expire_time
    if not current and (until is None or until <= now):
        raise refusing.secret_ended(subject, row.tenant)
    return row
