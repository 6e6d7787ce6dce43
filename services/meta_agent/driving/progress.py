"""The latest progress of the jobs that this replica drives or relays, for their watchers.

Only the latest snapshot is kept: a slow watcher misses some and is never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from hma.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Progress with a number that rises with every publication on this replica."""

    revision: int
    progress: job_pb2.JobProgress


@dataclass(slots=True)
class _Slot:
    latest: Snapshot | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    driven: bool = False

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class ProgressBoard:
    """Latest snapshots by job. Its size is bounded by the jobs driven and watched here."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._revisions = itertools.count(1)
        self._closed = False

    def publish(self, progress: job_pb2.JobProgress) -> None:
        """Replaces a job's snapshot and wakes its watchers; the caller keeps no hold on it."""
        slot = self._slots.setdefault(progress.job_id, _Slot())
        slot.driven = True
        self._replace(slot, progress)

    def relay(self, progress: job_pb2.JobProgress) -> None:
        """As `publish`, for a snapshot of another replica's. Dropped unless the job is held."""
        slot = self._slots.get(progress.job_id)
        if slot is not None and not slot.driven:
            self._replace(slot, progress)

    def forget(self, job_id: str) -> None:
        """Drops a job that this replica no longer drives."""
        slot = self._slots.get(job_id)
        if slot is not None:
            slot.driven = False
            self._clear(job_id, slot)

    def forget_relayed(self, job_id: str) -> None:
        """Drops what was relayed: whoever drove the job may not drive it any more."""
        slot = self._slots.get(job_id)
        if slot is not None and not slot.driven:
            self._clear(job_id, slot)

    def end_following(self) -> None:
        """Ends all `follow_driven`, now and later: this replica stops."""
        self._closed = True
        for slot in self._slots.values():
            slot.wake()

    @contextlib.contextmanager
    def holding(self, job_id: str) -> Iterator[None]:
        """Keeps a job's place, and what is relayed into it, for those who watch."""
        slot = self._join(job_id)
        try:
            yield
        finally:
            self._leave(job_id, slot)

    async def while_driven(self, job_id: str) -> None:
        """Returns when the job's snapshots are not (any more) made here."""
        with self.holding(job_id):
            slot = self._slots[job_id]
            while slot.driven:
                await slot.changed.wait()

    async def follow_driven(
        self, job_id: str, patience: float
    ) -> AsyncGenerator[job_pb2.JobProgress, None]:
        """Yields snapshots, always the latest, while this replica drives the job.

        Args:
            job_id: The job.
            patience: Seconds to wait for the first: a driver that has just begun has
                shown nothing yet.
        """
        slot = self._join(job_id)
        seen = 0
        try:
            if not await self._driven_within(slot, patience):
                return
            while slot.driven and not self._closed:
                if slot.latest is not None and slot.latest.revision > seen:
                    seen = slot.latest.revision
                    yield slot.latest.progress
                else:
                    await slot.changed.wait()
        finally:
            self._leave(job_id, slot)

    async def _driven_within(self, slot: _Slot, patience: float) -> bool:
        try:
            async with asyncio.timeout(patience):
                while not slot.driven and not self._closed:
                    await slot.changed.wait()
        except TimeoutError:
            return False
        return True

    def _replace(self, slot: _Slot, progress: job_pb2.JobProgress) -> None:
        slot.latest = Snapshot(next(self._revisions), progress)
        slot.wake()

    def _clear(self, job_id: str, slot: _Slot) -> None:
        slot.latest = None
        slot.wake()
        if not slot.watchers:
            del self._slots[job_id]

    def _join(self, job_id: str) -> _Slot:
        slot = self._slots.setdefault(job_id, _Slot())
        slot.watchers += 1
        return slot

    def _leave(self, job_id: str, slot: _Slot) -> None:
        slot.watchers -= 1
        if not slot.watchers and not slot.driven:
            self._slots.pop(job_id, None)

    def latest(self, job_id: str) -> Snapshot | None:
        """A job's snapshot; None when this replica neither drives nor relays it."""
        slot = self._slots.get(job_id)
        return slot.latest if slot is not None else None

    async def wait_newer(self, job_id: str, seen: int, timeout: float) -> Snapshot | None:
        """Waits for a snapshot.

        Args:
            job_id: The job.
            seen: Revision of the snapshot that the caller has; 0 for none.
            timeout: Seconds to wait at most.

        Returns:
            The latest one, or None when there was no newer one in time.
        """
        slot = self._join(job_id)
        try:
            async with asyncio.timeout(timeout):
                while slot.latest is None or slot.latest.revision <= seen:
                    await slot.changed.wait()
            return slot.latest
        except TimeoutError:
            return None
        finally:
            self._leave(job_id, slot)

    def __len__(self) -> int:
        return len(self._slots)
