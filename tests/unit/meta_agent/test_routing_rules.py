"""Which route a task takes, and why."""

from __future__ import annotations

from dataclasses import replace

from hma.llm.thinking import TEMPLATE_TOKENS
from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.estimate import estimate_task
from services.meta_agent.deciding.history import History, task_key
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.deciding.routing import choose_route
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import JobFold
from tests.unit.meta_agent.histories import ANSWER, MEDIUM, measured
from tests.unit.meta_agent.simulation import make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk

HIGH = common_pb2.COMPLEXITY_HIGH
AWAY = RouteState(ready=False)


def make_fold(**policy: object) -> JobFold:
    created = make_created(policy=job_pb2.JobPolicy(**policy))  # type: ignore[arg-type]
    return Desk(created).fold


def chosen(
    task: task_pb2.Task,
    rules: Rules | None = None,
    fold: JobFold | None = None,
    purse: int | None = None,
    failed: str = "",
    **states: RouteState,
) -> tuple[str, str]:
    rules = rules or make_rules("standard")
    shunned = frozenset({failed} if failed else ())
    return choose_route(task, fold or make_fold(), rules, states, purse, shunned)


def task(complexity: common_pb2.Complexity.ValueType = MEDIUM, **fields: object) -> task_pb2.Task:
    return task_pb2.Task(kind=ANSWER, complexity=complexity, **fields)  # type: ignore[arg-type]


def both(
    rules: Rules, complexity: common_pb2.Complexity.ValueType, fast: float, deep: float
) -> Rules:
    records = {}
    for route, weight in (("fast", fast), ("reasoning", deep)):
        known = measured(rules, route=route, weight=weight, complexity=complexity)
        key = task_key(rules.route(route), ANSWER, complexity)
        records[key] = known.record(key)
    return replace(rules, history=History(records))


def test_plain_task_takes_the_default_and_a_hard_one_reasons() -> None:
    assert chosen(task()) == ("fast", "the default")
    name, why = chosen(task(HIGH))
    assert name == "reasoning"
    assert "high complexity" in why


def test_grant_too_small_for_reasoning_never_gets_it() -> None:
    rules = make_rules("standard", profile={"honours_think_budget": True})
    assert chosen(task(HIGH), rules, purse=1500 + 1024 + 79)[0] == "fast"
    for purse in range(0, 6000, 100):
        name, _ = chosen(task(HIGH), rules, purse=purse)
        assert name == "fast" or purse >= 1500 + 1024 + 80
    assert chosen(task(HIGH), rules, purse=6000)[0] == "reasoning"


def test_thoughts_that_have_to_be_cut_here_need_tokens_for_an_answer_after_them() -> None:
    whole = estimate_task(task(HIGH), make_rules("standard").route("reasoning")).call_tokens
    kept = 1500 + TEMPLATE_TOKENS + 80
    assert chosen(task(HIGH), purse=whole + kept - 1)[0] == "fast"
    assert chosen(task(HIGH), purse=whole + kept)[0] == "reasoning"


def test_names_of_the_task_and_of_the_policy_stand_in_this_order() -> None:
    fold = make_fold(route="reasoning")
    assert chosen(task(), fold=fold) == ("reasoning", "the job's policy names it")
    assert chosen(task(route="fast"), fold=fold) == ("fast", "the task names it")
    assert chosen(task(HIGH), fold=make_fold(routing=job_pb2.SWITCH_OFF))[0] == "fast"


def test_measured_answers_overrule_what_complexity_suggests() -> None:
    rules = make_rules("standard")
    assert chosen(task(HIGH), both(rules, HIGH, 0.8, 0.6))[0] == "fast"
    assert chosen(task(HIGH), both(rules, HIGH, 0.6, 0.8))[0] == "reasoning"
    assert chosen(task(), both(rules, MEDIUM, 0.5, 0.9))[0] == "reasoning"
    assert chosen(task(), both(rules, MEDIUM, 0.8, 0.85))[0] == "fast", "not clearly better"


def test_route_that_is_away_or_has_failed_the_task_is_replaced_and_says_why() -> None:
    name, why = chosen(task(), fast=AWAY)
    assert (name, why) == ("reasoning", "route fast is not ready")
    name, why = chosen(task(), failed="fast")
    assert (name, why) == ("reasoning", "route fast has failed this task")
    name, why = chosen(task(), fast=AWAY, reasoning=AWAY)
    assert name == "fast"
    assert "no other can be used" in why


def test_model_that_cannot_think_is_never_asked_to() -> None:
    assert chosen(task(HIGH), make_rules("smollm2"))[0] == "fast"
