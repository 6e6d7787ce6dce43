"""Has ended jobs expire, batch by batch, for as long as the replica runs."""

from __future__ import annotations

import asyncio
import logging

from hma.errors import Unavailable
from services.meta_agent.store.retention import Retention

_log = logging.getLogger(__name__)

LOOK = 60.0
"""Seconds between two looks for what has expired, at most: never more than the retention."""

BREATH = 0.1
"""Seconds between two batches: expiry never has the database to itself."""


class Expiry:
    """Deletes what is older than the retention."""

    def __init__(self, retention: Retention, *, age: float, batch: int) -> None:
        """Deletes nothing yet.

        Args:
            retention: Deletes.
            age: Seconds that an ended job is kept; 0: for ever.
            batch: Jobs in one transaction at most.
        """
        self._retention = retention
        self._age = age
        self._batch = batch
        self._lot = batch

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._age > 0:
                await self._expire()
            await asyncio.sleep(min(LOOK, self._age) if self._age > 0 else LOOK)

    async def _expire(self) -> None:
        jobs = tombstones = 0
        full = True
        while full:
            try:
                expired = await self._retention.expire(self._age, self._lot)
            except Unavailable as error:
                # It may have been too much for one transaction: jobs differ in size.
                self._lot = max(self._lot // 2, 1)
                _log.warning("cannot expire jobs now: %s", error.message)
                break
            if expired is None:
                break  # another replica is at it
            jobs += len(expired.jobs)
            tombstones += expired.tombstones
            full = max(len(expired.jobs), expired.tombstones) >= self._lot
            self._lot = min(self._lot * 2, self._batch)
            if full:
                await asyncio.sleep(BREATH)
        if jobs or tombstones:
            _log.info("jobs have expired", extra={"jobs": jobs, "tombstones": tombstones})
