"""API keys in memory: seconds old at most, bounded, and one question at a time.

A change is told to all replicas after its commit (NOTIFY) and drops the key here at once.
Should that hint be lost, no entry counts for more than `LIFETIME` seconds after the question
that it answers was asked, so a revoked key ends everywhere by then. Nothing older is taken
when the database is away: no call could be served without it anyway, and a revocation that
this replica cannot see must not be outlived.

However many keys are asked for, known or not, there is one statement at a time: keys that
come while it runs go into the next. A flood of wrong keys costs a few statements a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from hma.errors import Unavailable
from services.meta_agent.store.keys import KeyRow

LIFETIME = 2.0
"""Seconds for which an entry counts."""

RENEWED = 1.0
"""An entry older than this that is used is read again meanwhile, so that nobody waits."""

Read = Callable[[Sequence[str]], Awaitable[Mapping[str, KeyRow]]]

_log = logging.getLogger(__name__)

_MOST = 10_000
_MOST_WAITING = 1_000
_BATCH = 200


@dataclass(frozen=True, slots=True)
class _Entry:
    row: KeyRow | None
    asked_at: float


class KeyCache:
    """Finds keys by name. An async context manager; it owns the task that reads."""

    def __init__(
        self,
        read: Read,
        *,
        most: int = _MOST,
        most_waiting: int = _MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet.

        Args:
            read: The keys with some names, as far as there are any; raises Unavailable.
            most: Entries kept: so many of keys, and so many of names without a key.
            most_waiting: Names that may wait to be read; more are refused.
            clock: Seconds, monotonic.
        """
        self._read = read
        self._most = most
        self._most_waiting = most_waiting
        self._clock = clock
        # Apart, so that a flood of names without a key does not drive keys out.
        self._found: OrderedDict[str, _Entry] = OrderedDict()
        self._missing: OrderedDict[str, _Entry] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[KeyRow | None]] = {}
        self._reading: dict[str, asyncio.Future[KeyRow | None]] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> KeyCache:
        self._task = asyncio.create_task(self._read_forever(), name="key-cache")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for future in (*self._waiting.values(), *self._reading.values()):
            future.cancel()

    async def find(self, key_id: str) -> KeyRow | None:
        """The key with a name; None when there is none.

        Raises:
            Unavailable: The database cannot be reached, or too many names wait.
        """
        entry = self._entry(key_id)
        age = self._clock() - entry.asked_at if entry is not None else LIFETIME
        if entry is None or age >= LIFETIME:
            return await asyncio.shield(self._ask(key_id))
        if age >= RENEWED and len(self._waiting) < self._most_waiting:
            self._ask(key_id)
        return entry.row

    def forget(self, key_id: str) -> None:
        """Drops what is known of a key: it was changed."""
        self._found.pop(key_id, None)
        self._missing.pop(key_id, None)
        if key_id in self._reading:
            # The answer that is on its way may be from before the change.
            self._changed.add(key_id)

    def _entry(self, key_id: str) -> _Entry | None:
        for entries in (self._found, self._missing):
            if key_id in entries:
                entries.move_to_end(key_id)
                return entries[key_id]
        return None

    def _ask(self, key_id: str) -> asyncio.Future[KeyRow | None]:
        """The answer to come: of the statement that runs, if the key is in it, or the next."""
        if key_id in self._reading and key_id not in self._changed:
            return self._reading[key_id]
        if key_id in self._waiting:
            return self._waiting[key_id]
        if len(self._waiting) >= self._most_waiting:
            raise Unavailable(
                "Too many keys are being looked up; try again.",
                reason="TOO_MANY_KEYS",
                retry_after=1,
            )
        future = self._waiting[key_id] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting for an answer that only renews an entry.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._wake.set()
        return future

    async def _read_forever(self) -> None:
        while True:
            await self._wake.wait()
            batch = list(self._waiting)[:_BATCH]
            self._reading = {key_id: self._waiting.pop(key_id) for key_id in batch}
            if not self._waiting:
                self._wake.clear()
            await self._read_batch(batch)

    async def _read_batch(self, batch: list[str]) -> None:
        asked_at = self._clock()
        try:
            rows = await self._read(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next ones are to be read
            away = error if isinstance(error, Unavailable) else _unexpected(error)
            for future in self._reading.values():
                _settle(future, away)
        else:
            for key_id, future in self._reading.items():
                if key_id in self._changed:
                    self._again(key_id, future)
                    continue
                row = rows.get(key_id)
                self._keep(key_id, _Entry(row, asked_at))
                _settle(future, row)
        self._reading = {}
        self._changed.clear()

    def _again(self, key_id: str, future: asyncio.Future[KeyRow | None]) -> None:
        """Reads a key once more that was changed while it was read."""
        if key_id in self._waiting:
            later = self._waiting[key_id]
            later.add_done_callback(
                lambda done: None if done.cancelled() else _settle(future, _outcome(done))
            )
        else:
            self._waiting[key_id] = future
        self._wake.set()

    def _keep(self, key_id: str, entry: _Entry) -> None:
        into, out = (
            (self._missing, self._found) if entry.row is None else (self._found, self._missing)
        )
        out.pop(key_id, None)
        into[key_id] = entry
        into.move_to_end(key_id)
        while len(into) > self._most:
            into.popitem(last=False)


def _unexpected(error: Exception) -> Unavailable:
    _log.error("keys could not be read", exc_info=error)
    return Unavailable("Keys cannot be looked up now; try again.", retry_after=1)


def _outcome(done: asyncio.Future[KeyRow | None]) -> KeyRow | BaseException | None:
    return done.exception() or done.result()


def _settle(future: asyncio.Future[KeyRow | None], outcome: KeyRow | BaseException | None) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
