"""The beat of this replica: keeps its lease, and knows when it is lost.

It runs in a thread with an event loop and a connection of its own, so that a busy main
loop does not cost the replica its jobs. Yet a beat must not hide a main loop that is
stuck for good: it stops when the main loop has not ticked for five seconds.

    renewed ──2 s without──▶ on_lost: cancel all streams ──1 s more──▶ others may claim
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import asyncpg

from hma.errors import Unavailable
from services.meta_agent.store.clock import Clock
from services.meta_agent.store.database import FAILED, connect
from services.meta_agent.store.replicas import forget_dead, remove_replica, write_beat

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatTimes:
    """The beat's times, in seconds.

    Attributes:
        interval: Between two beats.
        lost_after: Without a renewal for this long, the lease counts as lost. Must leave
            time to act before the lease (`claims.LEASE`, 3 s) is over.
        loop_stuck_after: A main loop that has not ticked for this long gets no beat.
        start_timeout: For the first beat.
    """

    interval: float = 0.5
    lost_after: float = 2.0
    loop_stuck_after: float = 5.0
    start_timeout: float = 10.0


class Beat:
    """Keeps one replica's lease. Use as an async context manager.

    Entering returns after the first beat and raises Unavailable when there is none.
    Leaving removes the replica, so its jobs can be claimed at once: end the drivers first.
    """

    def __init__(
        self,
        url: str,
        replica_id: str,
        address: str,
        *,
        clock: Clock | None = None,
        on_lost: Callable[[], None] = lambda: None,
        on_renewed: Callable[[], None] = lambda: None,
        times: BeatTimes | None = None,
    ) -> None:
        """Nothing runs before the context is entered.

        Args:
            url: The database.
            replica_id: `ids.new_replica_id()`: new for each run of the process.
            address: Where this replica's gRPC server listens, host:port.
            clock: Gets a sample of database time with each beat.
            on_lost: Called in the main loop when the lease could not be renewed in time.
            on_renewed: Called in the main loop when it is held again.
            times: The beat's times.
        """
        self._url = url
        self._replica_id = replica_id
        self._address = address
        self._clock = clock
        self._on_lost = on_lost
        self._on_renewed = on_renewed
        self._times = times or BeatTimes()
        self._renewed = float("-inf")
        self._lost = False
        self._ticked = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    @property
    def replica_id(self) -> str:
        """Whose beat it is."""
        return self._replica_id

    def held(self) -> bool:
        """Whether the lease is held, seen from here and now.

        It is right at once after the process was stopped and continued; `on_lost` follows.
        """
        return time.monotonic() - self._renewed < self._times.lost_after

    async def __aenter__(self) -> Beat:
        main = asyncio.get_running_loop()
        first: asyncio.Future[None] = main.create_future()
        # The thread's loop is made here, so that it can be stopped from the first moment on.
        self._loop = asyncio.new_event_loop()
        self._ticked = time.monotonic()
        self._ticker = asyncio.create_task(self._tick(), name="beat-tick")
        self._thread = threading.Thread(
            target=self._run_thread, args=(self._loop, main, first), name="beat", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wait_for(first, self._times.start_timeout)
        except TimeoutError:
            await self._end()
            raise Unavailable("The database cannot be reached: no first beat.") from None
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._ticker is not None:
            self._ticker.cancel()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)

    async def _tick(self) -> None:
        while True:
            self._ticked = time.monotonic()
            await asyncio.sleep(self._times.loop_stuck_after / 10)

    # What follows runs in the thread.

    def _run_thread(
        self,
        own: asyncio.AbstractEventLoop,
        main: asyncio.AbstractEventLoop,
        first: asyncio.Future[None],
    ) -> None:
        asyncio.set_event_loop(own)
        try:
            own.run_until_complete(self._run(main, first))
        finally:
            own.close()

    async def _run(self, main: asyncio.AbstractEventLoop, first: asyncio.Future[None]) -> None:
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                # A process that was stopped meanwhile learns of its loss before it renews.
                self._report(main, first)
                if started - self._ticked < self._times.loop_stuck_after:
                    await self._renew()
                self._report(main, first)
                pause = self._times.interval - (time.monotonic() - started)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), max(pause, 0.01))
            await self._remove()
        finally:
            self._drop_connection()
            await asyncio.sleep(0)  # the transport closes in the loop's next turn

    async def _renew(self) -> None:
        """Beats once; gives up in time to report the loss."""
        half = self._times.lost_after / 2
        left = self._renewed + self._times.lost_after - time.monotonic()
        try:
            async with asyncio.timeout(min(half, max(left, half / 5)) if left > 0 else half):
                connection = await self._connected(half)
                sent = time.monotonic()
                database_time = await write_beat(connection, self._replica_id, self._address)
        except FAILED as error:
            _log.warning("beat: not renewed: %s", type(error).__name__)
            self._drop_connection()
            return
        except Exception:  # noqa: BLE001 - a thread that ends would never say that it lost
            _log.exception("beat: not renewed by a defect")
            self._drop_connection()
            return
        # From before the beat was sent: the database's count started later than this.
        self._renewed = sent
        if self._clock is not None:
            self._clock.observe(sent, time.monotonic(), database_time)

    async def _remove(self) -> None:
        try:
            async with asyncio.timeout(2):
                await remove_replica(await self._connected(2), self._replica_id)
        except FAILED as error:
            # The lease runs out by itself.
            _log.warning("beat: not removed: %s", type(error).__name__)

    async def _connected(self, timeout: float) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, name="hma-beat", timeout=timeout)
            await forget_dead(self._connection)
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _report(self, main: asyncio.AbstractEventLoop, first: asyncio.Future[None]) -> None:
        if self._renewed == float("-inf"):
            return  # not begun
        held = self.held()
        if held and not first.done():
            self._call(main, lambda: _resolve(first))
        if held == self._lost:
            self._lost = not held
            if not held:
                _log.error("beat: the lease is lost")
            self._call(main, self._on_renewed if held else self._on_lost)

    def _call(self, main: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
        if not main.is_closed():
            main.call_soon_threadsafe(what)


def _resolve(first: asyncio.Future[None]) -> None:
    if not first.done():
        first.set_result(None)
