"""Quotas of tenants: what is set, what is used, what jobs draw."""

from __future__ import annotations

import math

from hma.errors import PreconditionFailed
from hma.v1 import admin_pb2
from services.meta_agent.store import audit
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.log import Guard
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_buckets import tidy_buckets
from services.meta_agent.store.quota_draws import Draws
from services.meta_agent.store.quota_limits import (
    NAMES,
    WINDOWS,
    Limits,
    changed,
    draws_tokens,
    to_json,
    to_message,
)
from services.meta_agent.store.quota_lock import TenantLocks
from services.meta_agent.store.quota_queue import QuotaQueue
from services.meta_agent.store.quota_use import Use, read_use, when_free

_SET = "UPDATE tenant_quota SET limits = $2::jsonb WHERE tenant = $1"


class Quotas:
    """The quotas of all tenants.

    Attributes:
        draws: For drivers.
        queue: Jobs that wait for room.
    """

    def __init__(
        self, database: Database, locks: TenantLocks, notifications: Notifications
    ) -> None:
        self._database = database
        self._locks = locks
        self.draws = Draws(database, locks, notifications)
        self.queue = QuotaQueue(database, locks, notifications)

    async def set(self, request: admin_pb2.SetQuotaRequest) -> admin_pb2.QuotaLimits:
        """Changes a tenant's limits; what they are now.

        Raises:
            InvalidRequest: It names what there is not.
            Unavailable: The database cannot be reached; calling again is safe.
        """
        async with self._locks.hold_to_change(request.tenant) as (connection, now):
            limits = changed(now, request)
            await connection.execute(_SET, request.tenant, to_json(limits))
            await audit.write(connection, request.tenant)
        audit.written()
        return to_message(limits)

    async def get(self, tenant: str) -> admin_pb2.Quota:
        """A tenant's limits and what is used of them, at one moment.

        Raises:
            Unavailable: The database cannot be reached.
        """
        limits = await self._locks.limits(tenant)
        async with self._database.connection() as connection:
            use = await read_use(connection, tenant, limits)
            quota = admin_pb2.Quota(tenant=tenant, limits=to_message(limits))
            quota.time.FromMicroseconds(round(use.now * 1e6))
            for name in NAMES:
                if name in limits:
                    quota.uses.append(await _use_of(connection, tenant, limits, use, name))
        return quota

    def undrawn(self, tenant: str) -> Guard:
        """Lets a job that draws nothing be topped up only while its tenant's tokens have no limits.

        It does not draw: what it had when the limits came is all that they let it have.
        They are not set before the top-up counts.

        Raises:
            PreconditionFailed: OUTSIDE_QUOTA: they are limited.
        """

        async def guard(connection: Connection) -> None:
            if draws_tokens(await self._locks.share(connection, tenant)):
                raise PreconditionFailed(
                    "The job was accepted before its tenant's tokens or money were limited: it "
                    "goes on with the budget that it has. Submit another job for more.",
                    reason="OUTSIDE_QUOTA",
                )

        return guard

    async def tidy(self) -> None:
        """Sums up and deletes old buckets; changes no use.

        Raises:
            Unavailable: The database cannot be reached.
        """
        await tidy_buckets(self._database)


async def _use_of(
    connection: Connection, tenant: str, limits: Limits, use: Use, name: str
) -> admin_pb2.QuotaUse:
    found = admin_pb2.QuotaUse(
        name=name, limit=limits[name], used=use.used(name), held=use.held(name)
    )
    window = WINDOWS.get(name)
    if window is None:
        return found
    free = await when_free(connection, tenant, window, math.ulp(0.0))
    if free is not None:
        found.next_free_time.FromMicroseconds(round(free * 1e6))
    return found
