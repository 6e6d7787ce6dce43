"""Reads jobs from their logs, for those who ask; drivers keep states of their own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from hma.errors import NotFound
from hma.v1 import job_pb2
from services.meta_agent.job.apply import fold_events
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
        self._folds: OrderedDict[str, JobFold] = OrderedDict()

    async def read(self, job_id: str) -> JobFold:
        """The job as its log says it is now.

        Raises:
            NotFound: There is no such log.
            Unavailable: The database cannot be reached.
        """
        fold = self._folds.get(job_id, JobFold())
        async for events in self._pages(job_id, fold.version):
            fold = fold_events(events, fold)
        if not fold.version:
            raise NotFound("There is no job with this id.")
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
        self._folds.pop(job_id, None)

    def _keep(self, job_id: str, fold: JobFold) -> None:
        known = self._folds.get(job_id)
        if known is None or known.version < fold.version:
            self._folds[job_id] = fold
        self._folds.move_to_end(job_id)
        while len(self._folds) > self._kept:
            self._folds.popitem(last=False)
