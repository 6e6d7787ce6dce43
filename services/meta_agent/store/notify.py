"""Waking whoever waits for news of a job, on this replica and on all others.

NOTIFY is sent after the commit, as a statement of its own: inside the append it takes
a lock that all commits of the database queue for. It is a hint only. What it misses
while disconnected, a slow poll of the versions finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from types import TracebackType

import asyncpg

from services.meta_agent.store.database import FAILED, Database, connect

_log = logging.getLogger(__name__)

_JOBS = "hma_job"
_CLAIMABLE = "hma_claimable"
_DELETED = "hma_deleted"
_KEYS = "hma_key"
_PAYLOAD_BYTES = 7_900
_REMEMBERED = 10_000
_NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"
_VERSIONS = "SELECT id, version FROM job WHERE id = ANY($1::text[])"


class Notifications:
    """Hints that a log has grown or that a job is to be had. An async context manager.

    It owns one direct connection (LISTEN does not work through a transaction pooler),
    which also sends what this replica publishes, without waiting for the disk.
    """

    def __init__(
        self, database: Database, *, poll_interval: float = 1.0, reconnect_pause: float = 0.2
    ) -> None:
        """Nothing runs before the context is entered.

        Args:
            database: Where the jobs are.
            poll_interval: Seconds between two looks at the versions waited for: how
                late a lost notification may be.
            reconnect_pause: Seconds between two tries to connect.
        """
        self._database = database
        self._poll_interval = poll_interval
        self._reconnect_pause = reconnect_pause
        # The highest sequence known, the least recently heard of first, and when that was.
        self._known: OrderedDict[str, int] = OrderedDict()
        self._heard_at: dict[str, float] = {}
        self._on_deleted: list[Callable[[str], None]] = []
        self._on_key: list[Callable[[str], None]] = []
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._claim_waiters: set[asyncio.Future[None]] = set()
        self._claimable = 0
        self._unsent: dict[str, int] = {}
        self._unsent_claimable = False
        self._unsent_deleted: set[str] = set()
        self._unsent_keys: set[str] = set()
        self._send = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Notifications:
        self._tasks = [
            asyncio.create_task(self._stay_connected(), name="notifications"),
            asyncio.create_task(self._poll_forever(), name="notifications-poll"),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self, job_id: str, sequence: int) -> None:
        """Says that a job's log has reached `sequence`. Wakes this replica at once."""
        self._heard(job_id, sequence)
        if len(self._unsent) >= _REMEMBERED:
            self._unsent.clear()  # nobody listens for long: the polls will find it
        self._unsent[job_id] = max(sequence, self._unsent.get(job_id, 0))
        self._send.set()

    def known(self, job_id: str) -> int:
        """The highest sequence of a job that was heard of here; 0 for none."""
        return self._known.get(job_id, 0)

    def publish_claimable(self) -> None:
        """Says that there is a job without a driver."""
        self._heard_claimable()
        self._unsent_claimable = True
        self._send.set()

    def on_deleted(self, call: Callable[[str], None]) -> None:
        """Has `call` told the id of each job that is deleted, on whichever replica.

        A hint, too: one that comes while the connection is away is missed.
        """
        self._on_deleted.append(call)

    def publish_deleted(self, job_id: str) -> None:
        """Says that a job was deleted. Tells this replica at once."""
        self._heard_deleted(job_id)
        if len(self._unsent_deleted) < _REMEMBERED:
            self._unsent_deleted.add(job_id)
        self._send.set()

    def on_key(self, call: Callable[[str], None]) -> None:
        """Has `call` told the id of each API key that is changed, on whichever replica.

        A hint, too: one that comes while the connection is away is missed.
        """
        self._on_key.append(call)

    def publish_key(self, key_id: str) -> None:
        """Says that an API key was changed. Tells this replica at once."""
        self._heard_key(key_id)
        if len(self._unsent_keys) < _REMEMBERED:
            self._unsent_keys.add(key_id)
        self._send.set()

    def forget_idle(self, idle: float) -> int:
        """Drops what is known of jobs that were not heard of for `idle` seconds.

        Returns:
            How many were dropped.
        """
        before = time.monotonic() - idle
        dropped = 0
        while self._known:
            job_id = next(iter(self._known))
            if self._heard_at[job_id] > before:
                break
            self._forget(job_id)
            dropped += 1
        return dropped

    async def wait(self, job_id: str, after_sequence: int, timeout: float) -> bool:
        """Waits until a job's log is past `after_sequence`.

        Args:
            job_id: The job.
            after_sequence: What the caller has read.
            timeout: Seconds.

        Returns:
            Whether there is something to read; False when the time is up.
        """
        if self._known.get(job_id, 0) > after_sequence:
            return True
        waiters = self._waiters.setdefault(job_id, set())
        try:
            async with asyncio.timeout(timeout):
                while self._known.get(job_id, 0) <= after_sequence:
                    await _sleep_in(waiters)
        except TimeoutError:
            return False
        finally:
            if not waiters and self._waiters.get(job_id) is waiters:
                del self._waiters[job_id]
        return True

    def claimable_mark(self) -> int:
        """Counts the hints about jobs to be had; give it to `wait_claimable`."""
        return self._claimable

    async def wait_claimable(self, mark: int, timeout: float) -> bool:
        """Waits until a job is to be had.

        Args:
            mark: `claimable_mark()` from before the claim that found nothing.
            timeout: Seconds; claim then anyway: a driver may have died quietly.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._claimable == mark:
                    await _sleep_in(self._claim_waiters)
        except TimeoutError:
            return False
        return True

    def waiting(self) -> int:
        """How many jobs are waited for, for metrics."""
        return len(self._waiters)

    def _heard(self, job_id: str, sequence: int) -> None:
        if sequence <= self._known.get(job_id, 0):
            return
        self._known[job_id] = sequence
        self._known.move_to_end(job_id)
        self._heard_at[job_id] = time.monotonic()
        while len(self._known) > _REMEMBERED:
            self._forget(next(iter(self._known)))
        _wake(self._waiters.get(job_id, set()))

    def _forget(self, job_id: str) -> None:
        self._known.pop(job_id, None)
        self._heard_at.pop(job_id, None)

    def _heard_deleted(self, job_id: str) -> None:
        self._forget(job_id)
        for call in self._on_deleted:
            call(job_id)

    def _heard_key(self, key_id: str) -> None:
        for call in self._on_key:
            call(key_id)

    def _heard_claimable(self) -> None:
        self._claimable += 1
        _wake(self._claim_waiters)

    def _on_notification(
        self, _connection: object, _pid: int, channel: str, payload: object
    ) -> None:
        if channel == _CLAIMABLE:
            self._heard_claimable()
            return
        if channel == _DELETED:
            for job_id in str(payload).split():
                self._heard_deleted(job_id)
            return
        if channel == _KEYS:
            for key_id in str(payload).split():
                self._heard_key(key_id)
            return
        for entry in str(payload).split():
            job_id, _, sequence = entry.partition(":")
            if sequence.isdecimal():
                self._heard(job_id, int(sequence))

    async def _stay_connected(self) -> None:
        while True:
            try:
                async with self._listening() as connection:
                    # Whatever was missed while away is found now, not a poll later.
                    await self._look()
                    await self._send_forever(connection)
            except FAILED as error:
                _log.warning("notifications: lost the database: %s", type(error).__name__)
            except Exception:  # noqa: BLE001 - nobody would start it again
                _log.exception("notifications: a defect; connecting again")
            await asyncio.sleep(self._reconnect_pause)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await connect(
            self._database.url,
            name="hma-notifications",
            # A NOTIFY commits under a database-wide lock: it must not wait for the disk.
            settings={"synchronous_commit": "off"},
        )
        try:
            connection.add_termination_listener(lambda _: self._send.set())
            await connection.add_listener(_JOBS, self._on_notification)
            await connection.add_listener(_CLAIMABLE, self._on_notification)
            await connection.add_listener(_DELETED, self._on_notification)
            await connection.add_listener(_KEYS, self._on_notification)
            yield connection
        finally:
            connection.terminate()

    async def _send_forever(self, connection: asyncpg.Connection) -> None:
        while not connection.is_closed():
            await self._send.wait()
            self._send.clear()
            unsent, self._unsent = self._unsent, {}
            claimable, self._unsent_claimable = self._unsent_claimable, False
            deleted, self._unsent_deleted = self._unsent_deleted, set()
            keys, self._unsent_keys = self._unsent_keys, set()
            if unsent:
                entries = [f"{job_id}:{sequence}" for job_id, sequence in unsent.items()]
                await connection.execute(_NOTIFY, _JOBS, _payloads(entries))
            if deleted:
                await connection.execute(_NOTIFY, _DELETED, _payloads(sorted(deleted)))
            if keys:
                await connection.execute(_NOTIFY, _KEYS, _payloads(sorted(keys)))
            if claimable:
                await connection.execute(_NOTIFY, _CLAIMABLE, [""])

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval)
            if not self._waiters:
                continue
            try:
                await self._look()
            except FAILED as error:
                _log.warning("notifications: poll failed: %s", type(error).__name__)
            except Exception:  # noqa: BLE001 - nobody would start it again
                _log.exception("notifications: poll failed by a defect")

    async def _look(self) -> None:
        for row in await self._database.fetch(_VERSIONS, list(self._waiters)):
            self._heard(row["id"], row["version"])


async def _sleep_in(waiters: set[asyncio.Future[None]]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.add(future)
    try:
        await future
    finally:
        waiters.discard(future)


def _wake(waiters: set[asyncio.Future[None]]) -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)


def _payloads(entries: list[str]) -> list[str]:
    """Packs entries into as few notifications as fit."""
    packed: list[str] = []
    for entry in entries:
        if packed and len(packed[-1]) + 1 + len(entry) <= _PAYLOAD_BYTES:
            packed[-1] += " " + entry
        else:
            packed.append(entry)
    return packed
