"""Has the audit trail's old rows expire, when a retention is set for it."""

from __future__ import annotations

import asyncio
import logging

from hma.errors import Unavailable
from services.meta_agent.store.audit import AuditBook
from services.meta_agent.upkeep.expiry import BREATH

_log = logging.getLogger(__name__)

LOOK = 3600.0
"""Seconds between two looks for what has expired."""

BATCH = 1_000
"""Rows in one transaction at most."""


class AuditExpiry:
    """Deletes what is older than the retention, and nothing at zero."""

    def __init__(self, book: AuditBook, *, age: float, batch: int = BATCH) -> None:
        """Deletes nothing yet.

        Args:
            book: The trail.
            age: Seconds that a row is kept, a day at least; 0: for ever.
            batch: Rows in one transaction at most.
        """
        self._book = book
        self._age = age
        self._batch = batch

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._age > 0:
                await self._expire()
            await asyncio.sleep(LOOK)

    async def _expire(self) -> None:
        rows = 0
        try:
            while gone := await self._book.expire(self._age, self._batch):
                rows += gone
                if gone < self._batch:
                    break
                await asyncio.sleep(BREATH)
        except Unavailable as error:
            _log.warning("the audit trail cannot expire now: %s", error.message)
        if rows:
            _log.info("entries of the audit trail have expired", extra={"rows": rows})
