"""A route that fails is left alone for a while; one that is asked for too much gets less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hma.llm.base import Readiness
from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.driving.breaker import Breaker, BreakerRules, State
from services.meta_agent.driving.route_gates import AFTER_CLOSING, GateRules, RouteGates
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.edge.status import DOWN, UP, StatusBoard
from services.meta_agent.job.state import AttemptFold, AttemptStatus, JobFold
from tests.unit.meta_agent.simulation import make_rules

RULES = BreakerRules(failures=3, window=10, first=2, longest=9)
INVALID = common_pb2.FAILURE_CLASS_INVALID_OUTPUT
TIMEOUT = common_pb2.FAILURE_CLASS_TIMEOUT
READY = {"fast": RouteState(True, "m is ready.")}


def failing(breaker: Breaker, *times: float) -> Breaker:
    for time in times:
        breaker = breaker.after_failure(time, "it broke", RULES, "r/fast")
    return breaker


def test_a_breaker_opens_after_failures_within_the_window_only() -> None:
    assert failing(Breaker(), 0, 1, 2).state(2.1) is State.OPEN
    assert failing(Breaker(), 0, 1, 10.5).state(10.6) is State.CLOSED


def test_a_success_pays_for_a_failure() -> None:
    breaker = failing(Breaker(), 0, 1).after_success(1.5)
    assert failing(breaker, 2).state(2.1) is State.CLOSED


def test_each_opening_in_a_row_is_longer_jittered_and_bounded() -> None:
    breaker, now, waits = failing(Breaker(), 0, 0, 0), 0.0, []
    for _ in range(6):
        waits.append(breaker.until - now)
        now = breaker.until
        assert breaker.state(now) is State.HALF_OPEN
        breaker = failing(breaker, now)
    for number, wait in enumerate(waits):
        full = min(2.0 * 2**number, 9)
        assert full / 2 <= wait <= full
    others = [breaker.after_failure(now, "", RULES, name).until for name in "abc"]
    closed = Breaker().after_failure(0, "", BreakerRules(failures=1), "a").until
    assert closed != Breaker().after_failure(0, "", BreakerRules(failures=1), "b").until
    assert others, "open already: nothing changes"


def test_a_success_while_half_open_closes_it_and_one_while_open_does_not() -> None:
    breaker = failing(Breaker(), 0, 0, 0)
    assert breaker.after_success(0.1).state(0.1) is State.OPEN
    assert breaker.after_success(breaker.until).state(breaker.until) is State.CLOSED


def running(job: str, count: int, before: JobFold | None = None) -> JobFold:
    """A job with so many attempts on a route; those that it had and has no more are lost."""
    fold = before or JobFold(job_id=job, epoch=1)
    attempts = dict(fold.attempts)
    held = [attempt for attempt in attempts.values() if attempt.open]
    for attempt in held[count:]:
        attempts[attempt.key] = replace(attempt, status=AttemptStatus.LOST)
    for _ in range(count - len(held)):
        attempt = AttemptFold(
            uid="1.1",
            number=len(attempts) + 1,
            role=common_pb2.ROLE_WORKER,
            route="fast",
            epoch=1,
            grant=attempt_pb2.Grant(call=1, tokens=9),
            start=0.0,
            deadline=30.0,
        )
        attempts[attempt.key] = attempt
    return replace(fold, attempts=attempts)


COMMITTED = job_pb2.JobEvent(attempt_lost=job_pb2.AttemptLost())


class Gates:
    """The gate of one route, and jobs whose attempts end."""

    def __init__(self, **changes: Any) -> None:
        self.now = 100.0
        self.gates = RouteGates(
            ["fast"], GateRules(breaker=RULES, most=20, **changes), lambda: self.now
        )
        self.folds: dict[str, JobFold] = {}

    def state(self, job: str = "a") -> RouteState:
        return self.gates.states(READY, job)["fast"]

    def hold(self, job: str, attempts: int) -> None:
        before = self.folds.get(job, running(job, 0))
        self.folds[job] = after = running(job, attempts, before)
        self.gates.hold(job, before, after)
        self.gates.observe(COMMITTED, after)

    def ends(
        self,
        failed: int = 0,
        finish: str | None = None,
        first_token: int = 0,
        *,
        sent: bool = True,
        handed_over: bool = False,
        **changes: Any,
    ) -> bool:
        """An attempt ends; `finish` is of its only call, empty when it has made none."""
        state = attempt_pb2.ATTEMPT_STATE_FAILED if failed else attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        result = attempt_pb2.AttemptResult(state=state, handed_over=handed_over)
        if failed:
            result.failure.failure_class = failed  # type: ignore[assignment]
            result.failure.message = "the server broke"
        finish = finish if finish is not None else ("error" if failed else "stop")
        if finish:
            call = result.calls.add(call=1, finish_reason=finish)
            call.time_to_first_token.seconds = first_token
            call.usage.prompt_tokens = 5 if sent else 0
        attempt = AttemptFold(
            uid="1.1",
            number=1,
            role=common_pb2.ROLE_WORKER,
            route="fast",
            epoch=1,
            grant=attempt_pb2.Grant(call=1, tokens=9),
            start=0.0,
            deadline=30.0,
            result=result,
            **({"end": 30.0} | changes),
        )
        ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=1)
        finished = job_pb2.AttemptFinished(ref=ref, result=result)
        event = job_pb2.JobEvent(attempt_finished=finished)
        return self.gates.observe(event, JobFold(attempts={attempt.key: attempt}))

    def break_it(self) -> None:
        for _ in range(3):
            self.ends(common_pb2.FAILURE_CLASS_TRANSIENT)


def test_an_open_route_says_why_and_lets_one_attempt_of_all_jobs_try_it() -> None:
    gates = Gates()
    gates.break_it()
    assert not gates.state().ready
    assert "the server broke" in gates.state().detail
    gates.now += RULES.longest
    assert (gates.state("a").slots, gates.state("b").slots) == (1, 1)
    gates.hold("a", 1)
    assert not gates.state("b").ready, "one attempt at a time"
    gates.hold("a", 0)  # lost without a word
    assert gates.state("b").ready
    gates.hold("b", 1)
    assert gates.ends(), "a breaker that closes is news"
    assert gates.state("a").ready


def test_attempts_from_before_a_route_failed_neither_try_it_nor_end_its_trial() -> None:
    gates = Gates()
    gates.hold("a", 3)
    gates.break_it()
    gates.now += RULES.longest
    gates.hold("a", 2)
    gates.hold("b", 1)
    assert not gates.state("a").ready
    gates.hold("a", 1)
    assert not gates.state("a").ready, "one of the old ones has ended"
    gates.ends(common_pb2.FAILURE_CLASS_TRANSIENT)  # so has another one, and badly
    gates.now += 2 * RULES.longest
    assert not gates.state("c").ready, "what tries it is out still"
    gates.hold("b", 0)
    assert gates.state("c").ready


def test_a_trial_that_was_decided_and_not_committed_binds_nobody() -> None:
    gates = Gates()
    gates.break_it()
    gates.now += RULES.longest
    none = running("a", 0)
    gates.gates.hold("a", none, running("a", 1))
    assert not gates.state("b").ready
    assert gates.state("a").ready, "it decides again"
    assert gates.gates.hold("a", none, none), "and otherwise: others may"
    assert gates.state("b").ready


def test_an_attempt_without_tokens_or_of_a_dead_driver_tries_no_route() -> None:
    gates = Gates()
    gates.break_it()
    gates.now += RULES.longest
    one = running("a", 1)
    (key,) = one.attempts
    merges = replace(one.attempts[key], grant=attempt_pb2.Grant(call=1))
    gates.gates.hold("a", running("a", 0), replace(one, attempts={key: merges}))
    gates.gates.hold("b", running("b", 0), replace(running("b", 1), epoch=2))
    assert gates.state("c").ready


def test_a_trial_whose_call_waits_for_its_tenant_s_quota_keeps_no_other_job_out() -> None:
    gates = Gates()
    gates.break_it()
    gates.now += RULES.longest
    gates.hold("a", 1)
    fold = gates.folds["a"]
    (key,) = fold.attempts
    waits = replace(fold.attempts[key], deferred=attempt_pb2.CallIntent(call=1))
    deferred = job_pb2.JobEvent(call_deferred=job_pb2.CallDeferred())
    assert gates.gates.observe(deferred, replace(fold, attempts={key: waits}))
    assert gates.state("b").ready


@pytest.mark.parametrize("way", ["ended", "left"])
def test_jobs_that_wait_are_told_when_a_try_has_shown_nothing(way: str) -> None:
    now, told = 100.0, list[str]()
    watch = RouteWatch(None, make_rules().routes, GateRules(breaker=RULES), clock=lambda: now)  # type: ignore[arg-type]
    gate = watch._gates._gates["fast"]
    gate.breaker = failing(Breaker(), now, now, now)
    now += RULES.longest
    watch.listen("b", lambda: told.append("b"))
    none, one = running("a", 0), running("a", 1)
    watch.hold("a", none, one, frozenset(), lambda: None)
    watch.observe(COMMITTED, one)
    assert not watch.learned["fast"].ready
    assert told == []
    if way == "ended":
        over = running("a", 0, one)  # its Worker was full, or died
        watch.hold("a", one, over, frozenset(), lambda: None)
        assert told == [], "not before the log says so"
        watch.observe(COMMITTED, over)
    else:
        watch.leave("a")
    assert watch.learned["fast"].ready
    assert told == ["b"]


def test_no_herd_comes_back_when_a_route_closes_again() -> None:
    gates = Gates()
    gates.break_it()
    gates.now += RULES.longest
    gates.hold("a", 1)
    gates.ends()
    gates.hold("a", 0)
    assert gates.state().slots == AFTER_CLOSING
    for _ in range(8):
        gates.ends()
    assert gates.state().slots == AFTER_CLOSING + 8, "and soon it takes all again"


def test_being_told_to_slow_down_narrows_a_route_and_does_not_close_it() -> None:
    gates = Gates()
    gates.hold("a", 16)
    for left in reversed(range(16)):
        gates.ends(common_pb2.FAILURE_CLASS_RATE_LIMITED)
        gates.hold("a", left)
    assert gates.state().ready
    assert gates.state().slots == 8, "a burst is one sign"
    assert "as much to do" in gates.state().detail
    for _ in range(9):
        gates.ends()
    assert gates.state().slots == 9


def test_a_long_queue_at_the_server_narrows_its_routes() -> None:
    gates = Gates(max_waiting=4)
    gates.hold("a", 16)
    gates.gates.queue_seen("fast", 4)
    gates.gates.queue_seen("fast", None)
    assert gates.gates.states(READY)["fast"].slots == 4
    gates.gates.queue_seen("fast", 5)
    gates.hold("a", 0)
    assert gates.state().slots == 12


def test_what_is_the_task_s_fault_leaves_a_route_open() -> None:
    gates = Gates()
    for _ in range(9):
        gates.ends(INVALID, "stop", spent=5)
        gates.ends(TIMEOUT, "abort", stop=attempt_pb2.STOP_REASON_INTERRUPT)
        # The server has rejected what the task asks for, such as a schema it does not know.
        gates.ends(common_pb2.FAILURE_CLASS_INTERNAL)
        # The time that the job gave it was short.
        gates.ends(TIMEOUT, "abort", end=1.0)
        gates.ends(TIMEOUT, "abort", first_token=29)
    assert gates.state().ready


def test_workers_that_are_drained_leave_a_route_open() -> None:
    gates = Gates()
    for _ in range(9):
        gates.ends(common_pb2.FAILURE_CLASS_TRANSIENT, "")
        gates.ends(common_pb2.FAILURE_CLASS_TRANSIENT, "abort", first_token=1)
    assert gates.state().ready


@pytest.mark.parametrize("told", [False, True])
def test_a_server_that_hangs_is_left_alone_whoever_ends_the_attempt(told: bool) -> None:
    stopped: dict[str, Any] = {
        "stop": attempt_pb2.STOP_REASON_TIMEOUT,
        "cause": job_pb2.INTERRUPT_CAUSE_TIMEOUT,
        "spent": 9,  # at most: nobody knows what it did
    }
    gates = Gates()
    for _ in range(3):
        gates.ends(TIMEOUT, "abort", **(stopped if told else {}))
    assert not gates.state().ready


def test_calls_that_stood_in_line_for_the_route_s_own_limit_leave_it_open() -> None:
    told: dict[str, Any] = {
        "stop": attempt_pb2.STOP_REASON_TIMEOUT,
        "cause": job_pb2.INTERRUPT_CAUSE_TIMEOUT,
    }
    gates = Gates()
    for _ in range(9):
        gates.ends(TIMEOUT, "abort", sent=False)
        gates.ends(TIMEOUT, "abort", sent=False, **told)
    assert gates.state().ready


def test_an_attempt_that_made_no_call_proves_nothing_of_a_route() -> None:
    gates = Gates()
    gates.break_it()
    gates.now += RULES.longest
    assert not gates.ends(0, "")
    assert gates.ends()


def test_attempts_that_a_stopped_worker_hands_over_leave_a_route_open() -> None:
    gates = Gates()
    for _ in range(9):
        gates.ends(common_pb2.FAILURE_CLASS_TRANSIENT, handed_over=True)
    assert gates.state().ready


def test_attempts_that_are_lost_with_their_driver_leave_a_route_open() -> None:
    gates = Gates()
    for _ in range(9):
        gates.hold("a", 1)
        gates.hold("a", 0)
    assert gates.state().ready


async def test_status_says_that_a_route_is_left_alone_though_its_server_answers() -> None:
    class Model:
        async def readiness(self, _route: object) -> Readiness:
            return Readiness(True, "m is ready.")

    states = {"fast": RouteState(False, "its attempts failed again and again: it broke.")}
    routes = make_rules().routes
    board = StatusBoard(None, (), routes, Model(), route_states=lambda: states)  # type: ignore[arg-type]
    state, words = await board._check_route(routes["fast"])
    assert (state, words) == (
        DOWN,
        "m is ready. But its attempts failed again and again: it broke.",
    )
    assert await board._check_route(routes["reasoning"]) == (UP, "m is ready.")


def test_a_route_for_which_jobs_wait_can_be_looked_at_for_nobody() -> None:
    gates = RouteGates(["fast"], GateRules(most=2), lambda: 0.0)
    seen = {"fast": RouteState(ready=True)}
    a, b = running("a", 2), running("b", 0)
    gates.hold("a", running("a", 0), a, frozenset({"fast"}), lambda: None)
    gates.hold("b", b, b, frozenset({"fast"}), lambda: None)
    assert gates.states(seen)["fast"].slots == 0
    gates.hold("a", a, running("a", 1, a))
    assert gates.states(seen)["fast"].slots == 1
