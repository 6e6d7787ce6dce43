"""Ends a call when its attempt is stopped or its time is up, whatever it waits for."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from hma.llm.base import ChunkStream


class Cutter:
    """Watches one call while it runs; an async context manager.

    Attributes:
        fired: The call was cut.
        sent: The call went to the server, or may have.

    Args:
        stop: Set when the call has to end.
        time_left: Seconds after which it has to end anyway.
    """

    def __init__(self, stop: asyncio.Event, time_left: float) -> None:
        self.fired = False
        self.sent = False
        self._stop = stop
        self._time_left = time_left
        self._opening: asyncio.Timeout | None = None
        self._stream: ChunkStream | None = None
        self._exits = AsyncExitStack()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="llm-call-cutter")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._exits.__aexit__(kind, error, tb)

    async def open(self, call: AbstractAsyncContextManager[ChunkStream]) -> ChunkStream | None:
        """Opens the call; None when it was cut before the server began to answer.

        Raises:
            hma.errors.CallFailed: The call could not be opened.
        """
        if self._stop.is_set():
            self.fired = True
            return None
        self.sent = True
        try:
            async with asyncio.timeout(None) as self._opening:
                self._stream = await self._exits.enter_async_context(call)
        except TimeoutError:
            return None
        finally:
            self._opening = None
        return self._stream

    def cut(self) -> None:
        """Ends the call now."""
        self.fired = True
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())
        elif self._stream is not None:
            self._stream.cut()

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout(self._time_left):
                await self._stop.wait()
        except TimeoutError:
            pass
        self.cut()
