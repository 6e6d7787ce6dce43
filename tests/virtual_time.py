"""Time that passes only when nobody works: for code of timers that talks to nobody outside."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits in no time; says how long it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits, and no timer will wake anybody")
        found = super().select(0)
        if not found:
            self.waited += max(timeout, 0)
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._waits.waited


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in a loop whose time jumps to the next timer: no machine is too slow."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
