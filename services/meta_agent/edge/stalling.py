"""Ends streams whose clients do not read.

They would hold a place for as long as they are connected.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc

from hma.errors import Unavailable
from hma.rpc.errors import abort

_ending: set[asyncio.Task[None]] = set()
"""Keeps them from being collected; each ends with its client's connection at the latest."""


class Stalling:
    """Watches how long the client of one stream takes for each message."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], seconds: float) -> None:
        """Watches nothing yet.

        Args:
            context: Of the RPC, which the current task serves.
            seconds: That the client may take for one message.
        """
        self._context = context
        self._seconds = seconds
        self._task = asyncio.current_task()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Around a `yield`: gRPC comes back from it when the client has room for more."""
        late = asyncio.get_running_loop().call_later(self._seconds, self._end)
        try:
            yield
        finally:
            late.cancel()

    def _end(self) -> None:
        ending = asyncio.create_task(self._say_and_end(), name="end a stalled stream")
        _ending.add(ending)
        ending.add_done_callback(_ending.discard)

    async def _say_and_end(self) -> None:
        """Frees what the stream holds, and says why to a client that reads one day.

        What is said stands behind what the client has not read yet: it is not waited for.
        """
        telling = asyncio.create_task(self._say(), name="tell a stalled stream's client")
        await asyncio.wait({telling}, timeout=0)
        if self._task is not None:
            self._task.cancel()
        await telling

    async def _say(self) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # abort always raises
            await abort(
                self._context,
                Unavailable(
                    f"Nothing was read for {self._seconds:g} s; watch again from the last event.",
                    reason="NOT_READ",
                    retry_after=0,
                ),
            )
