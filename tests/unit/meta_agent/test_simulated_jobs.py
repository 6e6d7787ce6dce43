"""Whole jobs, decided for real, in a simulated world with faults."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.llm.prices import Prices
from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.apply import fold_events
from services.meta_agent.job.state import TERMINAL_TASK_STATES, JobFold
from tests.unit.meta_agent.simulation import START, Faults, World, make_created, make_rules

HARSH = Faults(
    refused=0.15,
    broken=0.15,
    failed=0.2,
    partial=0.15,
    driver_dies=0.5,
    deaf=0.1,
    slow=0.1,
    duplicated=0.3,
    raced=0.1,
    ungrounded=0.2,
    empty=0.1,
)

PRICES = Prices(prompt=1.0, cached_prompt=0.5, completion=4.0)


def make_policy(seed: int) -> job_pb2.JobPolicy:
    """A different policy for each seed."""
    dice = random.Random(seed)
    return job_pb2.JobPolicy(
        shape=dice.choice([job_pb2.JOB_SHAPE_AUTO, job_pb2.JOB_SHAPE_TEAM]),
        dispatch=dice.choice([job_pb2.DISPATCH_DATAFLOW, job_pb2.DISPATCH_WAVES]),
        budgeting=dice.choice([job_pb2.SWITCH_ON, job_pb2.SWITCH_ON, job_pb2.SWITCH_OFF]),
        interruption=dice.choice([job_pb2.SWITCH_ON, job_pb2.SWITCH_ON, job_pb2.SWITCH_OFF]),
        halting=dice.choice([job_pb2.HALTING_POLICY_FIXED, job_pb2.HALTING_POLICY_ADAPTIVE]),
        max_rounds=dice.choice([1, 1, 2, 3]),
        failure_rules=make_failure_rules(dice) if seed % 5 == 0 else (),
    )


def make_failure_rules(dice: random.Random) -> list[job_pb2.FailureRule]:
    """Any rules, for some of the classes."""
    known = common_pb2.FailureClass.values()[1:]
    return [
        job_pb2.FailureRule(
            failure_class=each,
            action=dice.choice(job_pb2.FailureAction.values()),
            max_attempts=dice.randint(0, 10),
        )
        for each in dice.sample(known, 5)
    ]


def make_world(seed: int) -> World:
    """A job of any kind, with any policy, in a harsh world."""
    preset = "standard" if seed % 3 == 0 else "smollm2"
    rules = make_rules(preset, prices=PRICES if seed % 4 == 0 else None)
    budget = 100 + 37 * (seed % 300)
    created = make_created(
        items=seed % 9,
        budget=budget,
        deadline=20 + seed % 200,
        documents=seed % 2,
        policy=make_policy(seed),
        max_cost=budget * 2e-6 if seed % 4 == 0 else 0.0,
    )
    return World(seed, created, rules, HARSH, slots=1 + seed % 8)


def check_end(world: World) -> None:
    """What must hold of every job that has ended."""
    fold = world.fold
    assert fold.finished is not None
    assert fold.spent <= world.server_tokens <= fold.spent + fold.unknown <= fold.budget
    if fold.unknown == 0:
        assert world.server_tokens == fold.spent
        assert abs(world.server_money - fold.cost) < 1e-9
    if fold.max_cost:
        assert fold.cost <= fold.max_cost
    assert all(task.state in TERMINAL_TASK_STATES for task in fold.tasks.values())
    assert not any(True for _ in fold.open_attempts())
    assert fold.end_time <= fold.deadline + 1e-6
    assert [event.sequence for event in world.log] == list(range(1, len(world.log) + 1))
    assert len({event.event_id for event in world.log}) == len(world.log)
    assert fold_events(world.log) == fold


def settled_once(fold: JobFold, world: World) -> bool:
    settled = [e.task_settled.task_uid for e in world.log if e.HasField("task_settled")]
    return sorted(settled) == sorted(fold.tasks)


def test_job_without_faults_succeeds_and_every_token_is_known() -> None:
    world = World(1, make_created(items=6, budget=20_000), make_rules())
    fold = world.run()
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert fold.unknown == 0
    assert fold.spent == world.server_tokens
    assert {i.item_id for i in fold.answer.items} == {f"q{n}" for n in range(1, 7)}  # type: ignore[union-attr]
    check_end(world)


def test_thousand_simulated_jobs_with_faults_end_within_budget_and_deadline() -> None:
    seen = Counter[str]()
    for seed in range(1000):
        world = make_world(seed)
        fold = world.run()
        check_end(world)
        assert settled_once(fold, world), seed
        seen.update(event.WhichOneof("payload") or "" for event in world.log)
        seen.update({f"round {fold.round}": 1, f"cause {_causes(world)}": 1})
    # A rule that no job has ever met is not proven by any of them.
    for kind in ("tokens_moved", "plan_trimmed", "round_judged", "attempt_reported", "round 3"):
        assert seen[kind], kind


def _causes(world: World) -> list[int]:
    return sorted({e.attempt_stopped.cause for e in world.log if e.HasField("attempt_stopped")})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    items=st.integers(0, 12),
    budget=st.integers(1, 20_000),
    deadline=st.integers(1, 300),
    preset=st.sampled_from(["smollm2", "standard"]),
    requests=st.lists(
        st.tuples(
            st.floats(0, 60), st.sampled_from(["interrupt", "cancel", "grant", "money", "driver"])
        ),
        max_size=4,
    ),
)
def test_client_commands_at_any_moment_keep_the_invariants(
    seed: int,
    items: int,
    budget: int,
    deadline: int,
    preset: str,
    requests: list[tuple[float, str]],
) -> None:
    created = make_created(
        items=items, budget=budget, deadline=deadline, policy=make_policy(seed), documents=1
    )
    world = World(seed, created, make_rules(preset), HARSH, slots=4)
    for delay, what in requests:
        world.at(delay, lambda w=what: _request(world, w))  # type: ignore[misc]
    fold = world.run()
    check_end(world)
    if any(e.HasField("cancel_requested") for e in world.log):
        assert fold.state == job_pb2.JOB_STATE_CANCELLED


def _request(world: World, what: str) -> None:
    if what == "interrupt":
        world.say(interrupt_requested=job_pb2.InterruptRequested(request_id="i"))
    elif what == "cancel":
        world.say(cancel_requested=job_pb2.CancelRequested(request_id="c"))
    elif what == "driver":
        if not world.fold.ended:
            world.claim()
    elif what == "money":
        world.say(budget_granted=job_pb2.BudgetGranted(request_id="m", cost=1e-4))
    else:
        world.say(budget_granted=job_pb2.BudgetGranted(request_id="g", tokens=500))


def test_interrupt_ends_the_job_at_once_with_what_is_there() -> None:
    world = World(7, make_created(items=12, budget=20_000), make_rules(), slots=2)
    world.at(2.0, lambda: _request(world, "interrupt"))
    fold = world.run()
    assert fold.state == job_pb2.JOB_STATE_PARTIAL
    assert fold.end_time - START < 4.0
    assert 0 < len(fold.answer.items) < 12  # type: ignore[union-attr]
    check_end(world)


def test_cancel_ends_without_an_answer() -> None:
    world = World(7, make_created(items=12, budget=20_000), make_rules(), slots=2)
    world.at(1.0, lambda: _request(world, "cancel"))
    fold = world.run()
    assert fold.state == job_pb2.JOB_STATE_CANCELLED
    assert fold.answer is None
    check_end(world)


def test_budget_for_some_items_answers_those_and_says_why_others_are_missing() -> None:
    world = World(3, make_created(items=10, budget=900), make_rules())
    fold = world.run()
    assert fold.state == job_pb2.JOB_STATE_PARTIAL
    skipped = [t for t in fold.tasks.values() if t.state == job_pb2.TASK_STATE_SKIPPED]
    assert skipped
    reasons = [t.failure.message for t in skipped if t.failure is not None]
    assert len(reasons) == len(skipped)
    assert any("the budget does not pay for it" in reason for reason in reasons)
    # The others needed one of those.
    assert all("the budget" in reason or "which it needs" in reason for reason in reasons)
    assert fold.end_time - START < 60, "it waited for money that could not come"
    check_end(world)


def test_top_up_funds_tasks_that_waited() -> None:
    poor = World(3, make_created(items=10, budget=900), make_rules())
    poor.run()
    rich = World(3, make_created(items=10, budget=900), make_rules())
    rich.say(budget_granted=job_pb2.BudgetGranted(request_id="g", tokens=9_000))
    rich.run()
    done = job_pb2.TASK_STATE_SUCCEEDED
    few = sum(t.state == done for t in poor.fold.tasks.values())
    many = sum(t.state == done for t in rich.fold.tasks.values())
    assert few < many == 10


def test_dead_services_still_give_an_end_before_the_deadline() -> None:
    world = World(5, make_created(items=4, deadline=30), make_rules(), Faults(refused=1.0))
    fold = world.run()
    assert fold.state == job_pb2.JOB_STATE_FAILED
    assert fold.spent == fold.unknown == 0
    check_end(world)


def test_driver_that_dies_leaves_its_grants_as_unknown_until_reported() -> None:
    faults = Faults(driver_dies=1.0, late_report=1.0)
    for seed in range(40):
        world = World(seed, make_created(items=6, budget=20_000), make_rules(), faults)
        fold = world.run()
        check_end(world)
        lost = [e.attempt_lost.ref for e in world.log if e.HasField("attempt_lost")]
        reported = [e.attempt_reported.ref for e in world.log if e.HasField("attempt_reported")]
        known = {(r.task_uid, r.attempt) for r in reported}
        if all((r.task_uid, r.attempt) in known for r in lost):
            assert fold.unknown == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    items=st.integers(1, 8),
    reported=st.sampled_from([0.0, 0.5, 1.0]),
    deaths=st.lists(st.floats(0.05, 9.0), min_size=3, max_size=12),
)
def test_no_number_of_drivers_that_die_fails_a_task(
    seed: int, items: int, reported: float, deaths: list[float]
) -> None:
    policy = job_pb2.JobPolicy(max_attempts=1)
    created = make_created(items=items, budget=200_000, deadline=3_600, policy=policy)
    world = World(seed, created, make_rules(), Faults(late_report=reported), slots=4)
    when = 0.0
    for pause in deaths:
        world.at(when := when + pause, lambda: _request(world, "driver"))
    fold = world.run()
    check_end(world)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED, fold.reason
    assert all(task.state == job_pb2.TASK_STATE_SUCCEEDED for task in fold.tasks.values())
    finished = fold.finished
    assert finished is not None
    report = finished.failure_report
    assert sum(count.count for count in report.counts) == report.handed_over_attempts


def test_slots_bound_what_runs_at_once() -> None:
    world = World(2, make_created(items=12, budget=20_000), make_rules(), slots=3)
    world.run()
    assert world.max_open <= 3 + 1  # the Analyst's stream is not a Worker's place


def test_single_shape_costs_no_plan_and_no_reduce_tokens() -> None:
    policy = job_pb2.JobPolicy(shape=job_pb2.JOB_SHAPE_SINGLE)
    world = World(2, make_created(items=3, policy=policy), make_rules("standard"))
    fold = world.run()
    assert fold.plan_closed is not None
    assert fold.plan_closed.source == attempt_pb2.PLAN_SOURCE_SINGLE
    assert {row.task_uid for row in fold.rows} == {"1.1"}
