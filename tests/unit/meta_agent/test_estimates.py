"""Expected cost and shape: priors while little is known, what was measured afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.estimate import COMPLEXITY_FACTOR, estimate_task
from services.meta_agent.deciding.history import ENOUGH, NOTHING_KNOWN
from services.meta_agent.deciding.shape import decide_shape
from services.meta_agent.deciding.valuing import PRIOR_WEIGHT, expected_weight
from tests.unit.meta_agent.histories import ANSWER, MEDIUM, measured
from tests.unit.meta_agent.simulation import World, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk

LOW, HIGH = common_pb2.COMPLEXITY_LOW, common_pb2.COMPLEXITY_HIGH


def make_task(items: int = 1, **fields: object) -> task_pb2.Task:
    return task_pb2.Task(
        kind=ANSWER,
        items=[task_pb2.Item(item_id=f"q{n}") for n in range(items)],
        **fields,  # type: ignore[arg-type]
    )


def test_profile_stands_until_enough_was_measured() -> None:
    rules = make_rules()
    route = rules.route("fast")
    prior = estimate_task(make_task(), route)
    few = measured(rules, completion=200, count=ENOUGH - 1)
    assert estimate_task(make_task(), route, 0, few) == prior
    enough = estimate_task(make_task(), route, 0, measured(rules, completion=200, count=ENOUGH))
    assert enough.samples == ENOUGH
    assert 200 <= enough.completion <= 200 * 1.15 + 1
    assert 100 <= enough.prompt <= 115 + 1
    assert enough.measured_prompt


def test_prompt_with_results_of_other_tasks_is_not_taken_from_those_without() -> None:
    rules = make_rules()
    found = estimate_task(make_task(), rules.route("fast"), 500, measured(rules, prompt=10))
    assert found.prompt >= 500 + rules.route("fast").profile.prompt_tokens
    assert not found.measured_prompt


@pytest.mark.parametrize(("complexity", "factor"), COMPLEXITY_FACTOR.items())
def test_complexity_scales_the_completion_and_not_the_prompt(
    complexity: common_pb2.Complexity.ValueType, factor: float
) -> None:
    route = make_rules().route("fast")
    plain = estimate_task(make_task(), route)
    scaled = estimate_task(make_task(complexity=complexity), route)
    assert scaled.prompt == plain.prompt
    assert scaled.call_completion == pytest.approx(plain.completion * factor, abs=1)


@given(
    items=st.integers(0, 40),
    limit=st.integers(0, 500),
    dependencies=st.integers(0, 100_000),
    preset=st.sampled_from(["smollm2", "standard"]),
)
def test_estimate_is_positive_and_in_order_whatever_the_task(
    items: int, limit: int, dependencies: int, preset: str
) -> None:
    rules = make_rules(preset)
    for history in (NOTHING_KNOWN, measured(rules)):
        task = make_task(items, max_result_tokens=limit)
        found = estimate_task(task, rules.route("fast"), dependencies, history)
        assert found.calls >= 1
        assert found.prompt >= 1
        assert 0 < found.floor <= found.call_tokens <= found.total
        assert found.call_tokens <= found.tight_grant <= found.first_grant


def test_expected_weight_goes_from_the_prior_to_what_was_measured() -> None:
    rules = make_rules()
    route = rules.route("fast")
    assert expected_weight(route, ANSWER, MEDIUM, rules) == (PRIOR_WEIGHT, 0)
    weights = []
    for count in (ENOUGH, 100, 10_000):
        known = replace(rules, history=measured(rules, weight=0.2, count=count))
        weights.append(expected_weight(route, ANSWER, MEDIUM, known)[0])
    assert PRIOR_WEIGHT > weights[0] > weights[1] > weights[2] > 0.2


# ---- shape


def test_shape_is_predicted_from_priors_and_then_from_what_was_measured() -> None:
    rules = make_rules("standard")
    desk = Desk(make_created(items=6), rules)
    prior = decide_shape(desk.fold, rules)
    assert prior.samples == 0
    known = replace(rules, history=measured(rules, completion=5, prompt=50, seconds=0.5))
    found = decide_shape(desk.fold, known)
    assert found.samples == 100
    assert 50 < found.predicted_single_tokens < prior.predicted_single_tokens
    assert found.predicted_single_time.ToMilliseconds() <= 600


def test_team_is_chosen_only_where_one_agent_would_not_do() -> None:
    rules = make_rules("standard")
    single, team = job_pb2.JOB_SHAPE_SINGLE, job_pb2.JOB_SHAPE_TEAM
    assert decide_shape(Desk(make_created(items=8), rules).fold, rules).shape == single
    assert decide_shape(Desk(make_created(items=9), rules).fold, rules).shape == team
    slow = replace(rules, history=measured(rules, seconds=100.0))
    hurried = Desk(make_created(items=8, deadline=60), slow)
    assert decide_shape(hurried.fold, slow).shape == team
    for asked in (single, team):
        policy = job_pb2.JobPolicy(shape=asked)
        desk = Desk(make_created(items=8, policy=policy), rules)
        assert decide_shape(desk.fold, rules).shape == asked


def test_prediction_and_outcome_stand_beside_each_other_in_the_log() -> None:
    world = World(5, make_created(items=4, budget=20_000), make_rules())
    fold = world.run()
    assert fold.shape is not None
    assert fold.finished is not None
    outcome = fold.finished.shape_outcome
    assert outcome.shape == fold.shape.shape == job_pb2.JOB_SHAPE_TEAM
    assert outcome.predicted_tokens == fold.shape.predicted_team_tokens > 0
    assert outcome.actual_tokens == fold.spent
    error = 100 * (outcome.actual_tokens / outcome.predicted_tokens - 1)
    assert outcome.error_percent == pytest.approx(error)
    assert outcome.actual_time.ToMilliseconds() > 0
