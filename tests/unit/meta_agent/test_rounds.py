"""Rounds: what is asked again, what the next round may cost, and which answer stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration

from hma.llm.calibration import Calibration
from hma.llm.routes import Routes
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.budget import purse_of
from services.meta_agent.deciding.observed import Ended
from services.meta_agent.deciding.rules import Rules
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import Faults, World, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk
from tests.unit.meta_agent.test_simulated_jobs import check_end

SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL

CALIBRATION = Calibration(100, ((-1.0, 0.4), (0.0, 0.95)), ((0.0, 0.3),))


def make_desk(
    sizes: tuple[int, ...] = (3,),
    *,
    budget: int = 20_000,
    rules: Rules | None = None,
    plan: task_pb2.Plan | None = None,
    **policy: object,
) -> Desk:
    created = make_created(
        items=sum(sizes),
        budget=budget,
        plan=plan or itemised_plan(sizes),
        documents=1,
        policy=job_pb2.JobPolicy(**{"max_rounds": 2, **policy}),  # type: ignore[arg-type]
    )
    desk = Desk(created, rules or make_rules())
    desk.step()
    return desk


def work(desk: Desk, name: str, **answers: float) -> None:
    """A task ends with these answers, each with its mean log-probability."""
    attempt = desk.attempt(name)
    task = desk.fold.tasks[attempt.uid].task
    missing = [item.item_id for item in task.items if item.item_id not in answers]
    result = attempt_pb2.AttemptResult(state=PARTIAL if missing else SUCCEEDED)
    if missing:
        result.failure.failure_class = common_pb2.FAILURE_CLASS_REFUSED
    for item, logprob in answers.items():
        result.task.items.add(
            item_id=item,
            answer="42",
            grounded=True,
            mean_logprob=logprob,
            origin=common_pb2.ORIGIN_MODEL,
        )
    result.task.missing.extend(task_pb2.Missing(item_id=item) for item in missing)
    desk.step(Ended(attempt.key, result))


def reduce(desk: Desk, *, text: str = "the answer") -> list[str]:
    """The Reducer ends with all that the tasks have answered."""
    attempt = desk.attempt(desk.fold.reduce_uid)
    result = attempt_pb2.AttemptResult(state=SUCCEEDED)
    have: dict[str, task_pb2.ItemAnswer] = {}
    for task in desk.fold.tasks.values():
        have.update({i.item_id: i for i in task.result.items} if task.result else {})
    result.answer.items.extend(have.values())
    result.answer.text = text
    asked = desk.fold.created.items
    result.answer.missing.extend(
        task_pb2.Missing(item_id=i.item_id) for i in asked if i.item_id not in have
    )
    result.answer.confidence = len(have) / max(len(asked), 1)
    return desk.step(Ended(attempt.key, result))


def judged(desk: Desk) -> list[job_pb2.RoundJudged]:
    return [e.round_judged for e in desk.events if e.HasField("round_judged")]


def items_of_round(desk: Desk, number: int) -> list[str]:
    tasks = [t for t in desk.fold.tasks.values() if t.generation == number]
    return [item.item_id for task in tasks for item in task.task.items]


def test_second_round_asks_only_what_is_open_and_says_what_it_redoes() -> None:
    desk = make_desk((3,))
    work(desk, "t0", q1=-0.1)
    reduce(desk)
    (first,) = judged(desk)
    assert first.another_round
    assert first.features.missing == 2
    assert first.features.another_round.items == 2
    assert items_of_round(desk, 2) == ["q2", "q3"]
    again = desk.fold.tasks["2.1"]
    assert again.redoes == "1.1"
    desk.step()
    work(desk, again.task.id, q2=-0.1, q3=-0.1)
    reduce(desk)
    assert [r.another_round for r in judged(desk)] == [True, False]
    assert desk.fold.state == job_pb2.JOB_STATE_SUCCEEDED


def test_one_round_is_all_by_default() -> None:
    desk = make_desk((2,), max_rounds=0)
    work(desk, "t0", q1=-0.1)
    reduce(desk)
    assert not judged(desk)[0].another_round
    assert desk.fold.ended


def test_round_that_its_budget_does_not_pay_for_is_not_begun() -> None:
    desk = make_desk((1, 1), budget=500)
    work(desk, "t0", q1=-0.1)
    attempt = desk.attempt("t1")
    result = attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)
    result.failure.failure_class = common_pb2.FAILURE_CLASS_REFUSED
    result.calls.add(call=1, usage=common_pb2.Usage(prompt_tokens=attempt.grant.tokens))
    desk.step(Ended(attempt.key, result))
    desk.fold = replace(desk.fold, budget=desk.fold.spent + 100)
    reduce(desk)
    (first,) = judged(desk)
    assert not first.another_round
    assert "need" in first.reason
    assert first.features.tokens_left == 100 < first.features.another_round.tokens


def test_reduce_after_the_round_is_funded_with_the_results_to_come() -> None:
    rules = make_rules("standard")
    plan = itemised_plan([1, 1])
    for task in plan.tasks:
        task.kind = common_pb2.TASK_KIND_SUMMARIZE
        task.max_result_tokens = 3000
    desk = make_desk((1, 1), budget=40_000, rules=rules, plan=plan)
    work(desk, "t0", q1=-0.1)
    work(desk, "t1")
    reduce(desk)
    (first,) = judged(desk)
    assert first.another_round
    purse = purse_of(desk.fold, rules)
    assert purse.reserved <= first.features.reduce_tokens
    assert purse.pool >= 0


def test_candidate_that_is_too_dear_keeps_no_other_from_a_round() -> None:
    rules = make_rules()
    plan = itemised_plan([6, 1])
    desk = make_desk((6, 1), budget=20_000, rules=rules, plan=plan)
    work(desk, "t0")
    work(desk, "t1")
    desk.fold = replace(desk.fold, budget=desk.fold.spent + 300)
    reduce(desk)
    assert judged(desk)[0].another_round
    assert items_of_round(desk, 2) == ["q7"]


def calibrated(**changes: object) -> Rules:
    profile = {"calibration": CALIBRATION, "think_tokens": 20}
    return make_rules(profile=profile, **changes)  # type: ignore[arg-type]


def test_weak_and_unread_items_of_one_task_are_both_asked_again() -> None:
    desk = make_desk((3,), rules=calibrated())
    work(desk, "t0", q1=-0.1, q2=-5.0)
    reduce(desk)
    assert sorted(items_of_round(desk, 2)) == ["q2", "q3"]
    weak = next(t for t in desk.fold.tasks.values() if [i.item_id for i in t.task.items] == ["q2"])
    assert weak.task.route == "reasoning", "the same route would say the same"


def test_weak_answer_that_stands_in_the_source_is_asked_again_and_not_dropped() -> None:
    desk = make_desk((2,), rules=calibrated())
    work(desk, "t0", q1=-0.1, q2=-5.0)
    reduce(desk)
    assert items_of_round(desk, 2) == ["q2"]
    desk.step()
    desk.step()
    assert not desk.fold.tasks["2.1"].settled
    assert desk.fold.open_attempt("2.1") is not None


def test_adaptive_halting_needs_calibration_and_logs_its_figures() -> None:
    adaptive = job_pb2.HALTING_POLICY_ADAPTIVE
    for rules, goes_on in ((make_rules(), False), (calibrated(), True)):
        desk = make_desk((2,), rules=rules, halting=adaptive)
        work(desk, "t0", q1=-0.1)
        reduce(desk)
        (first,) = judged(desk)
        assert first.policy == adaptive
        assert first.another_round is goes_on
        assert first.features.calibrated is goes_on
        assert first.features.another_round.gain_per_1000_tokens > 0
        assert first.features.min_gain_per_1000_tokens == 0.5
    desk = make_desk((2,), rules=calibrated(), halting=adaptive, min_gain_per_1000_tokens=50.0)
    work(desk, "t0", q1=-0.1)
    reduce(desk)
    assert not judged(desk)[0].another_round


def test_quality_is_the_mean_over_all_items_by_calibration() -> None:
    desk = make_desk((2,), rules=calibrated())
    work(desk, "t0", q1=-0.1)
    reduce(desk)
    assert judged(desk)[0].features.quality == pytest.approx(0.95 / 2)


def test_answer_is_judged_by_the_calibration_of_the_route_that_gave_it() -> None:
    rules = calibrated()
    surer = Calibration(100, ((-1.0, 0.9), (0.0, 0.95)), ((0.0, 0.3),))
    other = rules.route("reasoning")
    other = replace(other, profile=replace(other.profile, calibration=surer))
    rules = replace(rules, routes=Routes({**rules.routes, "reasoning": other}, "fast"))
    desk = make_desk((1,), rules=rules, max_rounds=3)
    work(desk, "t0", q1=-5.0)
    reduce(desk)
    desk.step()
    work(desk, "t0.r2", q1=-4.0)
    attempt = desk.attempt("r.2")
    result = attempt_pb2.AttemptResult(state=SUCCEEDED)
    result.answer.items.extend(desk.fold.tasks["2.1"].result.items)  # type: ignore[union-attr]
    desk.step(Ended(attempt.key, result))
    first, second = judged(desk)
    assert first.features.quality == pytest.approx(0.4)
    assert second.features.quality == pytest.approx(0.9)


def helped_plan() -> task_pb2.Plan:
    """t1 has all items, and cannot do without t0."""
    plan = itemised_plan([0, 2])
    plan.tasks[0].critical = True
    plan.tasks[1].depends_on.append("t0")
    return plan


def test_task_that_lacked_what_it_needs_is_asked_again_after_it() -> None:
    desk = make_desk((2,), plan=helped_plan(), max_attempts=1)
    desk.step(desk.ends("t0", ok=False, failure_class=common_pb2.FAILURE_CLASS_REFUSED))
    reduce(desk)
    (first,) = judged(desk)
    assert first.features.another_round.items == 2
    desk.step()
    assert desk.open() == ["t0.r2"]
    desk.step(desk.ends("t0.r2"))
    desk.step()
    work(desk, "t1.r2", q1=-0.1, q2=-0.1)
    reduce(desk)
    assert desk.fold.state == job_pb2.JOB_STATE_SUCCEEDED


def test_helper_is_not_asked_again_when_what_it_served_is_answered() -> None:
    plan = helped_plan()
    plan.tasks[0].critical = False
    desk = make_desk((2,), plan=plan, max_attempts=1)
    desk.step(desk.ends("t0", ok=False, failure_class=common_pb2.FAILURE_CLASS_REFUSED))
    desk.step()
    work(desk, "t1", q1=-0.1, q2=-0.1)
    reduce(desk)
    assert not judged(desk)[0].another_round
    assert desk.fold.ended


def test_item_that_would_gain_nothing_is_not_asked_along_with_others() -> None:
    desk = make_desk((1, 1), rules=calibrated(), max_rounds=2)
    good_for_its_kind = Calibration(100, ((-1.0, 0.72), (0.0, 0.95)), ((0.0, 0.3),))
    desk.rules = make_rules(profile={"calibration": good_for_its_kind, "think_tokens": 20})
    work(desk, "t0", q1=-5.0)
    work(desk, "t1")
    reduce(desk)
    assert items_of_round(desk, 2) == ["q2"]


def second_round(**policy: object) -> Desk:
    desk = make_desk((2,), **policy)  # type: ignore[arg-type]
    work(desk, "t0", q1=-0.1)
    reduce(desk, text="the first")
    desk.step()
    return desk


def test_worse_answer_keeps_the_one_before() -> None:
    desk = second_round()
    work(desk, desk.open()[0], q2=-0.1)
    attempt = desk.attempt("r.2")
    worse = attempt_pb2.AttemptResult(state=SUCCEEDED)
    worse.answer.text = "the second"
    desk.step(Ended(attempt.key, worse))
    assert judged(desk)[-1].keeps_previous_answer
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "the first"


def test_reducer_that_dies_in_the_second_round_leaves_the_first_answer() -> None:
    desk = second_round()
    work(desk, desk.open()[0])
    for _ in range(20):
        if desk.fold.ended:
            break
        if "r.2" in desk.open():
            desk.step(desk.ends("r.2", ok=False, message="broken"))
        desk.step(after=3.0)
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "the first"
    assert desk.fold.state == job_pb2.JOB_STATE_PARTIAL


def test_interrupt_in_the_second_round_still_answers() -> None:
    desk = second_round()
    desk.fact(interrupt_requested=job_pb2.InterruptRequested(reason="now"))
    desk.step()
    desk.step(desk.ends(desk.open()[0], ok=False))
    desk.step()
    reduce(desk)
    assert desk.fold.ended
    assert not judged(desk)[-1].another_round
    assert desk.fold.answer is not None


def test_deadline_in_the_second_round_gives_the_first_answer() -> None:
    desk = second_round()
    desk.step(after=599.9)
    assert desk.fold.ended
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "the first"


def test_worse_answer_that_there_is_no_time_to_judge_does_not_stand() -> None:
    desk = second_round()
    work(desk, desk.open()[0], q2=-0.1)
    lost = desk.attempt("r.2")
    ref = attempt_pb2.AttemptRef(job_id="job-1", epoch=1, task_uid="r.2", attempt=1)
    desk.fact(attempt_lost=job_pb2.AttemptLost(ref=ref, reason="its stream broke"))
    desk.step(after=590.0)
    assert desk.attempt("r.2").number > lost.number
    late = attempt_pb2.AttemptResult(state=SUCCEEDED)
    late.answer.text = "the second"
    desk.now += 9.5
    desk.fact(attempt_reported=job_pb2.AttemptReported(ref=ref, result=late))
    desk.step()
    desk.step(after=0.3)
    assert desk.fold.ended
    assert not judged(desk)[1:], "the other attempt was still open"
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "the first"


def test_cancel_between_rounds_ends_without_an_answer() -> None:
    desk = second_round()
    desk.fact(cancel_requested=job_pb2.CancelRequested())
    desk.step()
    desk.step(desk.ends(desk.open()[0], ok=False))
    assert desk.fold.state == job_pb2.JOB_STATE_CANCELLED
    assert desk.fold.answer is None


def test_second_round_has_layers_and_layer_times_of_its_own() -> None:
    limit = Duration(seconds=5)
    desk = make_desk((2,), dispatch=job_pb2.DISPATCH_WAVES, layer_timeout=limit)
    work(desk, "t0", q1=-0.1)
    desk.now += 10
    reduce(desk)
    desk.step()
    again = desk.fold.tasks["2.1"]
    assert again.layer == 1
    assert not again.settled
    assert desk.open() == [again.task.id]


def test_failing_fast_begins_no_other_round() -> None:
    desk = make_desk((1, 1), failure_policy=job_pb2.FAILURE_POLICY_FAIL_FAST)
    work(desk, "t1", q2=-0.1)
    desk.step(desk.ends("t0", ok=False, failure_class=common_pb2.FAILURE_CLASS_REFUSED))
    desk.step()
    reduce(desk)
    assert [r.another_round for r in judged(desk)] == [False]
    assert "fail fast" in judged(desk)[0].reason


def test_full_plan_begins_no_round_without_tasks() -> None:
    desk = make_desk((2,), rules=make_rules(max_plan_tasks=1))
    work(desk, "t0", q1=-0.1)
    reduce(desk)
    assert not judged(desk)[0].another_round
    assert desk.fold.ended


def test_simulated_jobs_of_several_rounds_end_whole() -> None:
    faults = Faults(failed=0.3, partial=0.3, empty=0.2, broken=0.1, driver_dies=0.3)
    more = 0
    for seed in range(60):
        created = make_created(
            items=5,
            budget=4000,
            plan=itemised_plan([2, 1, 2], chain=seed % 3),
            documents=1,
            policy=job_pb2.JobPolicy(
                max_rounds=3,
                dispatch=job_pb2.DISPATCH_WAVES if seed % 2 else job_pb2.DISPATCH_DATAFLOW,
            ),
        )
        world = World(seed, created, make_rules(), faults)
        more += world.run().round > 1
        check_end(world)
    assert more > 20
