"""What both clients know about following a job. Pure, but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hma.client.backoff import Backoff
from hma.client.requests import DurationLike, duration, ended, seconds
from hma.errors import DeadlinePassed, HmaError, Unavailable
from hma.v1 import job_pb2, meta_agent_pb2

WAIT_SLICE = 15.0
"""Seconds that one GetJob waits; below the limits that proxies put on unary calls."""

WAIT_MARGIN = 60.0
"""Seconds past a job's own deadline after which waiting for it is given up."""

PAUSE = 0.2
"""Seconds between two looks at a job when the server does not wait itself."""


@dataclass(slots=True)
class Cursor:
    """How far a watch has come.

    Attributes:
        sequence: The latest event that was seen.
        finished: Whether that was the last one.
    """

    sequence: int = 0
    finished: bool = False

    def takes(self, update: meta_agent_pb2.WatchJobResponse) -> bool:
        """Whether `update` is news, and remembers it.

        An event that a resumed stream repeats is not.
        """
        if not update.HasField("event"):
            return True
        if update.event.sequence <= self.sequence:
            return False
        self.sequence = update.event.sequence
        self.finished = update.event.HasField("job_finished")
        return True

    def covers(self, job: job_pb2.Job) -> bool:
        """Whether `job` has ended and nothing of its log is unseen."""
        return ended(job) and job.last_sequence <= self.sequence

    def request(self, job_id: str, *, events_only: bool) -> meta_agent_pb2.WatchJobRequest:
        """Asks for what comes next."""
        return meta_agent_pb2.WatchJobRequest(
            job_id=job_id, after_sequence=self.sequence, events_only=events_only
        )


def patience(job: job_pb2.Job) -> float:
    """Seconds to wait for `job`, when the caller set no limit: its own, and a margin."""
    return job.budget.deadline.ToTimedelta().total_seconds() + WAIT_MARGIN


class Waiting:
    """The looks at a job whose end is waited for.

    Args:
        job_id: The job.
        timeout: Given up after this; None: a minute past the job's own deadline.
        clock: Seconds, monotonic.

    Raises:
        InvalidRequest: The timeout is no time.
    """

    def __init__(
        self,
        job_id: str,
        timeout: DurationLike | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_id = job_id
        self._clock = clock
        self._limit = None if timeout is None else seconds(timeout, "timeout")
        self._began = self._asked = clock()

    def request(self) -> meta_agent_pb2.GetJobRequest:
        """Asks for the job, once it has ended or a slice of the time is over."""
        self._asked = self._clock()
        left = WAIT_SLICE if self._limit is None else self._limit - (self._asked - self._began)
        wait = duration(max(0.001, min(WAIT_SLICE, left)))
        return meta_agent_pb2.GetJobRequest(job_id=self._job_id, wait=wait)

    def pause_after(self, job: job_pb2.Job) -> float:
        """Seconds before the next look, since `job` has not ended.

        Raises:
            DeadlinePassed: The time is over.
        """
        if self._limit is None:
            self._limit = patience(job)
        now = self._clock()
        if now - self._began >= self._limit:
            raise DeadlinePassed(
                f"{self._job_id} has not ended after {self._limit:g} s; it goes on"
            )
        return max(0.0, PAUSE - (now - self._asked))


class Watching:
    """A watch and its resumptions.

    Args:
        job_id: The job.
        after: Events after this sequence.
        events_only: Leaves out progress.
        first: How a watch is tried that has never worked.
        resume: How one is resumed that has: it is worth more patience.
    """

    def __init__(
        self, job_id: str, after: int, *, events_only: bool, first: Backoff, resume: Backoff
    ) -> None:
        self.cursor = Cursor(after)
        self._job_id = job_id
        self._events_only = events_only
        self._backoff = first
        self._resume = resume
        self._failures = 0

    def request(self) -> meta_agent_pb2.WatchJobRequest:
        """Asks for what comes next."""
        return self.cursor.request(self._job_id, events_only=self._events_only)

    def takes(self, update: meta_agent_pb2.WatchJobResponse) -> bool:
        """Whether `update` is news; the stream that brought it has worked."""
        self._failures, self._backoff = 0, self._resume
        return self.cursor.takes(update)

    def pause_after(self, failure: HmaError | None) -> float:
        """Seconds before the watch is resumed.

        Args:
            failure: What ended the stream; None: it ended early, without an error.

        Raises:
            HmaError: It has ended too often: `failure`, or Unavailable.
        """
        self._failures += 1
        if self._backoff.exhausted(self._failures):
            raise failure or Unavailable(f"the watch of {self._job_id} keeps ending early")
        return self._backoff.delay(self._failures, failure)
