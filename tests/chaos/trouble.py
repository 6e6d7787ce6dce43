"""Carries out a plan of faults, and starts again what has ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence

from tests.chaos.fleet import DRAINED, Fleet, Part
from tests.chaos.plan import Fault


class Trouble:
    """Makes the trouble, keeps what it saw that should not be.

    Attributes:
        complaints: Processes that ended by themselves, or did not end well when asked.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._asked: set[int] = set()
        self._locks = {name: asyncio.Lock() for name in fleet.parts}
        self.complaints: list[str] = []

    async def make(self, faults: Sequence[Fault]) -> None:
        """All faults, each at its moment; returns when everything is ready again."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._one(fault, start))
        await self._fleet.ready()

    async def guard(self) -> None:
        """Starts again what ends by itself, and complains of it; until cancelled."""
        while True:
            for part in self._fleet.parts.values():
                code = part.code()
                if (
                    code is not None
                    and part.pid not in self._asked
                    and not self._locks[part.name].locked()
                ):
                    self._asked.add(part.pid)
                    self.complaints.append(f"{part.name} ended by itself with code {code}")
                    part.start()
            await asyncio.sleep(0.1)

    async def _one(self, fault: Fault, start: float) -> None:
        await asyncio.sleep(max(start + fault.at - time.monotonic(), 0))
        part = self._fleet.parts[fault.target]
        # The next fault of a process waits until it has come back from this one.
        async with self._locks[fault.target]:
            if part.code() is not None:
                return  # it has just ended by itself: the guard sees to that
            if part.name == "database":
                await part.until_ready()  # PostgreSQL heeds no SIGQUIT while it starts
            if fault.kind == "pause":
                part.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.pause)
                part.signal(signal.SIGCONT)
            elif fault.kind == "kill":
                await self.end(part, part.kills)
                await asyncio.sleep(fault.pause)
                part.start()
            else:
                await self.end(part, part.ends)
                await asyncio.sleep(fault.pause)
                part.start()

    async def restart(self, *names: str) -> None:
        """Stops processes as an orchestrator does, starts them again, waits for them."""
        parts = [self._fleet.parts[name] for name in names]
        async with contextlib.AsyncExitStack() as stack:
            for part in parts:
                await stack.enter_async_context(self._locks[part.name])
            await asyncio.gather(*(self.end(part, part.ends) for part in parts))
            for part in parts:
                part.start()
        await asyncio.gather(*(part.until_ready() for part in parts))

    async def end(self, part: Part, number: signal.Signals) -> float:
        """Ends a process by a signal; seconds that it took."""
        # Before it serves it has nothing to drain, and may end as the kernel has it.
        served = await asyncio.to_thread(part.ready)
        self._asked.add(part.pid)
        begun = time.monotonic()
        part.signal(number)
        code = await part.ended(DRAINED)
        if code is None:
            self.complaints.append(f"{part.name} did not end within {DRAINED:g} s of {number.name}")
            part.signal(signal.SIGKILL)
            await part.ended(10)
        elif number is signal.SIGTERM and part.metrics and served and code != 0:
            self.complaints.append(f"{part.name} ended with code {code} after SIGTERM")
        return time.monotonic() - begun
