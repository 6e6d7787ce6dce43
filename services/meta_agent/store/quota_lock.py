"""The lock under which a tenant's use grows: the row of the tenant.

Taken before any job's row. Within a replica those who want it stand in line without a
connection, so that one tenant's crowd does not take the pool from the others. Jobs of a
tenant without limits do not take it: they share a lock of the database's memory, which
whoever sets limits has alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from services.meta_agent.job.priority import AGEING
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.lines import Lines
from services.meta_agent.store.quota_limits import NO_LIMITS, Limits, from_json

MOST_REMEMBERED = 10_000
"""Tenants of which a replica remembers that they have limits."""

TRANCHE = 20_000
"""Tokens that a job draws at once, by default."""

# A tenant without limits of its own has a row once the default limits hold its jobs.
_ROW = "INSERT INTO tenant_quota (tenant) VALUES ($1) ON CONFLICT DO NOTHING"
_LOCK = "SELECT limits FROM tenant_quota WHERE tenant = $1 FOR UPDATE"
_READ = "SELECT limits FROM tenant_quota WHERE tenant = $1"

_LOCK_SPACE = 0x48_4D_41_08
_ALONE = "SELECT pg_advisory_xact_lock($1, hashtext($2))"


def sharing(tenant: str) -> str:
    """The part of a statement that keeps a tenant's limits from being set until it commits.

    Its snapshot may be from before limits that were set while it waited: so the limits
    are to be read by a later statement.

    Args:
        tenant: The parameter that has it, such as $2.
    """
    return f"pg_advisory_xact_lock_shared({_LOCK_SPACE}, hashtext({tenant}))"


_SHARED = f"SELECT {sharing('$1')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRules:
    """What the operator says about quotas.

    Attributes:
        default: Limits of tenants for which none were set.
        tranche: Tokens that a job draws at once when there is room, at least.
        ageing: Seconds that a step of priority is worth wherever a tenant's jobs wait.
    """

    default: Limits = field(default_factory=lambda: NO_LIMITS)
    tranche: int = TRANCHE
    ageing: float = AGEING


class TenantLocks:
    """Locks tenants, in the database and in this replica's line before it."""

    def __init__(self, database: Database, rules: QuotaRules) -> None:
        self._database = database
        self._rules = rules
        self._lines = Lines()
        self._limited: set[str] = set()

    @property
    def rules(self) -> QuotaRules:
        """What the operator says."""
        return self._rules

    def has_limits(self, tenant: str) -> bool:
        """Whether a tenant is known to have limits; it may have some that are not known."""
        return bool(self._rules.default) or tenant in self._limited

    def remember(self, tenant: str) -> None:
        """Notes that a tenant has limits, so that its next job is asked about at once."""
        if len(self._limited) >= MOST_REMEMBERED:
            self._limited.clear()
        self._limited.add(tenant)

    def forget(self, tenant: str) -> None:
        """Notes that a tenant has no limits any more."""
        self._limited.discard(tenant)

    async def limits(self, tenant: str) -> Limits:
        """A tenant's limits now, without a lock.

        Raises:
            Unavailable: The database cannot be reached.
        """
        row = await self._database.fetchrow(_READ, tenant)
        return from_json(row["limits"] if row is not None else None, self._rules.default)

    @contextlib.asynccontextmanager
    async def hold(self, tenant: str) -> AsyncIterator[tuple[Connection, Limits]]:
        """A transaction that holds a tenant's row, and the tenant's limits.

        Raises:
            Unavailable: The database cannot be reached, or the row stayed locked.
        """
        async with self.hold_late(tenant) as (connection, lock):
            yield connection, await lock()

    @contextlib.asynccontextmanager
    async def hold_to_change(self, tenant: str) -> AsyncIterator[tuple[Connection, Limits]]:
        """As `hold`, once all jobs that were being accepted without limits are committed.

        Those that come later find the limits that are set meanwhile.

        Raises:
            Unavailable: As `hold`.
        """
        async with self.hold(tenant) as (connection, limits):
            await connection.execute(_ALONE, _LOCK_SPACE, tenant)
            yield connection, limits

    async def share(self, connection: Connection, tenant: str) -> Limits:
        """A tenant's limits, which nobody sets until the open transaction has ended."""
        await connection.execute(_SHARED, tenant)
        row = await connection.fetchrow(_READ, tenant)
        return from_json(row["limits"] if row is not None else None, self._rules.default)

    @contextlib.asynccontextmanager
    async def hold_late(
        self, tenant: str
    ) -> AsyncIterator[tuple[Connection, Callable[[], Awaitable[Limits]]]]:
        """A transaction that takes the tenant's row when it is told to.

        Until then it must lock nothing that others may want.

        Raises:
            Unavailable: As `hold`.
        """
        async with (
            self._lines.wait(tenant),
            self._database.connection() as connection,
            connection.transaction(),
        ):
            yield connection, partial(self._lock, connection, tenant)

    async def _lock(self, connection: Connection, tenant: str) -> Limits:
        """Takes a tenant's row in an open transaction; its limits."""
        row = await connection.fetchrow(_LOCK, tenant)
        if row is None:
            await connection.execute(_ROW, tenant)
            row = await connection.fetchrow(_LOCK, tenant)
        return from_json(row["limits"] if row is not None else None, self._rules.default)
