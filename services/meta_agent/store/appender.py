"""Group commit: one flusher per replica writes what all drivers want appended.

    drivers ──append()──▶ bounded queue ──▶ flusher: one batch in flight ──▶ PostgreSQL

The flusher takes whatever is ready, at most one append per job, writes it as one
statement and starts over. While a batch is in flight the next one gathers, so load
makes batches larger rather than slower; nothing ever waits to fill one.

What can go wrong with a batch, and who pays for it:
- a job is fenced or sealed: its append alone is told so;
- a lock was not to be had, or one append is refused: the batch had no effect, and its
  appends are written one by one;
- the database has trouble of its own, such as a full disk: no append is at fault, and
  each comes again after a pause, for as long as a database that is away is waited for;
- a defect strikes: as a refusal, and the appender lives on;
- the connection broke: the log is asked which appends it has, the others are written
  again. The event ids make sure that nothing is written twice.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import asyncpg

from hma.errors import HmaError, Unavailable
from services.meta_agent.store.append import Append, Outcome, find_written, write_batch
from services.meta_agent.store.database import (
    BUSY,
    FAILED,
    Database,
    connect,
    is_away,
    is_failing,
)
from services.meta_agent.store.notify import Notifications

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
"""Seconds before another try; twice as long each next time."""

_LONGEST_PAUSE = 1.0

# A batch takes milliseconds; every driver of the replica waits for it.
_STATEMENT_TIMEOUT = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppenderLimits:
    """Bounds of group commit.

    Attributes:
        queue: Appends that may wait; whoever comes then waits for a place.
        batch: Appends in one statement.
        batch_bytes: Event bytes in one statement, the last append aside.
        busy_tries: Tries of an append whose job's row is locked, 500 ms each.
        away: Seconds for which a database that is away, or fails, is waited for.
    """

    queue: int = 1024
    batch: int = 256
    batch_bytes: int = 4 << 20
    busy_tries: int = 4
    away: float = 10.0


class _Waiting:
    """An append and whoever waits for it; by the clock `time.monotonic`."""

    __slots__ = ("append", "done", "due", "give_up", "pause", "size", "tries")

    def __init__(self, append: Append) -> None:
        self.append = append
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.size = sum(event.ByteSize() for event in append.events)
        self.tries = 0
        self.due = 0.0
        self.give_up = math.inf
        self.pause = _FIRST_PAUSE

    def rest(self, most: float) -> bool:
        """Puts the next try off for a while; False when that has gone on for `most` seconds."""
        now = time.monotonic()
        self.give_up = min(self.give_up, now + most)
        self.due = now + self.pause
        self.pause = min(self.pause * 2, _LONGEST_PAUSE)
        return now < self.give_up

    def settle(self, outcome: Outcome | Exception) -> None:
        if self.done.done():  # its driver was cancelled meanwhile
            return
        if isinstance(outcome, int):
            self.done.set_result(outcome)
        else:
            self.done.set_exception(outcome)


class Appender:
    """The flusher of one replica. Use as an async context manager."""

    def __init__(
        self,
        database: Database,
        notifications: Notifications,
        limits: AppenderLimits | None = None,
    ) -> None:
        self._url = database.url
        self._notifications = notifications
        self._limits = limits or AppenderLimits()
        self._places = asyncio.Semaphore(self._limits.queue)
        self._queue: deque[_Waiting] = deque()
        # Their rows were locked, or the database failed; tried again one at a time.
        self._stuck: deque[_Waiting] = deque()
        self._ready = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Appender:
        self._flusher = asyncio.create_task(self._flush_forever(), name="log-appender")
        self._flusher.add_done_callback(_log_crash)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes what is queued, within the time a database may be away, and stops."""
        self._closing = True
        self._ready.set()
        if self._flusher is not None:
            await asyncio.wait([self._flusher], timeout=self._limits.away)
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
        await self._drop_connection()

    async def append(self, append: Append) -> int:
        """Queues an append and waits until it is committed. See `JobLog.append`."""
        async with self._places:
            if self._closing or self._flusher is None or self._flusher.done():
                raise Unavailable("This replica is stopping.", reason="STOPPING", retry_after=1)
            waiting = _Waiting(append)
            self._queue.append(waiting)
            self._ready.set()
            return await waiting.done

    async def _flush_forever(self) -> None:
        batch: list[_Waiting] = []
        try:
            while True:
                await self._wait()
                while (batch := self._take()) or self._is_due():
                    await self._flush(batch)
                    if self._is_due():
                        # Alone, so that a row that stays locked holds up nobody's batch.
                        batch = [self._stuck.popleft()]
                        await self._flush(batch)
                if self._closing and not self._stuck:
                    return
        finally:
            # Nobody waits for ever, whatever ended this task.
            for waiting in (*batch, *self._queue, *self._stuck):
                waiting.settle(_unknown("The appender has stopped."))
            self._queue.clear()
            self._stuck.clear()

    async def _wait(self) -> None:
        """Until there is something to write, or the rest of what is stuck is over."""
        pause = self._stuck[0].due - time.monotonic() if self._stuck else None
        try:
            async with asyncio.timeout(pause):
                await self._ready.wait()
        except TimeoutError:
            return
        self._ready.clear()

    def _is_due(self) -> bool:
        """Whether the first of what is stuck is to be tried again now."""
        return bool(self._stuck) and self._stuck[0].due <= time.monotonic()

    def _stick(self, waiting: _Waiting) -> None:
        """Keeps an append for another try, those that come first in front."""
        bisect.insort(self._stuck, waiting, key=lambda each: each.due)

    def _take(self) -> list[_Waiting]:
        """The next batch: at most one append per job, a job's appends in order."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        jobs = {each.append.job_id for each in self._stuck if not each.done.done()}
        size = 0
        while self._queue and len(batch) < self._limits.batch and size < self._limits.batch_bytes:
            waiting = self._queue.popleft()
            if waiting.done.done():
                continue
            if waiting.append.job_id in jobs:
                later.append(waiting)
                continue
            jobs.add(waiting.append.job_id)
            batch.append(waiting)
            size += waiting.size
        self._queue.extendleft(reversed(later))
        return batch

    async def _flush(self, batch: Sequence[_Waiting]) -> None:
        """Writes a batch and settles all of it, however often the connection breaks."""
        give_up = time.monotonic() + self._limits.away
        pause = _FIRST_PAUSE
        unsure = False
        while rest := [waiting for waiting in batch if not waiting.done.done()]:
            try:
                connection = await self._connected()
                if unsure:
                    await self._settle_written(connection, rest)
                    unsure, pause = False, _FIRST_PAUSE
                else:
                    await self._write(connection, rest)
                    return
            except FAILED as error:
                _log.warning("append: lost the database: %s", type(error).__name__)
                await self._drop_connection()
                unsure = True
                if time.monotonic() > give_up:
                    for waiting in rest:
                        waiting.settle(_unknown("The database is away."))
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception as error:  # noqa: BLE001 - logged; without a flusher, jobs are stuck
                _log.critical("append: a defect", exc_info=error)
                await self._drop_connection()
                for waiting in rest:
                    waiting.settle(_unknown("The appender has failed."))
                return

    async def _write(self, connection: asyncpg.Connection, batch: Sequence[_Waiting]) -> None:
        """Writes a batch in one statement; one by one when that has no effect.

        Raises:
            What `is_away`: What is not settled yet may or may not be written.
        """
        try:
            outcomes = await write_batch(connection, [waiting.append for waiting in batch])
        except Exception as error:  # what one append breaks, it alone pays for
            if is_away(error):
                raise
            if not isinstance(error, asyncpg.PostgresError | ValueError):
                # A defect, here or in the driver: who knows what state it has left.
                await self._drop_connection()
            if len(batch) == 1:
                await self._refused(connection, batch[0], error)
                return
            for waiting in batch:
                await self._write(connection, [waiting])
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._settle(waiting, outcome)

    async def _refused(
        self, connection: asyncpg.Connection, waiting: _Waiting, error: Exception
    ) -> None:
        """Decides about one append that PostgreSQL would not write."""
        if isinstance(error, asyncpg.UniqueViolationError):
            # An event id is taken. When it is this very append, from before a lost
            # reply, then it is written.
            await self._settle_written(connection, [waiting])
        elif isinstance(error, BUSY):
            waiting.tries += 1
            if waiting.tries < self._limits.busy_tries:
                self._stick(waiting)
                return
            waiting.settle(_unknown("The job's row stayed locked."))
        elif is_failing(error):
            if waiting.rest(self._limits.away):
                _log.warning("append: the database fails: SQLSTATE %s", _code(error))
                self._stick(waiting)
                return
            waiting.settle(_unknown("The database has trouble of its own."))
        if not waiting.done.done():
            _log.error("append: job %s refused: %s", waiting.append.job_id, type(error).__name__)
            refusal = HmaError("The database refused the events.", reason="APPEND_REFUSED")
            refusal.__cause__ = error
            waiting.settle(refusal)

    async def _settle_written(
        self, connection: asyncpg.Connection, batch: Sequence[_Waiting]
    ) -> None:
        """Settles the appends that the log has."""
        versions = await find_written(connection, [waiting.append for waiting in batch])
        for waiting, version in zip(batch, versions, strict=True):
            if version is not None:
                self._settle(waiting, version)

    def _settle(self, waiting: _Waiting, outcome: Outcome) -> None:
        if isinstance(outcome, int):
            self._notifications.publish(waiting.append.job_id, outcome)
        waiting.settle(outcome)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._url,
                name="hma-appender",
                timeout=_STATEMENT_TIMEOUT + 1,
                settings={"statement_timeout": f"{_STATEMENT_TIMEOUT * 1000:.0f}"},
            )
        return self._connection

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _log_crash(flusher: asyncio.Task[None]) -> None:
    if not flusher.cancelled() and (error := flusher.exception()) is not None:
        _log.critical("append: the appender has crashed", exc_info=error)


def _code(error: Exception) -> str | None:
    return error.sqlstate if isinstance(error, asyncpg.PostgresError) else None


def _unknown(message: str) -> Unavailable:
    return Unavailable(message, reason="APPEND_UNKNOWN", retry_after=1)
