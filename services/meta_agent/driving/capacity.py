"""How many Worker attempts this replica may have open, over all the jobs it drives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.state import JobFold


class Capacity:
    """Counts open Worker attempts by job and shares the places out when jobs wait.

    Deciding reads `free_for` and books `hold` without an await in between, so the
    limit is kept however many jobs decide at once. While jobs wait, each has a share;
    who holds more keeps what runs but starts nothing for what ends, and what the
    shares leave over goes round, to who holds least and waits longest.

    How many places the Workers really have is learned: a refusal lowers the limit to
    what is open, every attempt that went through raises it a little (additive
    increase, multiplicative decrease; Chiu and Jain 1989).
    """

    def __init__(self, limit: int) -> None:
        """Nobody holds a place yet.

        Args:
            limit: Worker attempts that may be open at once, whatever the Workers take.
        """
        self._most = limit
        self._limit = float(limit)
        self._held: dict[str, int] = {}
        # Who was served longest ago comes first.
        self._waiting: OrderedDict[str, Callable[[], None]] = OrderedDict()

    @property
    def limit(self) -> int:
        """Worker attempts that may be open at once, as far as is known."""
        return int(self._limit)

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return self.limit - sum(self._held.values())

    @property
    def waiting(self) -> int:
        """Jobs that wait for a place."""
        return len(self._waiting)

    def free_for(self, job_id: str) -> int:
        """How many more attempts a job may open now, besides one for each that ends.

        Negative when it holds more than its share while others wait: of its attempts
        that end, so many are not followed by others.
        """
        if not self._waiting.keys() - {job_id}:
            return self.free
        claimants = len(self._held.keys() | self._waiting.keys() | {job_id})
        held = self._held.get(job_id, 0)
        share = self.limit // claimants
        # A share is whole places; the next one left over is for who holds least.
        if job_id == min(self._waiting, key=lambda each: self._held.get(each, 0)):
            share = max(share, held + 1)
        return min(self.free, share - held)

    def hold(self, job_id: str, attempts: int, wake: Callable[[], None] | None = None) -> None:
        """Says what a job has open now, and whether it could use more.

        Args:
            job_id: The job.
            attempts: Worker attempts it has open.
            wake: Called, perhaps more than once, when it may open more; None when it
                does not wait for a place.
        """
        served = attempts != self._held.get(job_id, 0)
        if attempts:
            self._held[job_id] = attempts
        else:
            self._held.pop(job_id, None)
        if wake is None:
            self._waiting.pop(job_id, None)
        else:
            self._waiting[job_id] = wake
            if served:
                self._waiting.move_to_end(job_id)
        self._wake()

    def observe(self, event: job_pb2.JobEvent, fold: JobFold) -> None:
        """Learns from how a Worker's attempt ended."""
        if not event.HasField("attempt_finished"):
            return
        finished = event.attempt_finished
        attempt = fold.attempts.get((finished.ref.task_uid, finished.ref.attempt))
        if attempt is None or attempt.role != common_pb2.ROLE_WORKER:
            return
        if finished.result.state == attempt_pb2.ATTEMPT_STATE_REFUSED:
            self._limit = float(max(1, min(self.limit, sum(self._held.values()))))
        else:
            self._limit = min(self._limit + 1 / self._limit, float(self._most))
            self._wake()

    def leave(self, job_id: str) -> None:
        """A job is no longer driven here."""
        self.hold(job_id, 0)

    def _wake(self) -> None:
        """Wakes those who may open more; they wait until they have decided."""
        left = self.free
        for job_id in list(self._waiting):
            if left <= 0:
                return
            more = self.free_for(job_id)
            if more > 0:
                left -= more
                self._waiting[job_id]()
