"""Reads jobs from their logs, for those who ask; drivers keep states of their own."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from hma.errors import NotFound
from hma.v1 import job_pb2
from services.meta_agent.job.leniently import fold_what_folds
from services.meta_agent.job.state import JobFold
from services.meta_agent.store.log import JobLog

PAGE = 500
"""Events read from the log at a time."""


class JobReader:
    """Folds logs. The latest folds are kept, so that asking again reads only what is new."""

    def __init__(self, log: JobLog, *, kept: int = 64) -> None:
        """Nothing is read yet.

        Args:
            log: Where the events are.
            kept: How many folds to keep.
        """
        self._log = log
        self._kept = kept
        # The least recently asked for first, and when that was.
        self._folds: OrderedDict[str, JobFold] = OrderedDict()
        self._asked_at: dict[str, float] = {}
        self._deletions = 0

    async def read(self, job_id: str) -> JobFold:
        """The job as its log says it is now.

        Raises:
            NotFound: There is no such log.
            Unavailable: The database cannot be reached.
        """
        fold, deletions = self._folds.get(job_id, JobFold()), self._deletions
        async for events in self._pages(job_id, fold.version):
            fold = fold_what_folds(events, fold)
        if not fold.version:
            raise NotFound("There is no job with this id.")
        if deletions == self._deletions:  # else it may be this one that was deleted
            self._keep(job_id, fold)
        return fold

    async def pages(self, job_id: str) -> AsyncIterator[Sequence[job_pb2.JobEvent]]:
        """The whole log, a lot of events at a time.

        Raises:
            NotFound: There is no such log.
            Unavailable: The database cannot be reached.
        """
        found = False
        async for events in self._pages(job_id, 0):
            found = True
            yield events
        if not found:
            raise NotFound("There is no job with this id.")

    async def _pages(self, job_id: str, after: int) -> AsyncIterator[Sequence[job_pb2.JobEvent]]:
        while events := await self._log.read(job_id, after, PAGE):
            yield events
            if len(events) < PAGE:
                return
            after = events[-1].sequence

    def forget(self, job_id: str) -> None:
        """Drops a job that was deleted."""
        self._deletions += 1
        self._drop(job_id)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._folds

    def forget_idle(self, idle: float) -> int:
        """Drops the jobs that nobody has asked for in `idle` seconds; how many."""
        before = time.monotonic() - idle
        dropped = [job_id for job_id, at in self._asked_at.items() if at <= before]
        for job_id in dropped:
            self._drop(job_id)
        return len(dropped)

    def _drop(self, job_id: str) -> None:
        self._folds.pop(job_id, None)
        self._asked_at.pop(job_id, None)

    def _keep(self, job_id: str, fold: JobFold) -> None:
        known = self._folds.get(job_id)
        if known is None or known.version < fold.version:
            self._folds[job_id] = fold
        self._folds.move_to_end(job_id)
        self._asked_at[job_id] = time.monotonic()
        while len(self._folds) > self._kept:
            self._drop(next(iter(self._folds)))
