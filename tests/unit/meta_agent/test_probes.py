"""While a route is tried, exactly one attempt of this replica is out on it."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.decide import Decision, decide
from services.meta_agent.deciding.observed import Broken, Ended, Observations, Observed, RouteState
from services.meta_agent.deciding.turn import callers
from services.meta_agent.driving.breaker import BreakerRules, State
from services.meta_agent.driving.route_gates import GateRules, RouteGates
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import AttemptFold, AttemptKey, JobFold
from services.meta_agent.job.times import timestamp
from tests.unit.meta_agent.simulation import START, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk, make_desk, make_plan

RULES = make_rules("standard", max_attempts=1000)
BREAKER = BreakerRules(failures=2, window=1000, first=2, longest=9)
SEEN = {"fast": RouteState(True), "reasoning": RouteState(False, "it is away")}


class Job:
    """A job that is driven here: what is committed, and what is on its way there."""

    def __init__(self, name: str, created: job_pb2.JobCreated, now: float) -> None:
        self.name = name
        self.fold = JobFold()
        self.inbox: list[Observed] = []
        self.broken: dict[AttemptKey, Broken] = {}
        self.pending: Decision | None = None
        self.sequence = 0
        self.fact(now, job_created=created)
        self.claim(now)

    def fact(self, now: float, epoch: int = 0, **payload: Any) -> None:
        self.take(job_pb2.JobEvent(event_id="f", time=timestamp(now), epoch=epoch, **payload))

    def claim(self, now: float) -> None:
        epoch = self.fold.epoch + 1
        self.fact(now, epoch, job_claimed=job_pb2.JobClaimed(replica="r", epoch=epoch))

    def take(self, event: job_pb2.JobEvent) -> None:
        self.sequence += 1
        event.job_id, event.sequence = self.name, self.sequence
        self.fold = apply(self.fold, event)


class Replica:
    """Jobs that decide in turns and share the gate of one route."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = START
        self.gates = RouteGates(["fast"], GateRules(breaker=BREAKER, most=9), lambda: self.now)
        self.jobs: list[Job] = []
        self.out: set[tuple[str, AttemptKey]] = set()
        self.tried: list[tuple[str, AttemptKey]] = []
        for number in range(6):
            # Half of them of tasks that are known, half planned by a model.
            plan = make_plan(a=[], b=[]) if number % 2 else None
            created = make_created(
                items=0 if plan else 2, budget=500_000, deadline=90_000, plan=plan
            )
            created.policy.route = "fast"
            created.policy.shape = job_pb2.JOB_SHAPE_TEAM
            created.policy.max_rounds = 1
            self.jobs.append(Job(f"j{number}", created, self.now))

    @property
    def state(self) -> State:
        return self.gates.signs()["fast"]

    def decide(self, job: Job) -> None:
        """As a driver's step, up to the commit."""
        if job.pending is not None or job.fold.ended:
            return
        state = self.state
        observed = Observations(
            inbox=tuple(job.inbox),
            broken=job.broken,
            routes=self.gates.states(SEEN, job.name),
        )
        decision = decide(job.fold, observed, self.now, RULES)
        self.gates.hold(job.name, job.fold, decision.fold, decision.crowded, lambda: None)
        begun = callers(decision.fold).keys() - callers(job.fold).keys()
        job.pending = decision
        late = self.now >= work_deadline(job.fold, RULES)
        assert not begun or state is not State.OPEN or late
        if state is State.HALF_OPEN and not late:
            for key in begun:
                self.out.add((job.name, key))
                self.tried.append((job.name, key))
        assert len(self.out) <= 1, "more than one attempt is let through"

    def commit(self, job: Job) -> None:
        """What was decided is in the log."""
        if job.pending is None:
            return
        decision, job.pending = job.pending, None
        job.inbox.clear()
        for event in decision.events:
            job.take(event)
            self.gates.observe(event, job.fold)
            self._forget()
        job.broken = {k: b for k, b in job.broken.items() if job.fold.attempts[k].open}

    def move(self, job: Job) -> None:
        """The log had moved: what was decided is not in it."""
        job.pending = None
        self.out = {p for p in self.out if p[0] != job.name or p[1] in job.fold.attempts}

    def end(self, job: Job) -> None:
        """An attempt ends, well or not, or breaks off."""
        waiting = {seen.key for seen in job.inbox} | job.broken.keys()
        open_ = [a for a in job.fold.open_attempts() if a.epoch == job.fold.epoch]
        open_ = [a for a in open_ if a.key not in waiting]
        if not open_:
            return
        attempt = self.dice.choice(open_)
        how = self.dice.choice(HOW)
        if how == "broken":
            job.broken[attempt.key] = Broken(self.now, "it broke")
        else:
            job.inbox.append(Ended(attempt.key, self._result(job, attempt, how)))

    def answer(self, job: Job) -> None:
        """A call of an attempt is answered, and it goes on."""
        for attempt in job.fold.open_attempts():
            if attempt.epoch == job.fold.epoch and not attempt.settled:
                ref = attempt_pb2.AttemptRef(task_uid=attempt.uid, attempt=attempt.number)
                call = attempt_pb2.CallUsage(call=1, route="fast", finish_reason="stop")
                event = job_pb2.JobEvent(call_settled=job_pb2.CallSettled(ref=ref, call=call))
                job.take(event)
                self.move(job)  # what was decided without it is not
                self.gates.observe(event, job.fold)
                self._forget()
                return

    def lose(self, job: Job) -> None:
        """Its driver ends, and another one takes the job, on this replica, too."""
        self.gates.leave(job.name)
        self.out = {probe for probe in self.out if probe[0] != job.name}
        job.pending = None
        job.inbox.clear()
        job.broken.clear()
        job.claim(self.now)

    def _forget(self) -> None:
        """Of what is out: what has ended, by the log; all, once the route is good again."""
        if self.state is State.CLOSED:
            self.out.clear()
        folds = {job.name: job.fold for job in self.jobs}
        for name, key in list(self.out):
            attempt = folds[name].attempts.get(key)
            if attempt is not None and not attempt.open:
                self.out.discard((name, key))

    def _result(self, job: Job, attempt: AttemptFold, how: str) -> attempt_pb2.AttemptResult:
        result = attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED)
        if how == "refused":
            result.state = attempt_pb2.ATTEMPT_STATE_REFUSED
            result.failure.failure_class = common_pb2.FAILURE_CLASS_RATE_LIMITED
            return result
        if how != "good":
            result.state = attempt_pb2.ATTEMPT_STATE_FAILED
            result.failure.failure_class = common_pb2.FAILURE_CLASS_TRANSIENT
        if how == "silent":
            return result  # without a call: it shows nothing of the route
        reason = "stop" if how == "good" else "error"
        number = max(attempt.settled, default=0) + 1
        result.calls.add(call=number, route="fast", finish_reason=reason)
        if how == "good" and attempt.role == common_pb2.ROLE_ANALYST:
            result.plan.source = attempt_pb2.PLAN_SOURCE_MODEL
        elif how == "good" and attempt.role == common_pb2.ROLE_REDUCER:
            result.answer.text = "done"
        elif how == "good":
            items = job.fold.tasks[attempt.uid].task.items
            names = [item.item_id for item in items] or ["x"]
            result.task.items.extend(
                task_pb2.ItemAnswer(item_id=name, answer="42", grounded=True) for name in names
            )
        return result


STEPS = ("decide", "commit", "end", "wait", "answer", "move", "lose")
HOW = ("good", "good", "good", "bad", "bad", "bad", "bad", "refused", "silent", "broken")
OFTEN = (30, 30, 20, 10, 2, 3, 1)


def drive(seed: int) -> Replica:
    """So many steps in any order that routes break and come back several times."""
    replica = Replica(seed)
    for what in replica.dice.choices(STEPS, OFTEN, k=1000):
        if what == "wait":
            replica.now += replica.dice.choice([0.1, 1.0, 6.0])
        else:
            getattr(replica, what)(replica.dice.choice(replica.jobs))
    return replica


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_one_attempt_at_a_time_tries_a_route_whoever_wants_to(seed: int) -> None:
    replica = drive(seed)
    # And whatever has happened: once nothing is on its way, somebody may try it.
    for job in replica.jobs:
        replica.commit(job)
        replica.lose(job)
    replica.now += BREAKER.longest
    assert replica.gates.states(SEEN)["fast"].ready


def test_routes_are_tried_in_that_property_by_every_role() -> None:
    tried = [key[0][0] for seed in range(25) for _, key in drive(seed).tried]
    assert {name for name in tried if tried.count(name) > 3} == {"1", "p", "r"}


AWAY = {name: RouteState(False, "it broke") for name in ("fast", "reasoning")}
TRIAL = AWAY | {"fast": RouteState(True, "it broke", 1, trial=True)}


def make_team(**changes: Any) -> Desk:
    policy = job_pb2.JobPolicy(shape=job_pb2.JOB_SHAPE_TEAM)
    desk = Desk(make_created(items=3, budget=50_000, policy=policy, **changes), RULES)
    desk.step()
    assert desk.open() == ["p.1"]
    return desk


def test_of_many_ready_tasks_one_tries_a_route_though_others_have_just_ended() -> None:
    desk = make_desk(make_plan(a=[], b=[], c=[], d=[], e=[]), RULES)
    desk.step(routes=TRIAL | {"fast": RouteState(True, slots=2)})
    desk.step(desk.ends("a"), desk.ends("b"), routes=TRIAL)
    assert desk.open() == ["c"]
    assert desk.step(routes=AWAY) == []


def test_planning_waits_for_a_route_that_broke_and_goes_on_when_it_is_tried() -> None:
    desk = make_team()
    transient = common_pb2.FAILURE_CLASS_TRANSIENT
    desk.step(desk.ends("p.1", ok=False, failure_class=transient, message="no"), routes=AWAY)
    desk.step(after=RULES.backoff_max, routes=AWAY)
    assert desk.open() == []
    assert desk.fold.reason == "planning waits for route fast: it broke"
    assert desk.step(after=1, routes=AWAY) == [], "and that is said once"
    desk.step(routes=TRIAL)
    assert desk.open() == ["p.1"]


def test_planning_is_done_without_a_model_when_its_route_stays_away() -> None:
    desk = make_team(deadline=100)
    transient = common_pb2.FAILURE_CLASS_TRANSIENT
    desk.step(desk.ends("p.1", ok=False, failure_class=transient, message="no"), routes=AWAY)
    desk.step(after=RULES.backoff_max, routes=AWAY)
    assert START + 30 < desk.wake_at < START + 50
    desk.now = desk.wake_at
    desk.step(routes=AWAY)
    assert desk.fold.plan_closed is not None
    assert "route fast could not be used: it broke" in desk.fold.plan_closed.reason
    assert len(desk.fold.tasks) == 1
