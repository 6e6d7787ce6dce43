"""Lets jobs in that wait for their tenant's quota, and keeps the buckets small."""

from __future__ import annotations

import asyncio
import logging

from hma.errors import Unavailable
from services.meta_agent.store.quotas import Quotas

_log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two looks for whom there is room by now."""

TIDY = 60.0
"""Seconds between two rounds of tidying."""


class QuotaUpkeep:
    """What quotas need for as long as the replica runs; every replica does it."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        tidied = clock()
        while True:
            try:
                accepted = await self._quotas.queue.let_in()
                if accepted:
                    _log.info("jobs have waited for quota", extra={"accepted": accepted})
                if clock() - tidied >= TIDY:
                    tidied = clock()
                    await self._quotas.tidy()
            except Unavailable as error:
                _log.warning("cannot look after quotas now: %s", error.message)
            await asyncio.sleep(LOOK)
