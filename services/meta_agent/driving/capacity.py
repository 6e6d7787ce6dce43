"""How many Worker attempts this replica may have open, over all the jobs it drives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.state import JobFold


class Capacity:
    """Counts open Worker attempts by job and wakes jobs that wait for a place.

    Deciding reads `free` and books `hold` without an await in between, so the limit
    is kept however many jobs decide at once. Who waits longest is woken first.

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

    def hold(self, job_id: str, attempts: int) -> None:
        """Says how many attempts a job has open now; wakes others when places came free."""
        freed = self._held.get(job_id, 0) - attempts
        if attempts:
            self._held[job_id] = attempts
        else:
            self._held.pop(job_id, None)
        if freed > 0:
            self._wake(freed)

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

    def wait(self, job_id: str, wake: Callable[[], None]) -> None:
        """Asks to be woken when a place comes free; once, until asked again."""
        self._waiting.setdefault(job_id, wake)

    def leave(self, job_id: str) -> None:
        """A job is no longer driven here."""
        self._waiting.pop(job_id, None)
        self.hold(job_id, 0)

    def _wake(self, places: int) -> None:
        for _ in range(min(places, len(self._waiting))):
            _, wake = self._waiting.popitem(last=False)
            wake()
