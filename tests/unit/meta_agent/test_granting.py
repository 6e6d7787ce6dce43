"""What a call is granted: all it asks for, or what is worth it while others wait."""

from __future__ import annotations

from dataclasses import replace

from hma.v1 import attempt_pb2, job_pb2
from services.meta_agent.deciding.history import History, task_key
from services.meta_agent.deciding.observed import Intended
from tests.unit.meta_agent.histories import ANSWER, MEDIUM, measured, sketch
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import make_created, make_rules
from tests.unit.meta_agent.test_allotting import moves
from tests.unit.meta_agent.test_deciding import Desk


def make_desk(budget: int, sizes: tuple[int, ...] = (1, 1), completion: float = 20) -> Desk:
    rules = make_rules()
    rules = replace(rules, history=measured(rules, completion=completion))
    created = make_created(items=sum(sizes), budget=budget, plan=itemised_plan(sizes), documents=1)
    desk = Desk(created, rules)
    desk.step()
    return desk


def ask(desk: Desk, name: str, **intent: int) -> attempt_pb2.Grant:
    key = desk.attempt(name).key
    given = {"call": 1, "prompt_tokens": 100, "max_completion_tokens": 80, "items": 1, **intent}
    desk.step(Intended(key, attempt_pb2.CallIntent(**given)))  # type: ignore[arg-type]
    return desk.fold.attempts[key].grant


def last_granted(desk: Desk) -> job_pb2.CallGranted:
    return next(e.call_granted for e in reversed(desk.events) if e.HasField("call_granted"))


def test_call_gets_all_that_it_asks_for_while_nobody_waits() -> None:
    desk = make_desk(2000)
    assert ask(desk, "t0").tokens == 180


def test_call_gets_the_measured_completion_while_others_wait() -> None:
    desk = make_desk(210, (1, 1, 1))
    assert desk.fold.deferred
    grant = ask(desk, "t0")
    # 20 tokens were measured, read from a bucket that is at most 15 % too high.
    assert 120 <= grant.tokens <= 100 + 20 * 1.15 + 1


def test_least_completion_that_is_worth_a_call_is_kept() -> None:
    desk = make_desk(210, (1, 1, 1))
    assert ask(desk, "t0", min_completion_tokens=40).tokens == 140


def test_call_gets_more_where_that_buys_more_than_those_that_wait() -> None:
    desk = make_desk(210, (1, 1, 1))
    rules = desk.rules
    key = task_key(rules.route("fast"), ANSWER, MEDIUM)
    record = rules.history.record(key)
    # Of 100 calls, 4 are a little longer than what 95 of them need.
    longer = replace(record, completion=sketch(20, times=96).plus(sketch(24, times=4)))
    desk.rules = replace(rules, history=History({key: longer}))
    assert ask(desk, "t0", prompt_tokens=130, max_completion_tokens=80).tokens == 152
    desk = make_desk(210, (1, 1, 1))
    desk.rules = replace(rules, history=History({key: longer}))
    assert ask(desk, "t0", prompt_tokens=130, max_completion_tokens=25).tokens == 155


def test_what_comes_from_the_pool_is_logged_with_its_estimate() -> None:
    desk = make_desk(2000)
    ask(desk, "t0", prompt_tokens=500)
    granted = last_granted(desk)
    assert granted.from_pool_tokens > 0
    assert granted.estimate.gain > 0
    assert granted.estimate.samples == 100
    ask(desk, "t1", prompt_tokens=20, max_completion_tokens=200)
    assert last_granted(desk).intent.prompt_tokens == 20


def test_denial_says_what_it_needs_and_what_is_left() -> None:
    desk = make_desk(300)
    grant = ask(desk, "t0", prompt_tokens=5000, min_completion_tokens=5)
    assert grant.denied
    assert "needs 5005 tokens" in grant.reason
    assert "are left for it" in grant.reason


def test_surplus_of_a_nearly_finished_task_goes_to_those_that_wait_at_once() -> None:
    desk = make_desk(620, (3, 1, 1, 1))
    assert desk.fold.deferred
    before = len(moves(desk.events))
    waiting = dict(desk.fold.deferred)
    ask(desk, "t0", calls_left=0, max_completion_tokens=20)
    made = moves(desk.events)[before:]
    assert made[0].from_task_uid == "1.1"
    assert made[0].reason == "nearly done: this is its last call"
    assert made[1].to_task_uid in waiting
    assert len(desk.fold.deferred) < len(waiting)


def test_task_with_calls_to_come_keeps_what_they_need() -> None:
    desk = make_desk(620, (3, 1, 1, 1))
    before = len(moves(desk.events))
    ask(desk, "t0", calls_left=2, max_completion_tokens=20)
    assert not [m for m in moves(desk.events)[before:] if m.from_task_uid == "1.1"]


def test_nothing_is_given_back_while_nobody_waits() -> None:
    desk = make_desk(5000, (3, 1))
    ask(desk, "t0", calls_left=0)
    assert not moves(desk.events)
