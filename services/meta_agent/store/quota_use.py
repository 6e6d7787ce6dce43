"""What a tenant uses, and how much room its limits leave. Reading is one statement.

    use of a window = settled in it + what open jobs hold
    held by a job   = drawn - settled; of one that draws nothing: budget - settled

One statement sees one state of the database, in which each token is settled or held, not
both and not neither. It only falls between two draws, so what had room under the
tenant's lock has room until the next one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.meta_agent.store.database import Connection
from services.meta_agent.store.quota_limits import PERIODS, WINDOWS, Limits, Window

_SINCE = """CASE WHEN p.span > 0 THEN m.now - (p.span + p.width) * interval '1 second'
    ELSE date_trunc('month', m.now, 'UTC') - interval '1 microsecond' END"""

_USE = f"""
WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS now), period AS (
    SELECT p.name, s.requests, s.tokens, s.cost
    FROM moment m
    CROSS JOIN unnest($2::text[], $3::int[], $4::int[]) AS p (name, width, span)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(requests), 0)::bigint AS requests,
               coalesce(sum(tokens), 0)::bigint AS tokens, coalesce(sum(cost), 0) AS cost
        FROM quota_bucket b WHERE b.tenant = $1 AND b.width = p.width AND b.start > {_SINCE}
    ) AS s
), held AS (
    SELECT count(*) AS jobs, coalesce(sum(quota_tasks), 0)::bigint AS tasks,
           coalesce(sum(tokens), 0)::bigint AS tokens, coalesce(sum(tokens * price), 0) AS cost
    FROM (
        SELECT quota_tasks, quota_price AS price,
               greatest(coalesce(quota_drawn, budget_tokens) - settled_tokens, 0) AS tokens
        FROM job WHERE tenant = $1 AND NOT sealed AND quota_state = 0
    ) AS open
)
SELECT extract(epoch FROM m.now)::float8 AS now, h.jobs, h.tasks, h.tokens AS held_tokens,
       h.cost AS held_cost, p.name, p.requests, p.tokens, p.cost
FROM moment m CROSS JOIN held h LEFT JOIN period p ON true
"""  # noqa: S608 - a fixed text


def _when(what: str) -> str:
    """The bucket with which so much has left a window, and when the next month begins."""
    return f"""
WITH m AS MATERIALIZED (SELECT clock_timestamp() AS now), bucket AS (
    SELECT b.start, sum(b.{what}) AS used
    FROM m CROSS JOIN (SELECT $2::int AS width, $3::int AS span) AS p
    JOIN quota_bucket b ON b.tenant = $1 AND b.width = p.width AND b.start > {_SINCE}
    GROUP BY b.start
), freed AS (
    SELECT start, used, sum(used) OVER (ORDER BY start) AS freed FROM bucket
)
SELECT extract(epoch FROM f.start)::float8 AS start,
       extract(epoch FROM date_trunc('month', m.now, 'UTC') + interval '1 month')::float8 AS next
FROM freed f, m WHERE f.used > 0 AND f.freed >= $4::float8 ORDER BY f.start LIMIT 1
"""  # noqa: S608 - a column's name


_WHEN = {what: _when(what) for what in ("requests", "tokens", "cost")}

_ROUNDING = 1e-9
"""Money is a floating-point number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a tenant uses at one moment.

    Attributes:
        now: Database time, in seconds since the epoch.
        settled: By period, then by what: requests, tokens, cost.
        jobs: Accepted jobs that have not ended.
        tasks: Places at Workers that they hold.
        held_tokens: Tokens that they hold and have not spent.
        held_cost: Most money that these can cost.
    """

    now: float
    settled: Mapping[str, Mapping[str, float]]
    jobs: int
    tasks: int
    held_tokens: int
    held_cost: float

    def used(self, name: str) -> float:
        """What counts against a limit."""
        window = WINDOWS.get(name)
        if window is None:
            return {"concurrent_jobs": self.jobs, "concurrent_tasks": self.tasks}[name]
        return self.settled[window.period.name][window.what] + self.held(name)

    def held(self, name: str) -> float:
        """The part of it that jobs hold and have not spent."""
        window = WINDOWS.get(name)
        if window is None:
            return self.used(name)
        return {"requests": 0.0, "tokens": float(self.held_tokens), "cost": self.held_cost}[
            window.what
        ]


@dataclass(frozen=True, slots=True)
class Room:
    """Room for tokens.

    Attributes:
        tokens: How many; infinite without a limit.
        limit: The limit that leaves the least; empty without one.
        most: How many a job can hold at once if nobody else uses any.
    """

    tokens: float = math.inf
    limit: str = ""
    most: float = math.inf


def token_room(limits: Limits, use: Use, price: float, patience: float = math.inf) -> Room:
    """How many tokens may be drawn.

    Args:
        limits: Of the tenant.
        use: What it uses.
        price: Most money that one of the tokens can cost.
        patience: Seconds for which the job can wait: what is settled in a longer window
            does not leave it in time.
    """
    room = Room()
    for name, window in WINDOWS.items():
        if name not in limits or window.what == "requests":
            continue
        whole, left = limits[name], limits[name] - use.used(name)
        if (window.period.span or math.inf) > patience:
            whole = max(whole - use.settled[window.period.name][window.what], 0.0)
        if window.what == "cost":
            if price <= 0:
                continue
            whole, left = whole / price, (left - _ROUNDING) / price
        most = min(room.most, math.floor(whole))
        if left < room.tokens:
            room = Room(max(math.floor(left), 0), name, most)
        else:
            room = Room(room.tokens, room.limit, most)
    return room


def most_held(limits: Limits) -> tuple[float, float]:
    """Tokens and money that one job can hold if nobody else uses any; maybe infinite."""
    most = {"tokens": math.inf, "cost": math.inf}
    for name, window in WINDOWS.items():
        if name in limits and window.what in most:
            most[window.what] = min(most[window.what], limits[name])
    return most["tokens"], most["cost"]


def full_window(limits: Limits, use: Use) -> str:
    """The limit of requests or jobs that has no room for one more; empty when none."""
    counted = [name for name, window in WINDOWS.items() if window.what == "requests"]
    for name in (*counted, "concurrent_jobs"):
        if name in limits and use.used(name) + 1 > limits[name]:
            return name
    return ""


async def read_use(connection: Connection, tenant: str, limits: Limits) -> Use:
    """What a tenant uses, as far as `limits` are about it."""
    periods = [
        period
        for period in PERIODS
        if any(name in limits and WINDOWS[name].period == period for name in WINDOWS)
    ]
    rows = await connection.fetch(
        _USE,
        tenant,
        [period.name for period in periods],
        [period.width for period in periods],
        [period.span for period in periods],
    )
    settled = {p.name: {"requests": 0.0, "tokens": 0.0, "cost": 0.0} for p in PERIODS}
    for row in rows:
        if row["name"] is not None:
            settled[row["name"]] = {what: row[what] for what in ("requests", "tokens", "cost")}
    first = rows[0]
    return Use(
        now=first["now"],
        settled=settled,
        jobs=first["jobs"],
        tasks=first["tasks"],
        held_tokens=first["held_tokens"],
        held_cost=first["held_cost"],
    )


async def when_free(
    connection: Connection, tenant: str, window: Window, lacking: float
) -> float | None:
    """When so much will have left a window; None when time alone frees less.

    Args:
        connection: To the database.
        tenant: Whose.
        window: Which.
        lacking: How much more must leave than has; a little is asked for at least.

    Returns:
        Seconds since the epoch, by database time.
    """
    period = window.period
    row = await connection.fetchrow(_WHEN[window.what], tenant, period.width, period.span, lacking)
    if row is None:
        return None
    return float(row["start"] + period.width + period.span if period.span else row["next"])
