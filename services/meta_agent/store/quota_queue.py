"""Jobs that wait for their tenant's quota: lets in whom it has room for, by their turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hma.errors import Unavailable
from services.meta_agent.job.priority import point_worth
from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_admission import Verdict, Wish, judge
from services.meta_agent.store.quota_buckets import bucketing
from services.meta_agent.store.quota_events import drawn_event
from services.meta_agent.store.quota_limits import Limits
from services.meta_agent.store.quota_line import first_in_line, with_kept
from services.meta_agent.store.quota_lock import QuotaRules, TenantLocks
from services.meta_agent.store.quota_use import most_held, read_use

LOT = 20
"""Jobs of a tenant that are let in while its lock is held."""

_TENANTS = "SELECT DISTINCT tenant FROM job WHERE quota_state = 1 AND NOT sealed"
# A job that was to draw nothing holds its whole budget. Whom the limits can never hold
# stands aside until they are raised, or its deadline comes.
_FIRST = """
SELECT j.id, j.budget_tokens, n.least, n.turn, j.quota_price, j.quota_drawn
FROM job j CROSS JOIN LATERAL (
    SELECT CASE WHEN j.quota_drawn IS NULL THEN j.budget_tokens
           ELSE least(greatest(j.quota_least, 1), j.budget_tokens) END AS least,
           j.create_time - j.priority * $5::interval AS turn
) AS n
WHERE j.tenant = $1 AND j.quota_state = 1 AND NOT j.sealed
  AND n.turn <= coalesce($2::timestamptz, 'infinity')
  AND n.least <= $3::float8
  AND n.least <= coalesce(floor($4::float8 / nullif(j.quota_price, 0)), 'Infinity')
ORDER BY n.turn, j.create_time LIMIT 1 FOR UPDATE OF j
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
            Unavailable: Nobody was, for the database cannot be reached or a tenant's row
                stayed locked.
        """
        rows = await self._database.fetch(_TENANTS)
        accepted, busy = 0, None
        for row in rows:
            try:
                accepted += await self._let_in(row["tenant"])
            except Unavailable as error:
                busy = error  # one tenant's crowd does not keep the others out
        if accepted:
            self._notifications.publish_claimable()
        elif busy is not None:
            raise busy
        return accepted

    async def _let_in(self, tenant: str) -> int:
        async with self._locks.hold(tenant) as (connection, limits):
            line = await let_line_in(connection, tenant, limits, self._locks.rules)
        for job_id, version in line.let_in:
            self._notifications.publish(job_id, version)
        return len(line.let_in)


@dataclass(frozen=True, slots=True)
class Line:
    """Those of a tenant who have waited.

    Attributes:
        let_in: Their ids, and the versions of their logs.
        next: What the one who is first now waits for; None: nobody waits.
    """

    let_in: Sequence[tuple[str, int]]
    next: Verdict | None


async def let_line_in(
    connection: Connection,
    tenant: str,
    limits: Limits,
    rules: QuotaRules,
    until: datetime | None = None,
) -> Line:
    """Accepts those who wait, in order, as long as there is room. The tenant's lock is held.

    Args:
        connection: In the transaction that holds the lock.
        tenant: Whose.
        limits: The tenant's.
        rules: What the operator says.
        until: Only jobs whose turn is not later; None: all.
    """
    let_in: list[tuple[str, int]] = []
    most, point = most_held(limits), point_worth(rules.ageing)
    while len(let_in) < LOT:
        row = await connection.fetchrow(_FIRST, tenant, until, *most, point)
        if row is None:
            return Line(let_in, None)
        first = await first_in_line(connection, tenant, limits)
        use = await read_use(connection, tenant, limits)
        use = with_kept(use, first, row["id"], row["turn"])
        wish = Wish(budget=row["budget_tokens"], least=row["least"], price=row["quota_price"])
        verdict = judge(limits, use, wish, rules.tranche)
        if verdict.full:
            return Line(let_in, verdict)
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
        let_in.append((row["id"], int(version)))
    return Line(let_in, None)
