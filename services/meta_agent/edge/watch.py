"""Following a job: its log from any event on, then live, until it has ended.

Everything is pulled: a watcher reads the next lot when its client has taken the last
one. A slow client costs one lot of events and never slows the job. Events come from the
log, on any replica; progress from the replica that drives the job, through a relay when
that is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any

from hma.errors import Overloaded, Unavailable
from hma.v1 import meta_agent_pb2
from services.meta_agent.driving.progress import ProgressBoard, Snapshot
from services.meta_agent.edge.relay import Relays
from services.meta_agent.store.jobs import JobRow, Jobs
from services.meta_agent.store.log import JobLog
from services.meta_agent.store.notify import Notifications

LOT = 100
LOT_BYTES = 1 << 20
"""Events and their bytes in the memory of one watcher at most; one event may be larger."""

PROGRESS_INTERVAL = 0.25
"""Seconds between two snapshots to one watcher."""

_LOOK_AGAIN = 10.0
_SETTLE = 0.05


class Watches:
    """Follows jobs for clients."""

    def __init__(
        self,
        log: JobLog,
        jobs: Jobs,
        notifications: Notifications,
        board: ProgressBoard,
        relays: Relays,
        *,
        most: int = 1_000,
        stall: float = 300.0,
    ) -> None:
        """Nobody watches yet.

        Args:
            log: Where the events are.
            jobs: Where the rows are.
            notifications: Tells of events.
            board: Where the snapshots are.
            relays: Has those of other replicas put there.
            most: Watchers at once.
            stall: Seconds that a client may take for what it is sent.
        """
        self.stall = stall
        self._relays = relays
        self._most = most
        self._watchers = 0
        self._log = log
        self._jobs = jobs
        self._notifications = notifications
        self._board = board
        self._draining = asyncio.Event()

    def __len__(self) -> int:
        """How many watch here now."""
        return self._watchers

    def drain(self) -> None:
        """Ends all watching: clients resume at another replica."""
        self._draining.set()
        self._board.end_following()

    async def follow(
        self, job_id: str, after: int, *, events_only: bool = False
    ) -> AsyncIterator[meta_agent_pb2.WatchJobResponse]:
        """Yields events after `after` and, once they are caught up, snapshots.

        Ends after the job's last event; at once when the caller has it already.

        Args:
            job_id: A job that exists.
            after: Sequence of the last event that the client has.
            events_only: Leave the snapshots out.

        Raises:
            NotFound: The job was deleted meanwhile.
            Overloaded: Too many watch here already.
            Unavailable: The database cannot be reached, or this replica stops; resume
                from the last sequence.
        """
        with self._place(), contextlib.ExitStack() as stack:
            if not events_only:
                stack.enter_context(self._relays.joined(job_id))
            updates = self._follow(job_id, after, _Pace(wanted=not events_only))
            async with contextlib.aclosing(updates):
                async for update in updates:
                    yield update

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._watchers >= self._most:
            raise Overloaded(
                f"{self._most:,} clients watch jobs here already; try again.",
                reason="TOO_MANY_WATCHERS",
                retry_after=1,
            )
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def _follow(
        self, job_id: str, after: int, pace: _Pace
    ) -> AsyncGenerator[meta_agent_pb2.WatchJobResponse, None]:
        while True:
            events, more = await self._log.read_lot(job_id, after, LOT, LOT_BYTES)
            for event in events:
                yield meta_agent_pb2.WatchJobResponse(event=event)
                after = event.sequence
                if event.HasField("job_finished"):
                    return
            if self._draining.is_set():
                raise Unavailable(
                    "This replica stops; watch again from the last sequence.",
                    reason="REPLICA_STOPS",
                    retry_after=0.1,
                )
            if not events:
                row = await self._jobs.get(job_id)
                if row.sealed and row.version <= after:
                    return
            if not more:
                while (snapshot := await self._next_snapshot(job_id, after, pace)) is not None:
                    yield meta_agent_pb2.WatchJobResponse(progress=snapshot.progress)

    async def wait_ended(self, job_id: str, timeout: float) -> JobRow:
        """Waits until a job has ended.

        Args:
            job_id: A job that exists.
            timeout: Seconds to wait at most; 0 looks once.

        Returns:
            Its row, sealed unless the time was up.

        Raises:
            NotFound: The job was deleted meanwhile.
            Unavailable: The database cannot be reached.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            row = await self._jobs.get(job_id)
            left = end - loop.time()
            if row.sealed or left <= 0 or self._draining.is_set():
                return row
            await self._wait_any(
                [self._notifications.wait(job_id, row.version, _LOOK_AGAIN)],
                min(left, _LOOK_AGAIN),
            )
            # Events come in bursts: one look at the row for each burst.
            await asyncio.sleep(min(max(end - loop.time(), 0), _SETTLE))

    async def _next_snapshot(self, job_id: str, after: int, pace: _Pace) -> Snapshot | None:
        """The next snapshot when it is due; None when it is time to read events."""
        pause = pace.pause() if pace.wanted else _LOOK_AGAIN
        # Events are not held back by the pause between two snapshots.
        event = self._notifications.wait(job_id, after, _LOOK_AGAIN)
        if await self._wait_any([event], pause) or not pace.wanted:
            return None
        await self._wait_any(
            [
                self._notifications.wait(job_id, after, _LOOK_AGAIN),
                self._board.wait_newer(job_id, pace.seen, _LOOK_AGAIN),
            ],
            _LOOK_AGAIN,
        )
        latest = self._board.latest(job_id)
        if self._draining.is_set() or latest is None or latest.revision <= pace.seen:
            return None
        pace.sent(latest)
        return latest

    async def _wait_any(self, waits: Sequence[Coroutine[Any, Any, object]], timeout: float) -> bool:
        """Whether one of them came true, or this replica drains, within `timeout` seconds."""
        tasks = [asyncio.ensure_future(wait) for wait in (*waits, self._draining.wait())]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            return any(task.result() for task in done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Pace:
    """Keeps the snapshots to one watcher apart."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self.seen = 0
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock()

    def pause(self) -> float:
        """Seconds until the next one may be sent."""
        return max(self._due - self._clock(), 0)

    def sent(self, snapshot: Snapshot) -> None:
        self.seen = snapshot.revision
        self._due = self._clock() + PROGRESS_INTERVAL
