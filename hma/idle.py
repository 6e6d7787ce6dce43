"""Drops what nobody has used for a while, without a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

IDLE = 3600.0
"""Seconds after which what a process remembers of a job is dropped, by default."""

KeyT = TypeVar("KeyT", bound=Hashable)


class Idle(Generic[KeyT]):
    """Knows when each key was used last, and has the idle ones dropped.

    Args:
        what: Names them in the log.
        seconds: A key is idle when it was not used for so long.
        drop: Drops one; called in the event loop, must not fail.
    """

    def __init__(self, what: str, seconds: float, drop: Callable[[KeyT], None]) -> None:
        self._what = what
        self._seconds = seconds
        self._drop = drop
        # The least recently used first.
        self._used: OrderedDict[KeyT, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def use(self, key: KeyT) -> None:
        """Notes that a key is used now."""
        self._used[key] = asyncio.get_running_loop().time()
        self._used.move_to_end(key)
        self._wait()

    def forget(self, key: KeyT) -> None:
        """Notes that a key was dropped for another reason."""
        self._used.pop(key, None)

    def _wait(self) -> None:
        if self._timer is None and self._used:
            end = next(iter(self._used.values())) + self._seconds
            self._timer = asyncio.get_running_loop().call_at(end, self._look)

    def _look(self) -> None:
        self._timer = None
        before = asyncio.get_running_loop().time() - self._seconds
        idle = [key for key, at in self._used.items() if at <= before]
        for key in idle:
            del self._used[key]
            self._drop(key)
        if idle:
            _log.info("idle state was dropped", extra={self._what: len(idle)})
        self._wait()
