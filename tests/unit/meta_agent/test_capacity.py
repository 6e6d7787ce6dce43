"""Places of Workers are shared between the jobs of a replica."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.driving.capacity import Capacity, Claimant, claimant
from services.meta_agent.job.state import AttemptFold, JobFold


class Jobs:
    """Jobs that decide as drivers do: `free_for`, start what may start, `hold`."""

    def __init__(self, limit: int, **tasks: int) -> None:
        self.capacity = Capacity(limit)
        self.left = tasks
        self.held = dict.fromkeys(tasks, 0)
        self.news: dict[str, None] = {}
        self.idle_while_waiting = False

    def decide(self, job: str, ended: int = 0) -> None:
        places = self.capacity.free_for(job) + ended
        self.held[job] -= ended
        started = max(0, min(places, self.left[job]))
        self.left[job] -= started
        self.held[job] += started
        limited = places - started <= 0 and self.left[job] > 0
        wake = partial(self.news.setdefault, job) if limited else None
        self.capacity.hold(job, self.held[job], wake)

    def settle(self) -> None:
        """Everybody who was woken decides."""
        for _ in range(1000):
            if not self.news:
                break
            job = next(iter(self.news))
            del self.news[job]
            self.decide(job)
        else:
            raise AssertionError("jobs wake each other for ever")
        assert sum(self.held.values()) <= self.capacity.limit
        if self.capacity.free > 0 and any(self.left.values()):
            self.idle_while_waiting = True

    def end(self, job: str) -> None:
        self.decide(job, ended=1)
        self.settle()


def test_a_small_job_gets_a_place_at_the_first_end_of_a_large_one() -> None:
    jobs = Jobs(4, large=60, small=2)
    jobs.decide("large")
    jobs.decide("small")
    assert jobs.held == {"large": 4, "small": 0}
    jobs.end("large")
    assert jobs.held == {"large": 3, "small": 1}
    jobs.end("large")
    assert jobs.held == {"large": 2, "small": 2}
    jobs.end("large")
    assert jobs.held == {"large": 2, "small": 2}, "who is at its share goes on"
    jobs.end("small")
    jobs.end("small")
    assert jobs.held == {"large": 4, "small": 0}, "nobody waits any more"


@pytest.mark.parametrize("limit", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(5))
def test_no_place_stays_idle_and_nobody_starves(limit: int, seed: int) -> None:
    rng = random.Random(seed)
    jobs = Jobs(limit, a=200, b=200, c=200)
    for job in jobs.left:
        jobs.decide(job)
    for _ in range(150):
        jobs.end(rng.choice([job for job, held in jobs.held.items() for _ in range(held)]))
    started = Counter({job: 200 - left for job, left in jobs.left.items()})
    assert not jobs.idle_while_waiting
    assert min(started.values()) >= 25, started


def test_a_job_that_cannot_use_its_place_leaves_it_to_the_next() -> None:
    jobs = Jobs(1, first=2, second=1, third=1)
    for job in jobs.left:
        jobs.decide(job)
    jobs.left["second"] = 0  # its route is away, or it was cancelled
    jobs.end("first")
    assert jobs.held == {"first": 0, "second": 0, "third": 1}


def test_leaving_wakes_who_waits() -> None:
    jobs = Jobs(2, gone=2, waits=1)
    jobs.decide("gone")
    jobs.decide("waits")
    jobs.held["gone"] = jobs.left["gone"] = 0
    jobs.capacity.leave("gone")
    jobs.settle()
    assert jobs.held["waits"] == 1
    assert jobs.capacity.waiting == 0


def test_a_growing_limit_wakes_who_waits() -> None:
    jobs = Jobs(2, a=5)
    jobs.decide("a")
    fold, refused = _ended(attempt_pb2.ATTEMPT_STATE_REFUSED)
    jobs.held["a"] = 1
    jobs.left["a"] = 4
    jobs.capacity.hold("a", 1)
    jobs.capacity.observe(refused, fold)
    assert jobs.capacity.limit == 1
    jobs.decide("a")
    assert jobs.capacity.waiting == 1
    fold, done = _ended(attempt_pb2.ATTEMPT_STATE_SUCCEEDED)
    jobs.capacity.observe(done, fold)
    jobs.settle()
    assert (jobs.capacity.limit, jobs.held["a"]) == (2, 2)


def _ended(state: attempt_pb2.AttemptState.ValueType) -> tuple[JobFold, job_pb2.JobEvent]:
    attempt = AttemptFold(
        uid="1.1",
        number=1,
        role=common_pb2.ROLE_WORKER,
        route="fast",
        epoch=1,
        grant=attempt_pb2.Grant(),
        start=0.0,
        deadline=1.0,
    )
    finished = job_pb2.AttemptFinished(
        ref=attempt_pb2.AttemptRef(task_uid="1.1", attempt=1),
        result=attempt_pb2.AttemptResult(state=state),
    )
    event = job_pb2.JobEvent(event_id="e", attempt_finished=finished)
    return JobFold(attempts={attempt.key: attempt}), event


def test_one_tenant_s_many_jobs_take_no_more_than_its_share() -> None:
    flood = [f"flood{number}" for number in range(30)]
    jobs = Jobs(12, **dict.fromkeys(flood, 40), small=100, other=100)
    for job in jobs.left:
        tenant = "flood" if job in flood else job
        jobs.capacity.introduce(job, Claimant(tenant))
    for job in jobs.left:
        jobs.decide(job)
    assert sum(jobs.held[job] for job in flood) == 12, "it came first"
    rng = random.Random(1)
    for _ in range(150):
        jobs.end(rng.choice([job for job, held in jobs.held.items() for _ in range(held)]))
    assert (jobs.held["small"], jobs.held["other"]) == (4, 4)
    assert not jobs.idle_while_waiting
    assert min(40 - jobs.left[job] for job in flood) >= 1, "none of its own jobs starves"


def test_a_tenant_s_places_go_by_priority() -> None:
    jobs = Jobs(28, low=500, usual=500, high=500, other=500)
    policy = {"low": -25, "usual": 0, "high": 25, "other": -100}
    for job, priority in policy.items():
        made = job_pb2.JobCreated(tenant="b" if job == "other" else "a")
        made.policy.priority = priority
        jobs.capacity.introduce(job, claimant(made))
        jobs.decide(job)
    started = dict(jobs.left)
    rng = random.Random(2)
    for _ in range(400):
        jobs.end(rng.choice([job for job, held in jobs.held.items() for _ in range(held)]))
    done = {job: started[job] - left for job, left in jobs.left.items()}
    assert done["high"] > 1.5 * done["usual"] > 1.5 * done["low"] > 0
    assert done["other"] > 150, "priority means nothing between tenants"
