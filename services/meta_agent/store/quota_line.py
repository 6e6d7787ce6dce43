"""The line of a tenant's jobs that wait for tokens, and for whom room is kept.

A job that has found too little room for what it needs next stands in line, by its turn
(`job.priority`). For the first in line room is kept: to those whose turn is later, what it
lacks counts as held, whether they draw or are yet to be accepted. So small jobs do not
take for ever what a large one waits for. Three things bound what that costs the others:

* Nobody waits for a job that the limits cannot hold, or that they hold in `HOLD` or more
  by time alone, nor for one that looks no more.
* After `HOLD` the first goes to the line's end, also behind those who come within another
  `HOLD`, and comes to be the first again.
* Those whose turn is earlier are not held up at all.

The tenant's lock is held whenever the line is read or changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from services.meta_agent.store.database import Connection
from services.meta_agent.store.quota_limits import Limits, draws_tokens
from services.meta_agent.store.quota_use import Use

HOLD = 300.0
"""Seconds for which room is kept for a job at a stretch."""

LEASE = 10.0
"""Seconds after which room is not kept any more for a job that did not look again."""

_WAITS = f"""
quota_state = 0 AND quota_lacks > 0
AND quota_look_time > clock_timestamp() - interval '{LEASE} seconds'
AND (quota_kept_time IS NULL OR quota_kept_time > clock_timestamp() - interval '{HOLD} seconds')
"""
_FIRST = f"""
SELECT id, quota_lacks AS lacks, quota_price AS price, quota_turn AS turn
FROM job WHERE tenant = $1 AND NOT sealed AND {_WAITS}
ORDER BY quota_turn, id LIMIT 1
"""  # noqa: S608 - numbers of this module
# Whoever has had its time starts anew, behind all that wait now and all that come in as
# long a time: or room would be kept from newcomers for ever, for one that others, who end
# late, leave no room. What it was kept before it last stopped looking is forgotten.
_STAND = f"""
UPDATE job SET
    quota_lacks = $2, quota_look_time = m.now,
    quota_turn = CASE WHEN m.is_over THEN m.now + interval '{HOLD} seconds' ELSE $3 END,
    quota_kept_time = CASE WHEN m.is_over THEN m.now + interval '{HOLD} seconds'
                           WHEN $4 THEN coalesce(m.kept, m.now) END
FROM (
    SELECT now, kept, coalesce(kept <= now - interval '{HOLD} seconds', false) AS is_over
    FROM (SELECT clock_timestamp() AS now) AS clock, LATERAL (
        SELECT CASE WHEN quota_look_time > now - interval '{LEASE} seconds'
                    THEN quota_kept_time END AS kept
        FROM job WHERE id = $1
    ) AS j
) AS m WHERE id = $1
"""  # noqa: S608 - numbers of this module
_LEAVE = """
UPDATE job SET quota_lacks = NULL, quota_look_time = NULL, quota_turn = NULL,
               quota_kept_time = NULL
WHERE id = $1 AND quota_turn IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class First:
    """The first in a tenant's line.

    Attributes:
        job_id: Who.
        lacks: Tokens that it waits for.
        price: Most money that one of them can cost.
        turn: Its turn.
    """

    job_id: str
    lacks: int
    price: float
    turn: datetime

    def is_before(self, job_id: str, turn: datetime) -> bool:
        """Whether another job, or one that comes, stands behind it."""
        return (self.turn, self.job_id) < (turn, job_id)


def with_kept(use: Use, first: First | None, job_id: str, turn: datetime) -> Use:
    """What a tenant uses, as a job sees it: with what is kept for who comes before it. Pure.

    Args:
        use: Of the tenant.
        first: Who is the first in line, if anybody.
        job_id: The job.
        turn: The job's.
    """
    if first is None or not first.is_before(job_id, turn):
        return use
    return replace(
        use,
        held_tokens=use.held_tokens + first.lacks,
        held_cost=use.held_cost + first.lacks * first.price,
    )


def worth_waiting_for(lacks: int, most: float, wait: float | None) -> bool:
    """Whether room is to be kept for a job. Pure.

    Args:
        lacks: Tokens that it needs.
        most: How many the limits can let it hold in its time.
        wait: Seconds after which the limit in its way has room by time alone; None: that
            is not known, others may give back what they hold.
    """
    return 0 < lacks <= most and (wait is None or wait < HOLD)


async def first_in_line(connection: Connection, tenant: str, limits: Limits) -> First | None:
    """For whom room is kept; nobody without limits of tokens or money."""
    if not draws_tokens(limits):
        return None
    row = await connection.fetchrow(_FIRST, tenant)
    return First(row["id"], row["lacks"], row["price"], row["turn"]) if row is not None else None


async def stand(
    connection: Connection, job_id: str, lacks: int, turn: datetime, *, is_first: bool
) -> None:
    """A job has looked, and waits.

    Args:
        connection: In the transaction that holds the lock.
        job_id: The job.
        lacks: Tokens that it needs.
        turn: Its turn.
        is_first: Nobody waits before it.
    """
    await connection.execute(_STAND, job_id, lacks, turn, is_first)


async def leave(connection: Connection, job_id: str) -> None:
    """A job waits no more, or nobody is to wait for it."""
    await connection.execute(_LEAVE, job_id)
