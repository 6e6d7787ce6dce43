"""A driver's dealings with its tenant's quota: draws tokens and places when they are due.

Nothing is asked for jobs that no limit holds. What could not be had is asked for again
when the store says, or a moment later when it could not say.
"""

from __future__ import annotations

import asyncio
import logging
import math

from hma.errors import Unavailable
from hma.v1 import job_pb2
from services.meta_agent.deciding.quota import Wanted
from services.meta_agent.job.state import JobFold
from services.meta_agent.store.claims import Claimed
from services.meta_agent.store.quota_draws import Draw, Draws

_log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds after which it is tried again when the database was busy or away."""

PLACES = 4
"""Places at Workers that are drawn at once at least, when a job could use them."""

LINGER = 1.0
"""Seconds for which places that are not needed are kept: often the next task needs them."""


class TenantQuota:
    """What one driven job has of its tenant's quota, besides what its log says."""

    def __init__(self, claimed: Claimed, draws: Draws, price: float) -> None:
        """Draws nothing yet.

        Args:
            claimed: The job.
            draws: Takes and gives back.
            price: Most money that a token can cost.
        """
        self._claimed = claimed
        self._draws = draws
        self._price = price
        self._next_draw = -math.inf
        self._next_places = -math.inf
        self._needed = -math.inf
        self.most = math.inf
        self.places = claimed.places

    async def draw(self, wanted: Wanted, fold: JobFold, patience: float) -> job_pb2.JobEvent | None:
        """Draws tokens if it is time to; what the log has about it, None when nothing.

        Args:
            wanted: What the job could use.
            fold: The job.
            patience: Seconds until its deadline.

        Raises:
            Fenced: Another driver has the job.
            Unavailable: The database went away, and what became of the draw is not
                known: stop driving under this epoch.
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._next_draw or fold.drawn is None:
            return None
        draw = Draw(
            job_id=fold.job_id,
            tenant=fold.created.tenant,
            epoch=self._claimed.epoch,
            least=wanted.least,
            wanted=wanted.tokens,
            ceiling=fold.budget - fold.drawn,
            spare=wanted.spare,
            price=self._price,
            patience=max(patience, 0.0),
            known_limit=fold.quota_limit,
        )
        try:
            drawn = await self._draws.draw(draw)
        except Unavailable as error:
            _raise_if_unknown(error)
            _log.warning("cannot draw tokens now: %s", error.message)
            self._next_draw = clock() + PAUSE
            return None
        self._next_draw = clock() + drawn.retry_after
        self.most = drawn.most
        return drawn.event

    @property
    def next_draw(self) -> float:
        """When tokens may be asked for again, by the event loop's clock."""
        return self._next_draw

    async def match_places(self, fold: JobFold, running: int, ready: int) -> bool:
        """Draws or gives back places at Workers, as the job needs them.

        Args:
            fold: The job.
            running: Worker attempts that are open.
            ready: Tasks that could start.

        Returns:
            Whether there are more places than before.

        Raises:
            Fenced: Another driver has the job.
            Unavailable: As `draw`.
        """
        before = self.places
        if before is None or fold.ended:
            return False
        clock = asyncio.get_running_loop().time
        now, needed = clock(), running + ready
        if needed >= before:
            self._needed = now
        try:
            if needed > before and now >= self._next_places:
                wanted = min(needed - before, max(PLACES, before))
                places = await self._draws.take_places(
                    fold.job_id, fold.created.tenant, self._claimed.epoch, wanted
                )
                self.places = places
                if places < before + wanted:
                    self._next_places = clock() + PAUSE / 2
                return places > before
            if needed < before and now >= self._needed + LINGER:
                await self._draws.keep_places(fold.job_id, self._claimed.epoch, needed)
                self.places = needed
        except Unavailable as error:
            _raise_if_unknown(error)
            _log.warning("cannot match places now: %s", error.message)
            self._next_places = clock() + PAUSE
        return False

    def next_look(self, running: int, ready: int) -> float:
        """When places are to be looked at again, by the event loop's clock."""
        if self.places is None:
            return math.inf
        if running + ready > self.places:
            return self._next_places
        return self._needed + LINGER if running + ready < self.places else math.inf


def _raise_if_unknown(error: Unavailable) -> None:
    """Of a busy or failing database nothing is changed; a broken connection may do so yet.

    Given back by it, tokens or places may be another job's: to go on with them would be
    to use them twice.
    """
    if error.reason not in ("DATABASE_BUSY", "DATABASE_FAILING", "QUOTA_BUSY"):
        raise error
