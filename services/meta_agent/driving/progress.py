"""The latest progress of the jobs that this replica drives, for those who watch them.

Only the latest snapshot is kept: a slow watcher misses some and is never waited for.
"""

from __future__ import annotations

import asyncio
import itertools
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


class ProgressBoard:
    """Latest snapshots by job. Its size is bounded by the jobs driven and watched here."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._revisions = itertools.count(1)

    def publish(self, progress: job_pb2.JobProgress) -> None:
        """Replaces a job's snapshot and wakes its watchers; the caller keeps no hold on it."""
        slot = self._slots.setdefault(progress.job_id, _Slot())
        slot.latest = Snapshot(next(self._revisions), progress)
        slot.changed.set()
        slot.changed = asyncio.Event()

    def forget(self, job_id: str) -> None:
        """Drops a job that this replica no longer drives."""
        slot = self._slots.get(job_id)
        if slot is None:
            return
        slot.latest = None
        if not slot.watchers:
            del self._slots[job_id]

    def latest(self, job_id: str) -> Snapshot | None:
        """A job's snapshot; None when this replica does not drive it."""
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
        slot = self._slots.setdefault(job_id, _Slot())
        slot.watchers += 1
        try:
            async with asyncio.timeout(timeout):
                while slot.latest is None or slot.latest.revision <= seen:
                    await slot.changed.wait()
            return slot.latest
        except TimeoutError:
            return None
        finally:
            slot.watchers -= 1
            if not slot.watchers and slot.latest is None:
                self._slots.pop(job_id, None)

    def __len__(self) -> int:
        return len(self._slots)
