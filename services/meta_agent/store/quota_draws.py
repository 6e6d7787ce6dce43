"""What drivers take out of their tenant's quota for their jobs, and give back.

Tokens in tranches, places at Workers in chunks; both under the tenant's lock and fenced
by the epoch. Between two draws the grants of a job touch its own row only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hma.errors import Fenced
from hma.v1 import job_pb2
from services.meta_agent.job.priority import point_worth
from services.meta_agent.store.append import to_row
from services.meta_agent.store.database import Connection, Database
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.quota_admission import Verdict
from services.meta_agent.store.quota_events import drawn_event
from services.meta_agent.store.quota_limits import WINDOWS, Limits
from services.meta_agent.store.quota_line import (
    first_in_line,
    leave,
    stand,
    with_kept,
    worth_waiting_for,
)
from services.meta_agent.store.quota_lock import TenantLocks
from services.meta_agent.store.quota_refusal import LOOK_AGAIN, free_time
from services.meta_agent.store.quota_use import Room, Use, read_use, token_room

# The row is locked before it is read, so the figures are those that the update changes.
_JOB = """
SELECT quota_drawn, quota_price, quota_state, quota_turn IS NOT NULL AS waits,
       coalesce(quota_turn, create_time - priority * $3::interval) AS turn,
       greatest(quota_drawn - settled_tokens, 0) AS held FROM job
WHERE id = $1 AND epoch = $2 AND NOT sealed FOR UPDATE
"""
_DRAW = """
WITH moved AS (
    UPDATE job SET version = version + 1, quota_drawn = quota_drawn + $2, quota_price = $3
    WHERE id = $1 RETURNING id, version
)
INSERT INTO job_event (job_id, sequence, event_id, type, payload)
SELECT id, version, $4, $5, $6 FROM moved RETURNING sequence
"""
_TASKS = """
UPDATE job SET quota_tasks = quota_tasks + CASE WHEN quota_state = 0 THEN $3::int ELSE 0 END
WHERE id = $1 AND epoch = $2 AND NOT sealed AND quota_tasks IS NOT NULL
RETURNING quota_tasks
"""
_KEEP = """
UPDATE job SET quota_tasks = least(quota_tasks, $3)
WHERE id = $1 AND epoch = $2 AND NOT sealed AND quota_tasks IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Tokens that a job wants.

    Attributes:
        job_id: The job.
        tenant: Whose it is.
        epoch: Under which its driver drives it.
        least: Fewer than this are of no use now.
        wanted: What it could use now.
        ceiling: What it could ever use: a tranche is drawn ahead, up to this.
        spare: What it has drawn and no call holds: given back when there are not even
            the least, so that those who wait do not wait for each other.
        price: Most money that one of its tokens can cost.
        patience: Seconds for which it can wait.
        known_limit: The limit that its log says it waits for; said again only when it
            is another.
    """

    job_id: str
    tenant: str
    epoch: int
    least: int
    wanted: int
    ceiling: int
    spare: int
    price: float
    patience: float = math.inf
    known_limit: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of it.

    Attributes:
        event: What the log says of it, with its sequence; None when it says nothing new.
        retry_after: Seconds after which to try again; 0 when it was given.
        most: How many tokens the tenant's limits can let a job hold at once in its time.
    """

    event: job_pb2.JobEvent | None
    retry_after: float = 0.0
    most: float = math.inf


class Draws:
    """Takes and gives back."""

    def __init__(
        self, database: Database, locks: TenantLocks, notifications: Notifications
    ) -> None:
        self._database = database
        self._locks = locks
        self._notifications = notifications

    async def draw(self, draw: Draw) -> Drawn:
        """Draws tokens, in one transaction with the event that says so.

        Raises:
            Fenced: Another driver has the job, or it is sealed or gone.
            Unavailable: The database cannot be reached or the tenant's row stayed
                locked. Whether tokens were drawn is in the log.
        """
        async with self._locks.hold(draw.tenant) as (connection, limits):
            use = await read_use(connection, draw.tenant, limits)
            row = await connection.fetchrow(
                _JOB, draw.job_id, draw.epoch, point_worth(self._locks.rules.ageing)
            )
            if row is None or row["quota_drawn"] is None:
                raise Fenced(f"Job {draw.job_id} is sealed, gone, or driven under a later epoch.")
            if row["quota_state"]:  # never accepted: it only comes to its end
                return Drawn(None, LOOK_AGAIN, 0)
            price = max(draw.price, row["quota_price"])
            turn = row["turn"]
            first = await first_in_line(connection, draw.tenant, limits)
            use = with_kept(use, first, draw.job_id, turn)
            # What it holds may cost more than it could when it was drawn.
            risen = (price - row["quota_price"]) * row["held"]
            use = replace(use, held_cost=use.held_cost + risen)
            room = token_room(limits, use, price, draw.patience)
            tokens, limit = _share(draw, room, self._locks.rules.tranche)
            free = await self._free(connection, limits, use, draw, room) if limit else None
            if limit:
                # It gives back what it can spare, and needs that again.
                lacks = draw.least + max(draw.spare, 0)
                wait = None if free is None else free - use.now
                if worth_waiting_for(lacks, room.most, wait):
                    is_first = first is None or not first.is_before(draw.job_id, turn)
                    await stand(connection, draw.job_id, lacks, turn, is_first=is_first)
                else:
                    await leave(connection, draw.job_id)
            elif row["waits"]:
                await leave(connection, draw.job_id)
            event = None
            if tokens or limit != draw.known_limit:
                event = drawn_event(
                    draw.job_id,
                    tokens=tokens,
                    total=row["quota_drawn"] + tokens,
                    price=price,
                    now=use.now,
                    epoch=draw.epoch,
                    limit=limit,
                    retry_time=free,
                )
                stored = to_row(event)
                event.sequence = await connection.fetchval(
                    _DRAW,
                    draw.job_id,
                    tokens,
                    price,
                    stored.event_id,
                    stored.type,
                    stored.payload,
                )
        if event is not None:
            self._notifications.publish(draw.job_id, event.sequence)
        return Drawn(event, _retry_after(limit, use.now, free), room.most)

    async def _free(
        self, connection: Connection, limits: Limits, use: Use, draw: Draw, room: Room
    ) -> float | None:
        lacking = use.used(room.limit) - limits[room.limit]
        what = WINDOWS[room.limit].what
        lacking += draw.least * (draw.price if what == "cost" else 1)
        # What the job itself gives back is not used any more.
        lacking -= max(draw.spare, 0) * (draw.price if what == "cost" else 1)
        verdict = Verdict(full=room.limit, lacking=lacking, hopeless=draw.least > room.most)
        return await free_time(connection, draw.tenant, verdict)

    async def take_places(self, job_id: str, tenant: str, epoch: int, wanted: int) -> int:
        """Draws places at Workers, as many as there are.

        Args:
            job_id: The job.
            tenant: Whose it is.
            epoch: Under which its driver drives it.
            wanted: How many more it could use, 1 or more.

        Returns:
            How many it has now.

        Raises:
            Fenced: Another driver has the job, it is sealed or gone, or has no limit.
            Unavailable: The database cannot be reached or the tenant's row stayed locked.
        """
        async with self._locks.hold(tenant) as (connection, limits):
            use = await read_use(connection, tenant, limits)
            limit = limits.get("concurrent_tasks", math.inf)
            more = max(min(wanted, limit - use.tasks), 0)
            places = await connection.fetchval(_TASKS, job_id, epoch, int(more))
            if places is None:
                raise Fenced(f"Job {job_id} is sealed, gone, or driven under a later epoch.")
            return int(places)

    async def keep_places(self, job_id: str, epoch: int, places: int) -> None:
        """Gives back all places but these. Without effect under a later epoch.

        Raises:
            Unavailable: The database cannot be reached; calling again is safe.
        """
        await self._database.execute(_KEEP, job_id, epoch, places)


def _share(draw: Draw, room: Room, tranche: int) -> tuple[int, str]:
    """Tokens that a draw gets, or (below 0) gives back, and the limit that is in the way."""
    if room.tokens >= draw.least:
        tokens = max(draw.wanted, draw.least, min(tranche, draw.ceiling))
        return int(min(tokens, room.tokens)), ""
    # With what it gives back there may be enough: then it need not.
    return -max(draw.spare, 0), room.limit


def _retry_after(limit: str, now: float, free: float | None) -> float:
    """Others may give back what they hold at any time: never longer than a moment."""
    if not limit:
        return 0.0
    return LOOK_AGAIN if free is None else min(max(free - now, 0.05), LOOK_AGAIN)
