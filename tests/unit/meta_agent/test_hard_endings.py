"""Jobs whose end is hard to get right: late reports, deadlines, refusals, money."""

from __future__ import annotations

from dataclasses import replace

from hma.llm.prices import Prices
from hma.llm.profiles import PRESETS
from hma.llm.routes import Route, Routes
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.money import held_money, within_money
from services.meta_agent.deciding.observed import (
    Broken,
    Ended,
    Intended,
    Planned,
    Refused,
    RouteState,
)
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.shape import single_task
from tests.growth import count_calls
from tests.unit.meta_agent.simulation import START, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk, make_desk, make_plan

PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED


def answers(desk: Desk, name: str, **items: str) -> Ended:
    """A partial result: some items answered, the others missing."""
    attempt = desk.attempt(name)
    task = desk.fold.tasks[attempt.uid].task
    result = attempt_pb2.AttemptResult(state=PARTIAL)
    result.failure.failure_class = common_pb2.FAILURE_CLASS_TRANSIENT
    for item_id, text in items.items():
        result.task.items.append(
            task_pb2.ItemAnswer(item_id=item_id, answer=text, origin=common_pb2.ORIGIN_MODEL)
        )
    missing = [i.item_id for i in task.items if i.item_id not in items]
    result.task.missing.extend(task_pb2.Missing(item_id=name) for name in missing)
    return Ended(attempt.key, result)


def report(uid: str, number: int, **output: object) -> job_pb2.AttemptReported:
    ref = attempt_pb2.AttemptRef(task_uid=uid, attempt=number)
    result = attempt_pb2.AttemptResult(state=SUCCEEDED, **output)  # type: ignore[arg-type]
    return job_pb2.AttemptReported(ref=ref, result=result)


def items_plan(count: int) -> task_pb2.Plan:
    items = [task_pb2.Item(item_id=f"q{n}", text=f"Q{n}?") for n in range(1, count + 1)]
    return task_pb2.Plan(tasks=[task_pb2.Task(id="a", instruction="do", items=items)])


def test_a_wide_deep_plan_is_skipped_by_its_tasks_and_not_by_its_paths() -> None:
    layers = {}
    for layer in range(40):
        before = [f"t{layer - 1}x", f"t{layer - 1}y"] if layer else []
        layers[f"t{layer}x"] = layers[f"t{layer}y"] = before
    desk = make_desk(make_plan(**layers))

    def work() -> None:
        desk.step()
        desk.step(after=0.1)
        desk.fact(interrupt_requested=job_pb2.InterruptRequested())
        desk.step(after=0.1)

    # Of paths there are 2 to the power of forty.
    count_calls(work, 500_000)
    unsettled = [task.task.id for task in desk.fold.tasks.values() if not task.settled]
    assert (len(desk.fold.tasks), unsettled) == (80, ["t0x", "t0y"])
    desk.step(desk.ends("t0x"), desk.ends("t0y"))
    assert all(task.settled for task in desk.fold.tasks.values())


def test_break_after_the_first_answers_buys_only_the_rest_again() -> None:
    desk = make_desk(items_plan(3))
    desk.step()
    desk.step(answers(desk, "a", q1="one"))
    assert not desk.fold.tasks["1.1"].settled
    desk.step(after=1.0)
    desk.step(answers(desk, "a", q2="two", q3="three"))
    task = desk.fold.tasks["1.1"]
    assert task.result is not None
    assert [i.answer for i in task.result.items] == ["one", "two", "three"]


def test_late_whole_result_wins_over_the_attempt_that_replaced_it() -> None:
    desk = make_desk(items_plan(1))
    desk.step()
    first = desk.attempt("a")
    desk.step(after=5.0, broken={first.key: Broken(START, "broke")})
    desk.step(after=1.0)
    assert desk.attempt("a").number == 2
    truth = task_pb2.ItemAnswer(item_id="q1", answer="the true answer")
    desk.fact(attempt_reported=report("1.1", 1, task=task_pb2.TaskResult(items=[truth])))
    desk.step()
    assert desk.attempt("a").stop == attempt_pb2.STOP_REASON_CANCEL
    desk.step(answers(desk, "a", q1="something else"))
    task = desk.fold.tasks["1.1"]
    assert task.state == job_pb2.TASK_STATE_SUCCEEDED
    assert task.result is not None
    assert [i.answer for i in task.result.items] == ["the true answer"]


def test_late_answer_of_the_reducer_ends_the_job_and_the_second_try() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    desk.step(desk.ends("a"))
    desk.step()
    reduce = desk.attempt("r.1")
    desk.step(after=5.0, broken={reduce.key: Broken(desk.now, "broke")})
    desk.step(after=1.0)
    assert desk.attempt("r.1").number == 2
    desk.fact(attempt_reported=report("r.1", 1, answer=task_pb2.Answer(text="here it is")))
    desk.step()
    assert desk.attempt("r.1").stop == attempt_pb2.STOP_REASON_CANCEL
    desk.step(desk.ends("r.1", ok=False, failure_class=common_pb2.FAILURE_CLASS_CANCELLED))
    assert desk.fold.ended
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "here it is"


def prose_desk(deadline: float, budget: int = 50_000) -> Desk:
    plan = make_plan(a=[], b=[])
    for task in plan.tasks:
        task.kind = common_pb2.TASK_KIND_WRITE
    created = make_created(items=0, budget=budget, plan=plan, deadline=deadline)
    return Desk(created, make_rules("standard"))


def test_reducer_is_stopped_in_time_to_bring_what_it_has() -> None:
    desk = prose_desk(60)
    desk.step()
    desk.step(desk.ends("a"), desk.ends("b"))
    desk.step()
    reduce = desk.attempt("r.1")
    assert reduce.grant.tokens > 0
    assert reduce.deadline <= desk.fold.deadline - 3.0
    desk.step(after=reduce.deadline - desk.now)
    assert not desk.fold.ended
    assert desk.attempt("r.1").stop == attempt_pb2.STOP_REASON_TIMEOUT


def test_prose_waits_for_its_route_as_long_as_there_is_time() -> None:
    away = {"fast": RouteState(False, "it broke"), "reasoning": RouteState(False, "it broke")}
    desk = prose_desk(600)
    desk.step()
    desk.step(desk.ends("a"), desk.ends("b"), routes=away)
    for _ in range(3):
        desk.step(after=1.0, routes=away)
        assert desk.open() == []
    assert desk.fold.reason == "the answer waits for route fast: it broke"
    assert desk.step(after=1.0, routes=away) == [], "and says so once"
    assert desk.wake_at < desk.fold.deadline - 25
    desk.step()
    assert (desk.open(), desk.fold.reason) == (["r.1"], "the answer is being made")
    for hurry in (600 - 20, 0):
        desk = prose_desk(600)
        desk.step()
        desk.step(desk.ends("a"), desk.ends("b"), routes=away)
        if not hurry:
            desk.fact(interrupt_requested=job_pb2.InterruptRequested())
        desk.step(after=hurry, routes=away)
        assert desk.open() == ["r.1"]


def test_prose_takes_another_route_that_suits_while_its_own_is_away() -> None:
    known = make_rules("standard").routes
    own = known["fast"]
    small = replace(own, name="small", context_tokens=own.context_tokens // 2)
    plain = replace(own, name="plain", profile=PRESETS["smollm2"])
    table = [own, known["reasoning"], small, plain, replace(own, name="other")]
    rules = Rules(routes=Routes({route.name: route for route in table}, "fast"))
    desk = prose_desk(600)
    desk.rules = rules
    desk.step()
    desk.step(desk.ends("a"), desk.ends("b"), routes={"fast": RouteState(False)})
    desk.step(routes={"fast": RouteState(False)})
    assert desk.attempt("r.1").route == "other"


def test_prose_gets_the_time_that_it_takes_before_the_deadline() -> None:
    desk = prose_desk(600)
    desk.step()
    assert all(a.deadline <= desk.fold.deadline - 25 for a in desk.fold.open_attempts())


def test_worker_that_never_answers_leaves_time_for_the_reducer() -> None:
    plan = make_plan(a=[], hung=[])
    desk = Desk(make_created(items=0, budget=50_000, plan=plan, deadline=60))
    desk.step()
    desk.step(desk.ends("a"))
    while not desk.fold.ended and "r.1" not in desk.open():
        desk.step(after=max(desk.wake_at - desk.now, 0.01))
    assert desk.open() == ["r.1"]
    assert desk.fold.deadline - desk.now > 2.0


def test_answer_made_without_the_reducer_is_partial_and_says_so() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    desk.step(desk.ends("a"))
    for _ in range(20):
        if desk.fold.ended:
            break
        if "r.1" in desk.open():
            desk.step(desk.ends("r.1", ok=False, message="broken"))
        desk.step(after=6.0)
    assert desk.fold.state == job_pb2.JOB_STATE_PARTIAL
    assert "without the Reducer: broken" in desk.fold.reason


def refused_for(desk: Desk, uid: str, seconds: float) -> None:
    """Its service is full, whenever it is asked, for so long."""
    end = desk.now + seconds
    while desk.now < end:
        desk.step(after=6.0)
        if uid in desk.open():
            limited = common_pb2.FAILURE_CLASS_RATE_LIMITED
            desk.step(Refused(desk.attempt(uid).key, limited, "all 2 places are taken"))


def test_full_reducers_are_waited_for_while_there_is_time() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    desk.step(desk.ends("a"))
    refused_for(desk, "r.1", 300)
    assert not desk.fold.ended
    desk.step(after=6.0)
    desk.step(desk.ends("r.1"))
    assert desk.fold.state == job_pb2.JOB_STATE_SUCCEEDED


def test_full_analysts_are_waited_for_until_half_the_time_is_left() -> None:
    desk = Desk(make_created(items=2))
    desk.step()
    refused_for(desk, "p.1", 200)
    assert desk.fold.plan_closed is None
    refused_for(desk, "p.1", 100)
    assert desk.fold.plan_closed is not None
    assert "all 2 places are taken" in desk.fold.plan_closed.reason
    assert desk.open() == ["rest"]


def test_plan_whose_last_word_is_lost_is_not_planned_again() -> None:
    desk = Desk(make_created(items=2))
    desk.step()
    key = desk.attempt("p.1").key
    pieces = [
        Planned(
            key,
            analyst_pb2.PlanFragment(
                index=n, task=task_pb2.Task(id=f"t{n}", instruction="x", items=[item])
            ),
        )
        for n, item in enumerate(desk.fold.created.items, 1)
    ]
    desk.step(*pieces)
    desk.step(after=5.0, broken={key: Broken(START, "broke")})
    desk.step(after=2.0)
    assert len(desk.fold.attempts_of("p.1")) == 1
    assert desk.fold.plan_closed is not None
    assert desk.fold.plan_closed.source == attempt_pb2.PLAN_SOURCE_MIXED
    assert len(desk.fold.tasks) == 2


def test_single_task_carries_the_whole_request() -> None:
    created = make_created(items=0)
    created.task_description = "word " * 4000 + "the end"
    assert single_task(created, []).instruction.endswith("the end")


def test_reason_says_that_workers_cannot_be_reached() -> None:
    desk = make_desk(make_plan(a=[]))
    gone = common_pb2.FAILURE_CLASS_TRANSIENT
    for _ in range(6):
        desk.step(after=6.0)
        if "a" in desk.open():
            desk.step(Refused(desk.attempt("a").key, gone, "Workers cannot be reached"))
    assert desk.fold.reason == "waits for Workers: Workers cannot be reached"
    desk.step(after=30.0)
    desk.step(desk.ends("a"))
    assert "waits" not in desk.fold.reason


def test_refusal_for_bad_credentials_is_not_repeated_for_ever() -> None:
    desk = make_desk(make_plan(a=[]))
    for _ in range(10):
        desk.step(after=6.0)
        if "a" in desk.open():
            key = desk.attempt("a").key
            desk.step(Refused(key, common_pb2.FAILURE_CLASS_AUTH, "not allowed"))
    task = desk.fold.tasks["1.1"]
    assert task.state == job_pb2.TASK_STATE_FAILED
    assert task.failure is not None
    assert "not allowed" in task.failure.message


# ---- money


def priced_rules() -> Rules:
    route = Route(
        name="fast",
        base_url="http://x/v1",
        model="m",
        profile=PRESETS["smollm2"],
        prices=Prices(prompt=1.0, cached_prompt=0.1, completion=4.0),
    )
    return Rules(routes=Routes({"fast": route}, "fast"))


def test_grant_never_exceeds_what_the_money_pays_for() -> None:
    created = make_created(items=0, budget=50_000, plan=make_plan(a=[]))
    created.budget.max_cost = 0.002  # 500 tokens at 4.0 per million
    desk = Desk(created, priced_rules())
    desk.step()
    attempt = desk.attempt("a")
    intent = attempt_pb2.CallIntent(
        call=1, prompt_tokens=100, max_completion_tokens=5000, min_completion_tokens=1
    )
    desk.step(Intended(attempt.key, intent))
    assert 0 < desk.fold.outstanding < 5100
    assert held_money(desk.fold, desk.rules) <= 0.002
    usage = common_pb2.Usage(prompt_tokens=100, completion_tokens=300)
    previous = attempt_pb2.CallUsage(call=1, route="fast", usage=usage)
    again = attempt_pb2.CallIntent(
        call=2, prompt_tokens=400, max_completion_tokens=100, previous=previous
    )
    desk.step(Intended(attempt.key, again))
    # 0.0013 are spent; after the prompt, 0.0003 pay for 74 tokens and a bit at 4.0.
    assert desk.fold.attempts[attempt.key].grant.tokens == 474
    usage = common_pb2.Usage(prompt_tokens=400, completion_tokens=74)
    previous = attempt_pb2.CallUsage(call=2, route="fast", usage=usage)
    more = attempt_pb2.CallIntent(
        call=3, prompt_tokens=100, max_completion_tokens=100, previous=previous
    )
    desk.step(Intended(attempt.key, more))
    assert desk.fold.attempts[attempt.key].grant.denied
    assert desk.fold.cost <= 0.002


def test_money_without_prices_limits_nothing() -> None:
    desk = Desk(make_created(items=1))
    assert within_money(1000, desk.fold, make_rules(), "fast") == 1000
