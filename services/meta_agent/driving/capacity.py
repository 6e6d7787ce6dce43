"""How many Worker attempts may be open at once, and who among the jobs gets the places.

One for this replica's places at Workers, and one for each route (`route_gates`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.priority import STEP
from services.meta_agent.job.state import JobFold


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who wants places.

    Attributes:
        tenant: Whose job it is: tenants share alike, however many jobs they have.
        weight: Of the job among its tenant's.
    """

    tenant: str = ""
    weight: float = 1.0


_ANYBODY = Claimant()


def claimant(created: job_pb2.JobCreated) -> Claimant:
    """Who a job is when places are shared out."""
    return Claimant(created.tenant, 2.0 ** (created.policy.priority / STEP))


class Capacity:
    """Counts open Worker attempts by job and shares the places out when jobs wait.

    Deciding reads `free_for` and books `hold` without an await in between, so the
    limit is kept however many jobs decide at once. While jobs wait, each tenant has an
    equal share, and of that each of its jobs one by its priority; who holds more keeps
    what runs but starts nothing for what ends, and what the shares leave over goes
    round, to who holds least and waits longest. Nobody's share is nothing for ever:
    whoever holds least is served next.

    How many places there really are is learned: a refusal lowers the limit, every
    attempt that went through raises it a little (additive increase, multiplicative
    decrease; Chiu and Jain 1989).
    """

    def __init__(self, limit: int) -> None:
        """Nobody holds a place yet.

        Args:
            limit: Worker attempts that may be open at once, whatever is learned.
        """
        self._most = limit
        self._limit = float(limit)
        # Up to here the limit doubles as attempts go through; above it grows by one.
        self._steady = 0.0
        self._held: dict[str, int] = {}
        self._known: dict[str, Claimant] = {}
        # Who was served longest ago comes first.
        self._waiting: OrderedDict[str, Callable[[], None]] = OrderedDict()

    @property
    def limit(self) -> int:
        """Worker attempts that may be open at once, as far as is known."""
        return int(self._limit)

    @property
    def lowered(self) -> bool:
        """Whether the limit is less than what is allowed."""
        return self.limit < self._most

    @property
    def held(self) -> int:
        """Places that are taken."""
        return sum(self._held.values())

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return self.limit - self.held

    @property
    def waiting(self) -> int:
        """Jobs that wait for a place."""
        return len(self._waiting)

    def introduce(self, job_id: str, who: Claimant) -> None:
        """Says whose a job is; until then it is nobody's, with the usual weight."""
        self._known[job_id] = who

    def free_for(self, job_id: str) -> int:
        """How many more attempts a job may open now, besides one for each that ends.

        Negative when it holds more than its share while others wait: of its attempts
        that end, so many are not followed by others.
        """
        if not self._waiting.keys() - {job_id}:
            return self.free
        return self._free_for(job_id, self._shares(job_id), self._next())

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
            self.lower(self.held)
        else:
            self.went_through()

    def lower(self, limit: float, steady: float = 0.0) -> None:
        """There are fewer places than was thought.

        Args:
            limit: So many, one at least; nothing changes when fewer are known already.
            steady: Up to so many the limit doubles again as attempts go through.
        """
        self._limit = max(1.0, min(self._limit, float(limit)))
        self._steady = steady

    def went_through(self) -> None:
        """An attempt had a place: there may be one more."""
        growth = 1.0 if self._limit < self._steady else 1 / self._limit
        self._limit = min(self._limit + growth, float(self._most))
        self._wake()

    def leave(self, job_id: str) -> None:
        """A job is no longer driven here."""
        self.hold(job_id, 0)
        self._known.pop(job_id, None)

    def _free_for(self, job_id: str, shares: dict[str, float], following: str) -> int:
        held = self._held.get(job_id, 0)
        # A share is whole places; the next one left over is for who holds least.
        share = int(shares[job_id] + 1e-9)
        if job_id == following:
            share = max(share, held + 1)
        return min(self.free, share - held)

    def _shares(self, job_id: str = "") -> dict[str, float]:
        """Places of each claimant: tenants alike, a tenant's jobs by their weight."""
        jobs = self._held.keys() | self._waiting.keys() | ({job_id} if job_id else set())
        weights: dict[str, float] = {}
        for each in jobs:
            who = self._who(each)
            weights[who.tenant] = weights.get(who.tenant, 0.0) + who.weight
        whole = self.limit / max(len(weights), 1)
        return {
            each: whole * self._who(each).weight / weights[self._who(each).tenant] for each in jobs
        }

    def _next(self) -> str:
        """Who gets the next place: of the tenant that holds least, the job that does."""
        tenants: dict[str, int] = {}
        for each, held in self._held.items():
            tenant = self._who(each).tenant
            tenants[tenant] = tenants.get(tenant, 0) + held

        def rank(job_id: str) -> tuple[int, float, float]:
            who = self._who(job_id)
            share = self._held.get(job_id, 0) / who.weight
            return tenants.get(who.tenant, 0), share, -who.weight

        return min(self._waiting, key=rank, default="")

    def _who(self, job_id: str) -> Claimant:
        return self._known.get(job_id, _ANYBODY)

    def _wake(self) -> None:
        """Wakes those who may open more; they wait until they have decided."""
        left = self.free
        if left <= 0 or not self._waiting:
            return
        shares, following = self._shares(), self._next()
        alone = len(self._waiting) == 1
        for job_id in list(self._waiting):
            if left <= 0:
                return
            more = self.free if alone else self._free_for(job_id, shares, following)
            if more > 0:
                left -= more
                self._waiting[job_id]()
