"""The windows of routes with limits of their own: one book for all services and replicas.

Each call is a row from its begin on, for 60 seconds: with the most that it can take,
until it is said what it took. Those for whom there was no room stand in line, a row each,
for as long as they ask again (`route_room` says who may begin). All that is asked under a
lock of the route.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.lines import Lines
from services.meta_agent.store.route_room import (
    HEAD_START,
    SPAN,
    Load,
    RouteLimits,
    lacking,
    never_fits,
)

ASK_AGAIN = 2.0
"""Seconds after which a call that waits is asked for again, at the latest: others may have
taken less than they could have, and who asks no more is not waited for."""

LEASE = 10.0
"""Seconds after which nobody waits any more for a call that was not asked for again."""

KEPT = 60.0
"""Seconds after which it has lost its place, too: until then it comes back to it."""

MOST_WAITING = 1000
"""Calls that stand in a route's line. Further ones ask again, and stand behind it."""

_LOCK_SPACE = 0x48_4D_41_07

_LOCK = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
_FORGET = f"""
WITH left_line AS (
    DELETE FROM route_waiter WHERE route = $1
    AND ask_time <= clock_timestamp() - interval '{KEPT} seconds'
)
DELETE FROM route_call WHERE route = $1
AND begin_time <= clock_timestamp() - interval '{SPAN} seconds'
"""  # noqa: S608 - numbers of this module
_LOOK = f"""
WITH m AS MATERIALIZED (SELECT clock_timestamp() AS now), used AS (
    SELECT count(*) AS calls, coalesce(sum(tokens), 0)::bigint AS tokens,
           coalesce(bool_or(call_id = $2), false) AS known
    FROM m JOIN route_call ON route = $1 AND begin_time > m.now - interval '{SPAN} seconds'
), own AS (
    SELECT w.place IS NOT NULL AS stands, coalesce(w.place, 9223372036854775807) AS place,
           coalesce(w.turn, m.now + $3::int * interval '{HEAD_START} seconds') AS turn
    FROM m LEFT JOIN route_waiter w ON w.route = $1 AND w.call_id = $2
), line AS (
    SELECT count(*) AS standing,
           count(*) FILTER (WHERE before) AS calls,
           coalesce(sum(tokens) FILTER (WHERE before), 0)::bigint AS tokens
    FROM (
        SELECT w.tokens, w.ask_time > m.now - interval '{LEASE} seconds'
               AND (w.turn, w.place) < (own.turn, own.place) AS before
        FROM m, own, route_waiter w WHERE w.route = $1
    ) AS w
)
SELECT used.*, line.standing, line.calls AS calls_ahead, line.tokens AS tokens_ahead,
       own.stands, own.turn
FROM used, line, own
"""  # noqa: S608 - numbers of this module
_TAKE = """
WITH left_line AS (DELETE FROM route_waiter WHERE route = $1 AND call_id = $2)
INSERT INTO route_call (route, call_id, tokens, begin_time)
VALUES ($1, $2, $3, clock_timestamp())
"""
_STAND = """
INSERT INTO route_waiter (route, call_id, tokens, turn, ask_time)
VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (route, call_id) DO UPDATE SET tokens = excluded.tokens, ask_time = excluded.ask_time
"""
# When so much has left, if that is soon.
_LEAVES = f"""
SELECT min(leaves) FROM (
    SELECT extract(epoch FROM begin_time + interval '{SPAN} seconds' - clock_timestamp())
               ::float8 AS leaves,
           row_number() OVER w AS calls, sum(tokens) OVER w AS tokens
    FROM route_call
    WHERE route = $1 AND begin_time < clock_timestamp() - interval '{SPAN - ASK_AGAIN} seconds'
    WINDOW w AS (ORDER BY begin_time, call_id)
) AS leaving WHERE calls >= $2::bigint AND tokens >= $3::bigint
"""  # noqa: S608 - numbers of this module
_SETTLE = """
WITH left_line AS (DELETE FROM route_waiter WHERE route = $1 AND call_id = $2)
UPDATE route_call SET tokens = $3 WHERE route = $1 AND call_id = $2
"""


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
    """The book of all routes, and their lines."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines = Lines()

    async def reserve(
        self, route: str, call_id: str, tokens: int, limits: RouteLimits, priority: int = 0
    ) -> RouteRoom:
        """Takes room for a call, or a place in line. Asked again, the same call takes it once.

        Args:
            route: The route's name.
            call_id: The call's.
            tokens: Most that it can take.
            limits: Of the route.
            priority: Lower goes earlier.

        Raises:
            Unavailable: The database cannot be reached; asking again is safe.
        """
        if never_fits(limits, tokens):
            return RouteRoom(False)
        async with (
            self._lines.wait(route),
            self._database.connection() as connection,
            connection.transaction(),
        ):
            await connection.execute(_LOCK, _LOCK_SPACE, route)
            await connection.execute(_FORGET, route)
            seen = await connection.fetchrow(_LOOK, route, call_id, priority)
            if seen is None or seen["known"]:
                return RouteRoom(True)
            use = Load(seen["calls"], seen["tokens"])
            ahead = Load(seen["calls_ahead"], seen["tokens_ahead"])
            lack = lacking(limits, use, ahead, tokens)
            if lack is None:
                await connection.execute(_TAKE, route, call_id, tokens)
                return RouteRoom(True)
            if seen["stands"] or seen["standing"] < MOST_WAITING:
                await connection.execute(_STAND, route, call_id, tokens, seen["turn"])
            return RouteRoom(False, await _wait(connection, route, lack))

    async def settle(self, route: str, call_id: str, tokens: int) -> None:
        """Says what a call took; without effect once no window counts it.

        One that waits leaves the line.

        Raises:
            Unavailable: The database cannot be reached; calling again is safe.
        """
        await self._database.execute(_SETTLE, route, call_id, tokens)


async def _wait(connection: Connection, route: str, lack: Load) -> float:
    """Seconds until so much has left the window, or it is time to ask again anyway."""
    leaves: float | None = await connection.fetchval(_LEAVES, route, lack.calls, lack.tokens)
    return ASK_AGAIN if leaves is None else min(max(leaves, 0.0) + 0.001, ASK_AGAIN)
