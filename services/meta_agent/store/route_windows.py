"""The windows of routes with limits of their own: one book for all services and replicas.

Each call is a row from its begin on, for 60 seconds: with the most that it can take,
until it is said what it took. Whether there is room for another is asked under a lock of
the route.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.lines import Lines

SPAN = 60
"""Seconds that a window is long."""

_LOCK_SPACE = 0x48_4D_41_07

_LOCK = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
_FORGET = f"""
DELETE FROM route_call WHERE route = $1
AND begin_time <= clock_timestamp() - interval '{SPAN} seconds'
"""  # noqa: S608 - a number of this module
_USE = f"""
WITH m AS MATERIALIZED (SELECT clock_timestamp() AS now)
SELECT count(*) AS calls, coalesce(sum(tokens), 0) AS tokens,
       coalesce(bool_or(call_id = $2), false) AS known
FROM m JOIN route_call ON route = $1 AND begin_time > m.now - interval '{SPAN} seconds'
"""  # noqa: S608 - a number of this module
_TAKE = """
INSERT INTO route_call (route, call_id, tokens, begin_time)
VALUES ($1, $2, $3, clock_timestamp())
"""
_OLDEST = f"""
SELECT tokens, extract(epoch FROM begin_time + interval '{SPAN} seconds' - clock_timestamp())
    ::float8 AS leaves
FROM route_call WHERE route = $1 ORDER BY begin_time
"""  # noqa: S608 - a number of this module
_SETTLE = "UPDATE route_call SET tokens = $3 WHERE route = $1 AND call_id = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLimits:
    """What a route takes in any 60 seconds; 0: any number."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class RouteRoom:
    """Whether a call may begin.

    Attributes:
        granted: It may.
        retry_after: Else: seconds after which to ask again; None: it never may.
    """

    granted: bool
    retry_after: float | None = None


class RouteWindows:
    """The book of all routes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines = Lines()

    async def reserve(
        self, route: str, call_id: str, tokens: int, limits: RouteLimits
    ) -> RouteRoom:
        """Takes room for a call if there is any. Asked again, the same call takes it once.

        Args:
            route: The route's name.
            call_id: The call's.
            tokens: Most that it can take.
            limits: Of the route.

        Raises:
            Unavailable: The database cannot be reached; asking again is safe.
        """
        if limits.tokens and tokens > limits.tokens:
            return RouteRoom(False)
        async with (
            self._lines.wait(route),
            self._database.connection() as connection,
            connection.transaction(),
        ):
            await connection.execute(_LOCK, _LOCK_SPACE, route)
            await connection.execute(_FORGET, route)
            use = await connection.fetchrow(_USE, route, call_id)
            if use is None or use["known"]:
                return RouteRoom(True)
            lacking = (
                use["calls"] + 1 - limits.requests if limits.requests else 0,
                use["tokens"] + tokens - limits.tokens if limits.tokens else 0,
            )
            if max(lacking) > 0:
                return RouteRoom(False, await _wait(connection, route, *lacking))
            await connection.execute(_TAKE, route, call_id, tokens)
            return RouteRoom(True)

    async def settle(self, route: str, call_id: str, tokens: int) -> None:
        """Says what a call took; without effect once no window counts it.

        Raises:
            Unavailable: The database cannot be reached; calling again is safe.
        """
        await self._database.execute(_SETTLE, route, call_id, tokens)


async def _wait(connection: Connection, route: str, calls: int, tokens: int) -> float:
    """Seconds until so many calls and tokens have left the window."""
    rows: list[asyncpg.Record] = await connection.fetch(_OLDEST, route)
    for row in rows:
        calls, tokens = calls - 1, tokens - row["tokens"]
        if calls <= 0 and tokens <= 0:
            return max(float(row["leaves"]), 0.0) + 0.001
    return float(SPAN)
