"""What the fleet has measured so far, read again and again; deciding gets the latest."""

from __future__ import annotations

import asyncio
import logging

from hma.errors import Unavailable
from services.meta_agent.deciding.history import NOTHING_KNOWN, History
from services.meta_agent.store.fleet import FleetMetrics

_log = logging.getLogger(__name__)


class HistoryWatch:
    """Keeps `latest` at most `interval` seconds old, as long as the database answers."""

    def __init__(self, fleet: FleetMetrics, *, interval: float = 5.0) -> None:
        """Nothing is known yet: priors stand.

        Args:
            fleet: Where the counters are.
            interval: Seconds between two looks.
        """
        self._fleet = fleet
        self._interval = interval
        self.latest: History = NOTHING_KNOWN

    async def look(self) -> None:
        """Reads once.

        Raises:
            Unavailable: The database cannot be reached; what was known stands.
        """
        self.latest = History.of(await self._fleet.history())

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                _log.debug("the history is not refreshed: %s", error.message)
            await asyncio.sleep(self._interval)
