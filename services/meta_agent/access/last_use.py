"""Notes when keys were last used: off the request's path, and seldom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from hma.errors import Unavailable

_log = logging.getLogger(__name__)

Write = Callable[[Mapping[str, datetime]], Awaitable[None]]

_MOST = 10_000


class LastUse:
    """Collects uses and writes them together, each key at most once a minute."""

    def __init__(
        self, write: Write, *, first: float = 5.0, interval: float = 60.0, most: int = _MOST
    ) -> None:
        """Writes nothing yet.

        Args:
            write: Keeps the times of some keys; raises Unavailable.
            first: Seconds between two looks at what is to be written.
            interval: Least seconds between two writes of a key.
            most: Keys that are remembered at once; the uses of more are not noted.
        """
        self._write = write
        self._look = first
        self._interval = interval
        self._most = most
        self._unwritten: dict[str, datetime] = {}
        self._written: dict[str, float] = {}

    def note(self, key_id: str, time: datetime) -> None:
        """Says that a key was used."""
        if key_id in self._unwritten or len(self._unwritten) < self._most:
            self._unwritten[key_id] = time

    async def run(self) -> None:
        """Writes for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._look)
            now = loop.time()
            # What was written longer ago than that holds nothing up any more.
            self._written = {
                key_id: at for key_id, at in self._written.items() if now - at < self._interval
            }
            due = {
                key_id: time
                for key_id, time in self._unwritten.items()
                if key_id not in self._written
            }
            if not due:
                continue
            try:
                await self._write(due)
            except Unavailable as error:
                _log.warning("last uses of keys were not written: %s", error.message)
                continue
            for key_id, time in due.items():
                self._written[key_id] = now
                if self._unwritten[key_id] == time:
                    del self._unwritten[key_id]
