"""The places of one process for attempts, and the tasks that fill them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from types import TracebackType
from typing import Protocol, Self

from prometheus_client import CollectorRegistry, Gauge

from hma import errors
from hma.v1 import attempt_pb2

_log = logging.getLogger(__name__)
_KNOWN_JOBS = 4096

HAND_OVER = 5.0
"""Seconds before a drain's end at which what still runs is stopped, to be done elsewhere."""


class Occupant(Protocol):
    """An attempt that takes a place until `run` returns."""

    ref: attempt_pb2.AttemptRef

    async def run(self) -> None:
        """Does the work."""

    def fence(self) -> None:
        """Another driver owns the job: stop."""

    def abandon(self) -> None:
        """The process ends: stop."""


class Slots:
    """Limits how many attempts run at once, and fences those of older epochs.

    A place is held until the work has really ended, also when its stream broke
    before. Used as a context manager, leaving it stops what runs and waits.

    Args:
        limit: Most attempts at once.
        retry_after: What a refused driver is told to wait, in seconds.
        grace: How long leaving waits for attempts to end, in seconds.
        registry: Where its metrics are registered, if anywhere.
    """

    def __init__(
        self,
        limit: int,
        *,
        retry_after: float = 1.0,
        grace: float = 15.0,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.limit = limit
        self.refused = 0
        self._retry_after = retry_after
        self._grace = grace
        self._running: dict[asyncio.Task[None], Occupant] = {}
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._closed = False
        if registry is not None:
            self._export(registry)

    @property
    def running(self) -> int:
        """How many places are taken."""
        return len(self._running)

    def start(self, occupant: Occupant) -> asyncio.Task[None]:
        """Gives an attempt a place and runs it there.

        Raises:
            Overloaded: All places are taken.
            Fenced: A higher epoch of the same job was seen here.
            AlreadyExists: This very attempt is running.
            Unavailable: The process is ending.
        """
        ref = occupant.ref
        self._fence(ref)
        if self._closed:
            raise errors.Unavailable("this process is ending", retry_after=self._retry_after)
        if any(other.ref == ref for other in self._running.values()):
            raise errors.AlreadyExists("this attempt is already running", reason="ATTEMPT_RUNNING")
        if len(self._running) >= self.limit:
            self.refused += 1
            raise errors.Overloaded(
                f"all {self.limit} places are taken", retry_after=self._retry_after
            )
        task = asyncio.create_task(occupant.run(), name=f"attempt {ref.job_id}/{ref.task_uid}")
        self._running[task] = occupant
        task.add_done_callback(self._ended)
        return task

    async def hand_over(self, grace: float) -> None:
        """Lets attempts end; stops the rest in time for their results to go home in-band.

        Args:
            grace: Seconds until the process's streams are cut.
        """
        margin = min(HAND_OVER, grace / 2)
        end = asyncio.get_running_loop().time() + grace
        # While load balancers take notice, new attempts may still come.
        while self._running and (left := end - margin - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left)
        for occupant in list(self._running.values()):
            occupant.abandon()
        if self._running:
            await asyncio.wait(self._running, timeout=margin)

    def _export(self, registry: CollectorRegistry) -> None:
        running = Gauge("hma_attempts_running", "Attempts that run", registry=registry)
        running.set_function(lambda: self.running)
        limit = Gauge("hma_attempts_limit", "Most attempts at once", registry=registry)
        limit.set(self.limit)
        refused = Gauge(
            "hma_attempts_refused", "Attempts refused since the start: full", registry=registry
        )
        refused.set_function(lambda: self.refused)

    def _fence(self, ref: attempt_pb2.AttemptRef) -> None:
        seen = self._epochs.pop(ref.job_id, ref.epoch)
        self._epochs[ref.job_id] = max(seen, ref.epoch)
        while len(self._epochs) > _KNOWN_JOBS:
            self._epochs.popitem(last=False)
        if ref.epoch < seen:
            raise errors.Fenced("another driver owns the job")
        for other in list(self._running.values()):
            if other.ref.job_id == ref.job_id and other.ref.epoch < ref.epoch:
                other.fence()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an attempt ended with a defect", exc_info=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        for occupant in list(self._running.values()):
            occupant.abandon()
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=self._grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
