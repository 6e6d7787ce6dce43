"""The outgoing side of an attempt: frames in order, progress coalesced between them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from hma.rpc.progress import ProgressBuffer
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2

Frame = attempt_pb2.AttemptReport | analyst_pb2.PlanFragment
MAX_FRAMES = 64


class Outbox:
    """What a service has to say, in the order in which it has to be said.

    Intents, fragments and the result are frames: none is lost, and putting one
    waits while `MAX_FRAMES` are queued. Progress is volatile and leaves at most
    once per `interval`; what is left of it leaves before the result does.

    Args:
        interval: Least time between two progress reports, in seconds.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._progress = ProgressBuffer()
        self._frames: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing that is put from now on will be sent."""
        return self._closed

    def progress(self, *, call: int, usage: common_pb2.Usage | None, text: str, phase: str) -> None:
        """Notes progress; never waits."""
        if self._closed:
            return
        self._progress.add(call=call, usage=usage, text=text, phase=phase)
        self._changed.set()

    async def put(self, frame: Frame) -> bool:
        """Queues a frame.

        Returns:
            False when the outbox is closed and the frame was dropped.
        """
        while len(self._frames) >= MAX_FRAMES and not self._closed:
            self._space.clear()
            await self._space.wait()
        if self._closed:
            return False
        if isinstance(frame, attempt_pb2.AttemptReport) and frame.HasField("result"):
            for report in self._progress.drain():
                self._frames.append(attempt_pb2.AttemptReport(progress=report))
        self._frames.append(frame)
        self._changed.set()
        return True

    def close(self) -> None:
        """Ends `frames` once what is queued has been taken; idempotent."""
        self._closed = True
        self._changed.set()
        self._space.set()

    def discard(self) -> None:
        """Closes and forgets what is queued: nobody listens any more."""
        self._frames.clear()
        self.close()

    async def frames(self) -> AsyncIterator[Frame]:
        """What to send, until the outbox is closed. For one consumer."""
        loop = asyncio.get_running_loop()
        next_progress = loop.time()
        while True:
            self._changed.clear()
            if self._frames:
                yield self._frames.popleft()
                self._space.set()
                continue
            if self._closed:
                return
            wait = next_progress - loop.time() if self._progress.dirty else None
            if wait is not None and wait <= 0:
                report = self._progress.take()
                next_progress = loop.time() + self._interval
                yield attempt_pb2.AttemptReport(progress=report)
                continue
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue
