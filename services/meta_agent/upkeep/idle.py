"""Drops what this replica remembers of jobs that nobody has asked about for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)

_LOOKS = 4
"""Looks in the time after which state is idle: it lives a quarter longer at most."""


class IdleState:
    """Per-job state in memory that ends by age.

    What belongs to a driver, a watcher or a relay ends with it and is not idle.
    """

    def __init__(self, forget: Mapping[str, Callable[[float], int]], *, idle: float) -> None:
        """Drops nothing yet.

        Args:
            forget: By name: drops what was not used for so many seconds; returns of how
                many jobs.
            idle: Seconds.
        """
        self._forget = forget
        self._idle = idle

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._idle / _LOOKS)
            self.drop()

    def drop(self) -> dict[str, int]:
        """Drops what is idle now; logs and returns of how many jobs, by name."""
        dropped = {name: forget(self._idle) for name, forget in self._forget.items()}
        if any(dropped.values()):
            _log.info("idle state was dropped", extra=dropped)
        return dropped
