"""Jobs that wait for their tenant's quota: lets in whom it has room for, first come first."""

from __future__ import annotations

from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_admission import Wish, judge
from services.meta_agent.store.quota_buckets import bucketing
from services.meta_agent.store.quota_events import drawn_event
from services.meta_agent.store.quota_limits import Limits
from services.meta_agent.store.quota_lock import TenantLocks
from services.meta_agent.store.quota_use import read_use

LOT = 20
"""Jobs of a tenant that are let in while its lock is held."""

_TENANTS = "SELECT DISTINCT tenant FROM job WHERE quota_state = 1 AND NOT sealed"
_FIRST = """
SELECT id, budget_tokens, quota_least, quota_price, quota_drawn FROM job
WHERE tenant = $1 AND quota_state = 1 AND NOT sealed
ORDER BY priority DESC, create_time LIMIT 1 FOR UPDATE
"""
_ACCEPT = f"""
WITH moved AS (
    UPDATE job SET quota_state = 0, version = version + 1, accept_time = clock_timestamp(),
                   quota_drawn = $2, state_reason = 'waits for a driver'
    WHERE id = $1 RETURNING id, tenant, version, accept_time
), bucketed AS {bucketing("SELECT tenant, 1, 0, 0.0, accept_time FROM moved")}
INSERT INTO job_event (job_id, sequence, event_id, type, payload)
SELECT id, version, $3, $4, $5 FROM moved RETURNING sequence
"""  # noqa: S608 - a fixed text


class QuotaQueue:
    """The jobs of all tenants that wait for room."""

    def __init__(
        self, database: Database, locks: TenantLocks, notifications: Notifications
    ) -> None:
        self._database = database
        self._locks = locks
        self._notifications = notifications

    async def let_in(self) -> int:
        """Accepts those for whom there is room now: of each tenant in turn, in order.

        Returns:
            How many.

        Raises:
            Unavailable: The database cannot be reached or a tenant's row stayed locked.
        """
        rows = await self._database.fetch(_TENANTS)
        accepted = 0
        for row in rows:
            accepted += await self._let_in(row["tenant"])
        if accepted:
            self._notifications.publish_claimable()
        return accepted

    async def _let_in(self, tenant: str) -> int:
        news: list[tuple[str, int]] = []
        async with self._locks.hold(tenant) as (connection, limits):
            while len(news) < LOT and (first := await self._first(connection, tenant, limits)):
                news.append(first)
        for job_id, version in news:
            self._notifications.publish(job_id, version)
        return len(news)

    async def _first(
        self, connection: Connection, tenant: str, limits: Limits
    ) -> tuple[str, int] | None:
        """Accepts the first in line; its id and its log's version. None: it must wait."""
        row = await connection.fetchrow(_FIRST, tenant)
        if row is None:
            return None
        use = await read_use(connection, tenant, limits)
        wish = Wish(budget=row["budget_tokens"], least=row["quota_least"], price=row["quota_price"])
        verdict = judge(limits, use, wish, self._locks.rules.tranche)
        if verdict.full:
            return None
        drawn = row["quota_drawn"]
        if drawn is not None:
            # Limits may have been lifted while it waited.
            drawn = verdict.drawn if verdict.drawn is not None else wish.budget
        event = to_row(
            drawn_event(
                row["id"], tokens=drawn or 0, total=drawn or 0, price=wish.price, now=use.now
            )
        )
        version = await connection.fetchval(
            _ACCEPT, row["id"], drawn, event.event_id, event.type, event.payload
        )
        return row["id"], int(version)
