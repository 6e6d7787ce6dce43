"""Keeps out what does not fit: jobs that would only wait, and bytes that nobody has room for.

Refused work costs next to nothing: no document is read, nothing is written, and the
refusal says when to come back. Bounds are per database (queued jobs) and per replica
(bytes in flight).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from hma.errors import Overloaded
from services.meta_agent.store.jobs import Jobs

COUNTED_FOR = 0.5
"""Seconds for which a count of the queue is good. What this replica has let in since
then is added; what others have is not: so much can the bound be exceeded."""

QUEUE_RETRY = 5.0
BYTES_RETRY = 1.0
"""Seconds after which a refused caller should come back."""


@dataclass(slots=True)
class _Count:
    queued: Counter[str] = field(default_factory=Counter)
    at: float = float("-inf")


class Door:
    """What CreateJob passes first."""

    def __init__(self, jobs: Jobs, *, max_queued: int, max_bytes: int) -> None:
        """Lets everything in that fits.

        Args:
            jobs: Counts who waits.
            max_queued: Accepted jobs without a driver at most, over all replicas. Beyond
                it, and up to twice as many, only tenants with less than an equal share of
                it are let in: the flood of one must not lock the others out.
            max_bytes: Bytes of requests that this replica works on at once. One request
                may be larger than that when nothing else is in flight.
        """
        self._jobs = jobs
        self._max_queued = max_queued
        self._max_bytes = max_bytes
        self._bytes = 0
        self._count = _Count()
        self._counting = asyncio.Lock()

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Holds room for a request while it is worked on.

        Args:
            size: Of the request, serialised, in bytes.

        Raises:
            Overloaded: There is no room for it now.
        """
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded(
                "Too many bytes of jobs are being accepted; try again.",
                reason="TOO_MANY_BYTES",
                retry_after=BYTES_RETRY,
            )
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    async def check_queue(self, tenant: str, request_id: str) -> None:
        """Refuses a new job while too many wait. A repeated request makes none: it passes.

        Args:
            tenant: Whose job it would be.
            request_id: Of the request; empty when it has none.

        Raises:
            Overloaded: Too many jobs wait for a driver.
            Unavailable: The database cannot be reached.
        """
        queued = await self._queued()
        total = queued.total()
        if total < self._max_queued:
            return
        share = self._max_queued / len({*queued, tenant})
        if queued[tenant] + 1 <= share and total < 2 * self._max_queued:
            return
        if request_id and await self._jobs.knows(tenant, request_id):
            return
        raise Overloaded(
            f"{total:,} accepted jobs wait for a driver already; try again.",
            reason="QUEUE_FULL",
            retry_after=QUEUE_RETRY,
        )

    def entered(self, tenant: str, *, made: bool) -> None:
        """Notes that a tenant's job was accepted; not `made`: it was there before."""
        self._count.queued[tenant] += made

    async def _queued(self) -> Counter[str]:
        clock = asyncio.get_running_loop().time
        if clock() - self._count.at < COUNTED_FOR:
            return self._count.queued
        async with self._counting:
            if clock() - self._count.at >= COUNTED_FOR:
                at = clock()
                self._count = _Count(Counter(await self._jobs.queued(2 * self._max_queued)), at)
        return self._count.queued
