"""Tokens move to where they buy most, and what they do not pay for waits and says so."""

from __future__ import annotations

import cProfile
from collections import Counter
from dataclasses import replace

from hma.llm.routes import Routes
from hma.v1 import analyst_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.budget import purse_of
from services.meta_agent.deciding.observed import Planned
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import World, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk
from tests.unit.meta_agent.test_simulated_jobs import check_end

WHOLE = 206
"""What a task of one item is expected to cost on the small model's route."""


def make_desk(plan: task_pb2.Plan, budget: int, preset: str = "smollm2", **policy: object) -> Desk:
    items = sum(len(task.items) for task in plan.tasks)
    created = make_created(
        items=items,
        budget=budget,
        plan=plan,
        documents=1,
        policy=job_pb2.JobPolicy(**policy),  # type: ignore[arg-type]
    )
    return Desk(created, make_rules(preset))


def deferred(events: list[job_pb2.JobEvent]) -> list[str]:
    return [
        trimmed.task_uid
        for event in events
        for trimmed in event.plan_trimmed.tasks
        if trimmed.action == job_pb2.TRIM_ACTION_DEFER
    ]


def moves(events: list[job_pb2.JobEvent]) -> list[job_pb2.TokensMoved]:
    return [event.tokens_moved for event in events if event.HasField("tokens_moved")]


# ---- shortage


def test_shortage_is_said_once_with_what_is_needed_and_what_there_is() -> None:
    desk = make_desk(itemised_plan([1] * 5), 3 * WHOLE)
    desk.step()
    assert deferred(desk.events) == ["1.5", "1.4"]
    trimmed = next(e.plan_trimmed for e in desk.events if e.HasField("plan_trimmed"))
    assert trimmed.needed_tokens > trimmed.available_tokens == 3 * WHOLE
    assert all(task.value.gain > 0 and task.value.tokens > 0 for task in trimmed.tasks)
    assert desk.open() == ["t0", "t1", "t2"]
    for _ in range(5):
        assert desk.step(after=0.5) == []
    assert len(deferred(desk.events)) == 2


def test_what_an_ended_task_leaves_funds_the_next_that_waits() -> None:
    desk = make_desk(itemised_plan([1] * 4), 2 * WHOLE)
    desk.step()
    assert desk.open() == ["t0", "t1"]
    desk.step(desk.ends("t0"))  # it has spent nothing
    assert "t2" in desk.open()
    moved = moves(desk.events)[-1]
    assert moved.to_task_uid == "1.3"
    assert not moved.from_task_uid
    assert moved.estimate.gain > 0
    assert moved.tokens <= moved.pool_tokens


def test_top_up_funds_all_that_waits_at_once() -> None:
    desk = make_desk(itemised_plan([1] * 6), 2 * WHOLE)
    desk.step()
    assert len(desk.fold.deferred) == 4
    desk.fact(budget_granted=job_pb2.BudgetGranted(request_id="g", tokens=9 * WHOLE))
    desk.step()
    assert len(desk.open()) == 6
    assert not desk.fold.deferred
    assert {m.to_task_uid for m in moves(desk.events)} == {"1.3", "1.4", "1.5", "1.6"}


def test_top_up_funds_what_waits_before_there_is_a_place_for_it() -> None:
    desk = make_desk(itemised_plan([1] * 4), 2 * WHOLE)
    desk.step(slots=0)
    assert len(desk.fold.deferred) == 2
    desk.fact(budget_granted=job_pb2.BudgetGranted(request_id="g", tokens=2 * WHOLE))
    desk.step(slots=0)
    assert not desk.open()
    assert not desk.fold.deferred
    assert [m.reason for m in moves(desk.events)] == ["others left tokens"] * 2
    assert desk.step(slots=0) == []


def test_task_that_begins_with_less_than_its_need_waits_for_nobody_any_more() -> None:
    # Room for two whole tasks, and for a third to begin.
    desk = make_desk(itemised_plan([1] * 4), int(2.9 * WHOLE))
    desk.step()
    desk.step()
    assert desk.open() == ["t0", "t1", "t2"]
    assert set(desk.fold.deferred) == {"1.4"}
    assert moves(desk.events)[-1].to_task_uid == "1.3"


def test_no_task_is_started_below_its_floor() -> None:
    for budget in range(40, 900, 7):
        desk = make_desk(itemised_plan([1] * 4), budget)
        desk.step()
        for attempt in desk.fold.open_attempts():
            worker = attempt.role == common_pb2.ROLE_WORKER
            assert not worker or attempt.grant.tokens >= 84, (
                budget
            )  # a third of a prompt, and a completion


def test_nobody_is_skipped_while_a_task_that_backs_off_may_leave_tokens() -> None:
    desk = make_desk(itemised_plan([1, 1]), int(1.3 * WHOLE))
    desk.step()
    assert desk.open() == ["t0"]
    transient = common_pb2.FAILURE_CLASS_TRANSIENT
    desk.step(desk.ends("t0", ok=False, failure_class=transient))
    desk.step()
    skipped = job_pb2.TASK_STATE_SKIPPED
    assert desk.fold.tasks["1.2"].state != skipped
    desk.step(after=5.0)
    desk.step(desk.ends("t0"))
    assert desk.open() == ["t1"]


def test_helper_of_nothing_but_waiting_work_is_not_started() -> None:
    plan = itemised_plan([1, 1])
    plan.tasks.insert(0, task_pb2.Task(id="helper", instruction="look", max_result_tokens=10))
    plan.tasks[2].depends_on.append("helper")
    desk = make_desk(plan, 2 * WHOLE)
    desk.step()
    desk.step()
    # The pool would pay for the helper, but not for the task after it.
    assert purse_of(desk.fold, desk.rules).pool > 100
    assert desk.open() == ["t0"]


def test_job_without_items_runs_the_first_part_of_a_chain_that_it_cannot_pay_for() -> None:
    plan = itemised_plan([0, 0, 0], chain=3)
    desk = make_desk(plan, int(1.6 * 372))
    desk.step()
    desk.step()
    assert desk.open() == ["t0"], "what it brings is part of an answer"
    assert "1.1" not in deferred(desk.events)


def test_high_task_is_reckoned_with_on_the_route_that_its_tokens_let_it_take() -> None:
    plan = itemised_plan([1, 1])
    for task in plan.tasks:
        task.complexity = common_pb2.COMPLEXITY_HIGH
    desk = make_desk(plan, 2200, "standard")
    desk.step()
    desk.step()
    assert [attempt.route for attempt in desk.fold.open_attempts()] == ["fast"]
    assert not deferred(desk.events)


# ---- budgeting off


def test_static_shares_are_made_once_when_the_plan_is_closed_and_never_move() -> None:
    off = job_pb2.SWITCH_OFF
    desk = make_desk(itemised_plan([1] * 4), 8 * WHOLE, budgeting=off)
    desk.step()
    shares = [task.allotted for task in desk.fold.tasks.values()]
    assert shares == [2 * WHOLE] * 4
    made = len(moves(desk.events))
    desk.step(desk.ends("t0"))
    desk.step()
    assert len(moves(desk.events)) == made, "what a task left is nobody's"
    desk.fact(budget_granted=job_pb2.BudgetGranted(request_id="g", tokens=6000))
    desk.step()
    desk.step()
    assert [move.tokens for move in moves(desk.events)[made:]] == [2000] * 3
    assert not deferred(desk.events)


def test_static_shares_are_made_although_tasks_have_begun_while_the_plan_was_streamed() -> None:
    policy = job_pb2.JobPolicy(budgeting=job_pb2.SWITCH_OFF, shape=job_pb2.JOB_SHAPE_TEAM)
    desk = Desk(make_created(items=1, budget=20_000, policy=policy), make_rules())
    desk.step()
    task = task_pb2.Task(id="t1", instruction="x", items=desk.fold.created.items)
    fragment = analyst_pb2.PlanFragment(index=1, task=task)
    desk.step(Planned(desk.attempt("p.1").key, fragment))
    assert desk.open() == ["p.1", "t1"]
    desk.step(desk.ends("p.1"))
    assert desk.fold.tasks["1.1"].allotted == 20_000


# ---- merging


def merging_desk(**fields: object) -> Desk:
    plan = itemised_plan([1] * 8)
    for task in plan.tasks:
        task.MergeFrom(task_pb2.Task(**fields))  # type: ignore[arg-type]
    plan.tasks.add(id="after", instruction="sum up", depends_on=["t0", "t7"])
    return make_desk(plan, 5000, "standard")


def test_tasks_that_share_a_prompt_are_merged_and_their_dependents_need_the_one() -> None:
    desk = merging_desk(max_tokens=4000)
    desk.step()
    task = desk.fold.tasks["1.1"].task
    assert [item.item_id for item in task.items] == [f"q{n}" for n in range(1, 9)]
    assert task.max_tokens == 8 * 4000, "what eight tasks may cost, the one may"
    assert {t.merged_into for t in desk.fold.tasks.values()} == {"", "1.1"}
    after = desk.fold.task_by_id("after")
    assert after is not None
    assert list(after.task.depends_on) == ["t0"]
    settled = [e.task_settled.task_uid for e in desk.events if e.HasField("task_settled")]
    assert settled == [f"1.{n}" for n in range(2, 9)]


def test_job_with_merged_tasks_succeeds_and_answers_each_item_once() -> None:
    for seed in range(20):
        created = make_created(items=8, budget=4000, plan=itemised_plan([1] * 8), documents=1)
        world = World(seed, created, make_rules("standard"))
        fold = world.run()
        merged = [task for task in fold.tasks.values() if task.merged_into]
        assert len(merged) == 7
        check_end(world)
        assert fold.answer is not None
        counts = Counter(item.item_id for item in fold.answer.items)
        assert set(counts.values()) == {1}
        if fold.tasks["1.1"].state == job_pb2.TASK_STATE_SUCCEEDED:
            assert fold.state == job_pb2.JOB_STATE_SUCCEEDED


def test_nothing_is_merged_where_a_call_answers_one_item_or_tokens_suffice() -> None:
    for preset, budget in (("smollm2", 600), ("standard", 100_000)):
        desk = make_desk(itemised_plan([1] * 8), budget, preset)
        desk.step()
        assert not any(task.merged_into for task in desk.fold.tasks.values())


# ---- many tasks


def test_plan_that_would_need_more_than_a_count_can_hold_is_decided() -> None:
    plan = itemised_plan([0, 200, 200])
    plan.tasks[0].max_result_tokens = 9_000_000
    for task in plan.tasks[1:]:
        task.depends_on[:] = ["t0"]
    rules = make_rules()
    wide = {name: replace(route, context_tokens=9_000_000) for name, route in rules.routes.items()}
    created = make_created(items=0, budget=1_000_000, plan=plan)
    desk = Desk(created, replace(rules, routes=Routes(wide, "fast")))
    desk.step()
    (trimmed,) = [e.plan_trimmed for e in desk.events if e.HasField("plan_trimmed")]
    assert trimmed.needed_tokens == 2**31 - 1


def test_merged_limits_stay_within_what_a_count_can_hold() -> None:
    task = task_pb2.Task(id="a", max_tokens=2**31 - 1, max_result_tokens=2**30)
    other = task_pb2.Task(id="b", max_tokens=2**31 - 1, max_result_tokens=2**30)
    desk = make_desk(task_pb2.Plan(tasks=[task, other]), 10_000)
    desk.step()
    merge = job_pb2.Trimmed(task_uid="1.2", action=job_pb2.TRIM_ACTION_MERGE, into_task_uid="1.1")
    desk.fact(plan_trimmed=job_pb2.PlanTrimmed(tasks=[merge]))
    assert desk.fold.tasks["1.1"].task.max_tokens == 2**31 - 1
    assert desk.fold.tasks["1.1"].task.max_result_tokens == 2**31 - 1


class Unchecked(World):
    """Without the checks after each event, which take longer than deciding."""

    def _check(self) -> None:
        pass


def under_shortage(tasks: int) -> Unchecked:
    """A large job whose budget does not pay for all that it wants."""
    created = make_created(
        items=tasks, budget=115 * tasks, deadline=6000, plan=itemised_plan([1] * tasks), documents=1
    )
    return Unchecked(1, created, make_rules(), slots=16)


def test_deciding_a_large_job_grows_no_faster_than_the_square_of_its_tasks() -> None:
    def calls(tasks: int) -> int:
        # Calls are counted, not seconds: they are the same on every machine.
        world, profile = under_shortage(tasks), cProfile.Profile()
        profile.runcall(world.run)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(80) < 4.5 * calls(40)


def test_large_job_under_shortage_is_decided_without_a_storm_of_events() -> None:
    tasks = 200
    world = under_shortage(tasks)
    fold = world.run()
    assert len(world.log) < 8 * tasks
    assert Counter(deferred(world.log)).most_common(1)[0][1] <= 4
    assert fold.spent > 0.95 * fold.budget
