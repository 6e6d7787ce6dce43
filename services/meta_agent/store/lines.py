"""Lines before locks: within a replica, one at a time and without a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from hma.errors import Unavailable

PATIENCE = 5.0
"""Seconds that anybody stands in line."""


class Lines:
    """A line for each name, for as long as somebody stands in it.

    Who waits for a lock of the database holds a connection. In line before it, one does:
    so one name's crowd does not take the pool from the others.
    """

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._standing: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def wait(self, name: str) -> AsyncIterator[None]:
        """Stands in line; it is one's turn until the context is left.

        Raises:
            Unavailable: It took too long.
        """
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._standing[name] = self._standing.get(name, 0) + 1
        try:
            try:
                async with asyncio.timeout(PATIENCE):
                    await lock.acquire()
            except TimeoutError:
                raise Unavailable(
                    "Too many want the same quota at once; try again.",
                    reason="QUOTA_BUSY",
                    retry_after=1,
                ) from None
            try:
                yield
            finally:
                lock.release()
        finally:
            self._standing[name] -= 1
            if not self._standing[name]:
                del self._standing[name], self._locks[name]
