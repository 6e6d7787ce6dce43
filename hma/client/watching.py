"""What both clients know about following a job. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hma.client.requests import ended
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
