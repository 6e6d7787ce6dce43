"""API keys as rows: create, read, list, rotate, revoke. Nothing here knows a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import asyncpg

from hma.errors import NotFound, PermissionDenied, PreconditionFailed, Unavailable
from hma.v1 import admin_pb2
from services.meta_agent.store import audit
from services.meta_agent.store.database import Database
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.page_token import read_token, write_token

Role: TypeAlias = "admin_pb2.CallerRole.ValueType"

_COLUMNS = """
key_id, tenant, role, note, secret_hash, old_secret_hash, old_secret_expire_time, create_time,
rotate_time, expire_time, revoke_time, last_use_time
"""
_SELECT = f"SELECT {_COLUMNS} FROM api_key "  # noqa: S608 - the columns above
_RETURNING = f" RETURNING {_COLUMNS}"
_CREATE = (
    """
INSERT INTO api_key (key_id, tenant, role, note, secret_hash, expire_time)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + $6::interval)
"""
    + _RETURNING
)
_READ = _SELECT + "WHERE key_id = ANY($1::text[])"
_LOCK = _SELECT + "WHERE key_id = $1 AND ($2::text IS NULL OR tenant = $2) FOR UPDATE"
_PAGE = (
    _SELECT
    + """
WHERE ($1::text IS NULL OR tenant = $1)
  AND ($2::timestamptz IS NULL OR (create_time, key_id) < ($2, $3::text))
ORDER BY create_time DESC, key_id DESC LIMIT $4
"""
)
# A secret from before an earlier rotation ends now: there is at most one old one.
_ROTATE = (
    """
UPDATE api_key SET
    old_secret_hash = CASE WHEN $3::interval > interval '0' THEN secret_hash END,
    old_secret_expire_time =
        CASE WHEN $3::interval > interval '0' THEN clock_timestamp() + $3::interval END,
    secret_hash = $2, rotate_time = clock_timestamp()
WHERE key_id = $1
"""
    + _RETURNING
)
# The hashes stay: who has a secret is told that the key was revoked.
_REVOKE = (
    """
UPDATE api_key SET revoke_time = clock_timestamp()
WHERE key_id = $1 AND revoke_time IS NULL
"""
    + _RETURNING
)
# Replicas do not wait for each other over a time that is only about right.
_USED = """
UPDATE api_key SET last_use_time = used.time
FROM (SELECT key_id, used.time FROM api_key
      JOIN unnest($1::text[], $2::timestamptz[]) AS used(id, time) ON key_id = used.id
      WHERE last_use_time IS NULL OR last_use_time < used.time - $3::interval
      ORDER BY key_id FOR UPDATE OF api_key SKIP LOCKED) AS used
WHERE api_key.key_id = used.key_id
"""
_USE_WRITTEN_AGAIN = timedelta(seconds=50)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key. The hashes are SHA-256 of its secrets; times are the database's."""

    key_id: str
    tenant: str
    role: Role
    note: str
    secret_hash: bytes = field(repr=False)
    old_secret_hash: bytes | None = field(repr=False)
    old_secret_expire_time: datetime | None
    create_time: datetime
    rotate_time: datetime | None
    expire_time: datetime | None
    revoke_time: datetime | None
    last_use_time: datetime | None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A page of keys, the newest first.

    Attributes:
        keys: The rows.
        next_token: For the page after; empty on the last.
    """

    keys: list[KeyRow]
    next_token: str


class Keys:
    """The rows of all API keys. Every change is told to all replicas after its commit."""

    def __init__(self, database: Database, notifications: Notifications) -> None:
        self._database = database
        self._notifications = notifications

    async def create(
        self,
        key_id: str,
        *,
        tenant: str,
        role: Role,
        note: str,
        secret_hash: bytes,
        lifetime: timedelta | None,
    ) -> KeyRow:
        """Keeps a new key.

        Args:
            key_id: Its public name.
            tenant: Whose it is.
            role: What its bearer may do.
            note: What it is for.
            secret_hash: SHA-256 of its secret.
            lifetime: How long it works; None: until it is revoked.

        Raises:
            Unavailable: The database cannot be reached.
        """
        async with self._database.connection() as connection, connection.transaction():
            record = await connection.fetchrow(
                _CREATE, key_id, tenant, role, note, secret_hash, lifetime
            )
            await audit.write(connection, key_id)
        audit.written()
        # Somebody may have tried the id before: "there is no such key" is remembered too.
        self._notifications.publish_key(key_id)
        return _written(record)

    async def read(self, key_ids: Sequence[str]) -> dict[str, KeyRow]:
        """The keys with these names, as far as there are any; one statement.

        Raises:
            Unavailable: The database cannot be reached.
        """
        records = await self._database.fetch(_READ, list(key_ids))
        return {record["key_id"]: _row(record) for record in records}

    async def page(self, tenant: str | None, *, size: int, token: str = "") -> KeyPage:
        """Lists keys, the newest first, revoked ones included.

        Args:
            tenant: Whose; None for all.
            size: At most this many.
            token: `next_token` of the page before, made for the same tenant.

        Raises:
            InvalidRequest: The token is not one of this list.
            Unavailable: The database cannot be reached.
        """
        filters = ("keys", tenant or "*")
        before, last_id = read_token(token, filters) if token else (None, "")
        records = await self._database.fetch(_PAGE, tenant, before, last_id, size + 1)
        keys = [_row(record) for record in records[:size]]
        more = len(records) > size
        return KeyPage(
            keys, write_token(keys[-1].create_time, keys[-1].key_id, filters) if more else ""
        )

    async def rotate(
        self,
        key_id: str,
        *,
        tenant: str | None,
        most_role: Role,
        secret_hash: bytes,
        grace: timedelta,
        now: datetime,
    ) -> KeyRow:
        """Gives a key a new secret.

        Args:
            key_id: The key.
            tenant: Whose it must be; None: anybody's.
            most_role: The highest role that the key may have.
            secret_hash: SHA-256 of the new secret.
            grace: How long the secret that it has now works on.
            now: Database time.

        Raises:
            NotFound: There is no such key, or it is another tenant's.
            PermissionDenied: Its role is higher.
            PreconditionFailed: It was revoked or has expired.
            Unavailable: The database cannot be reached.
        """
        async with self._database.connection() as connection, connection.transaction():
            row = await _locked(connection, key_id, tenant, most_role)
            if row.revoke_time is not None:
                raise PreconditionFailed(f"Key {key_id} was revoked.", reason="KEY_REVOKED")
            if row.expire_time is not None and row.expire_time <= now:
                raise PreconditionFailed(f"Key {key_id} has expired.", reason="KEY_EXPIRED")
            record = await connection.fetchrow(_ROTATE, key_id, secret_hash, grace)
            await audit.write(connection, key_id)
        audit.written()
        self._notifications.publish_key(key_id)
        return _written(record)

    async def revoke(self, key_id: str, *, tenant: str | None, most_role: Role) -> KeyRow:
        """Ends a key; one that has been revoked stays as it is.

        Args:
            key_id: The key.
            tenant: Whose it must be; None: anybody's.
            most_role: The highest role that the key may have.

        Raises:
            NotFound: There is no such key, or it is another tenant's.
            PermissionDenied: Its role is higher.
            Unavailable: The database cannot be reached.
        """
        async with self._database.connection() as connection, connection.transaction():
            row = await _locked(connection, key_id, tenant, most_role)
            record = await connection.fetchrow(_REVOKE, key_id)
            await audit.write(connection, key_id)
        audit.written()
        self._notifications.publish_key(key_id)
        return row if record is None else _row(record)

    async def used(self, times: Mapping[str, datetime]) -> None:
        """Notes when keys were last used; skips those noted less than a minute ago.

        Raises:
            Unavailable: The database cannot be reached.
        """
        await self._database.execute(_USED, list(times), list(times.values()), _USE_WRITTEN_AGAIN)


async def _locked(
    connection: asyncpg.pool.PoolConnectionProxy, key_id: str, tenant: str | None, most_role: Role
) -> KeyRow:
    record = await connection.fetchrow(_LOCK, key_id, tenant)
    if record is None:
        raise NotFound(f"There is no key {key_id}.")
    row = _row(record)
    if row.role > most_role:
        # Who could give it a new secret would have its role.
        raise PermissionDenied(f"Key {key_id} has a higher role than the caller.")
    return row


def _written(record: asyncpg.Record | None) -> KeyRow:
    if record is None:
        raise Unavailable("The key was not written; try again.", reason="DATABASE_AWAY")
    return _row(record)


def _row(record: asyncpg.Record) -> KeyRow:
    return KeyRow(**dict(record))
