"""Progress of jobs that another replica drives, for those who watch them here.

Progress is volatile: it is not in the log, it is where the driver is. So a replica
whose clients watch such a job asks the driver's replica for it, once for all of them
(docs/adr/0014).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import grpc

from hma.errors import Unavailable
from hma.rpc.channel import open_channel
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.store.notify import Notifications
from services.meta_agent.store.replicas import DriverOf

_log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds before the driver is looked for again: doubled each time, jittered."""

SILENCE = 2.0
"""Seconds without a snapshot after which a log that has grown is a reason to ask who
drives: a driver that was stopped does not end its streams."""


@dataclass(slots=True)
class _Relay:
    task: asyncio.Task[None]
    watchers: int = 0


@dataclass(slots=True)
class _Peer:
    channel: grpc.aio.Channel
    relays: int = 0


@dataclass(slots=True)
class _Pause:
    """How long to wait before the next try."""

    dice: random.Random = field(default_factory=random.Random)
    seconds: float = FIRST_PAUSE

    def reset(self) -> None:
        self.seconds = FIRST_PAUSE

    def next(self) -> float:
        seconds = self.seconds
        self.seconds = min(2 * seconds, LONGEST_PAUSE)
        return seconds * self.dice.uniform(0.5, 1.0)


class Relays:
    """One relay per job that is watched here, however many watch it.

    A relay ends with its last watcher and with its job; there are at most as many as
    there are watchers. An async context manager.
    """

    def __init__(
        self,
        replica_id: str,
        driver_of: Callable[[str], Awaitable[DriverOf | None]],
        notifications: Notifications,
        board: ProgressBoard,
        connect: Callable[[str], grpc.aio.Channel] = open_channel,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            replica_id: This replica.
            driver_of: Says who drives a job.
            notifications: Tells of events, a new driver's among them.
            board: Where snapshots go.
            connect: Opens a channel to another replica.
        """
        self._replica_id = replica_id
        self._driver_of = driver_of
        self._notifications = notifications
        self._board = board
        self._connect = connect
        self._relays: dict[str, _Relay] = {}
        self._peers: dict[str, _Peer] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relays:
        return self

    async def __aexit__(self, *_: object) -> None:
        for job_id in list(self._relays):
            self._end(job_id)
        while self._ending:
            await asyncio.wait(self._ending)

    def __len__(self) -> int:
        return len(self._relays)

    @contextlib.contextmanager
    def joined(self, job_id: str) -> Iterator[None]:
        """Has the job's progress on the board while the context is open."""
        relay = self._relays.get(job_id)
        if relay is None:
            task = asyncio.create_task(self._run(job_id), name=f"relay {job_id}")
            relay = self._relays[job_id] = _Relay(task)
        relay.watchers += 1
        try:
            yield
        finally:
            relay.watchers -= 1
            if not relay.watchers and self._relays.get(job_id) is relay:
                self._end(job_id)

    def _end(self, job_id: str) -> None:
        task = self._relays.pop(job_id).task
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _run(self, job_id: str) -> None:
        pause = _Pause()
        with self._board.holding(job_id):
            while True:
                await self._board.while_driven(job_id)
                version = self._notifications.known(job_id)
                try:
                    driver = await self._driver_of(job_id)
                except Unavailable:
                    driver = DriverOf("", "", sealed=False, version=version)
                if driver is None or driver.sealed:
                    return
                if driver.replica_id not in ("", self._replica_id):
                    await self._relay(job_id, driver, pause)
                    self._board.forget_relayed(job_id)
                # A new driver's claim is an event: it ends the pause.
                await self._notifications.wait(
                    job_id, max(driver.version, self._notifications.known(job_id)), pause.next()
                )

    async def _relay(self, job_id: str, driver: DriverOf, pause: _Pause) -> None:
        """Relays until the stream ends or somebody else seems to drive."""
        with self._connected(driver.address) as channel:
            stub = meta_agent_pb2_grpc.InternalServiceStub(channel)
            call = stub.WatchProgress(
                meta_agent_pb2.WatchProgressRequest(job_id=job_id), wait_for_ready=False
            )
            reading: asyncio.Task[object] | None = None
            try:
                while True:
                    reading = asyncio.ensure_future(call.read())
                    if not await self._answers(reading, job_id, driver):
                        return
                    response = reading.result()
                    if not isinstance(response, meta_agent_pb2.WatchProgressResponse):
                        return  # the end of the stream
                    pause.reset()
                    self._board.relay(response.progress)
            except grpc.RpcError as error:
                _log.info("cannot relay progress: %s", _code_of(error))
            finally:
                call.cancel()
                if reading is not None:
                    await asyncio.gather(reading, return_exceptions=True)

    async def _answers(self, reading: asyncio.Task[object], job_id: str, driver: DriverOf) -> bool:
        """Waits for a snapshot; False when another replica drives instead."""
        version = driver.version
        while True:
            done, _ = await asyncio.wait({reading}, timeout=SILENCE)
            if done:
                return True
            if self._notifications.known(job_id) <= version:
                continue
            version = self._notifications.known(job_id)
            try:
                latest = await self._driver_of(job_id)
            except Unavailable:
                continue
            if latest is None or latest.sealed or latest.replica_id != driver.replica_id:
                return False

    @contextlib.contextmanager
    def _connected(self, address: str) -> Iterator[grpc.aio.Channel]:
        """A channel, one for all relays from that replica."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(self._connect(address))
        peer.relays += 1
        try:
            yield peer.channel
        finally:
            peer.relays -= 1
            if not peer.relays and self._peers.get(address) is peer:
                del self._peers[address]
                closing = asyncio.create_task(peer.channel.close(), name="close relay channel")
                self._ending.add(closing)
                closing.add_done_callback(self._ending.discard)


def _code_of(error: grpc.RpcError) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
