"""Budgets in money hold like budgets in tokens: cost + held never exceeds them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.llm.prices import Prices
from hma.llm.routes import Routes
from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.budget import NOTES_TOKENS, purse_of
from services.meta_agent.deciding.money import held_money, money_left, tokens_for, within_money
from services.meta_agent.deciding.observed import Intended
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.edge.projection import project
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import World, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk
from tests.unit.meta_agent.test_simulated_jobs import HARSH, check_end, make_policy

PRICES = Prices(prompt=1.0, cached_prompt=0.5, completion=10.0)


def make_desk(
    max_cost: float, sizes: tuple[int, ...] = (1, 1, 1), rules: Rules | None = None
) -> Desk:
    created = make_created(
        items=sum(sizes), budget=1_000_000, plan=itemised_plan(sizes), max_cost=max_cost
    )
    desk = Desk(created, rules or make_rules(prices=PRICES))
    desk.step()
    return desk


price = st.floats(0, 20).map(lambda money: round(money, 3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    prompt=price,
    cached=price,
    completion=price,
    max_cost=st.floats(1e-6, 0.05),
    top_ups=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 0.01)), max_size=3),
)
def test_money_spent_and_held_never_exceeds_the_limit_under_any_history(
    seed: int,
    prompt: float,
    cached: float,
    completion: float,
    max_cost: float,
    top_ups: list[tuple[float, float]],
) -> None:
    prices = Prices(prompt=prompt, cached_prompt=cached, completion=completion)
    created = make_created(
        items=6, budget=50_000, deadline=120, policy=make_policy(seed), max_cost=max_cost
    )
    # The world checks cost + held after every event.
    world = World(seed, created, make_rules(prices=prices), HARSH, slots=4)
    for delay, money in top_ups:
        granted = job_pb2.BudgetGranted(request_id="g", cost=money)
        world.at(delay, lambda g=granted: world.say(budget_granted=g))  # type: ignore[misc]
    world.run()
    check_end(world)


@given(money=st.floats(0, 0.01), prompt=st.integers(0, 3000), one=price, other=price)
def test_tokens_that_money_pays_for_cost_no_more_than_it(
    money: float, prompt: int, one: float, other: float
) -> None:
    route = replace(make_rules().route("fast"), prices=Prices(prompt=one, completion=other))
    tokens = tokens_for(money, route, prompt)
    if tokens is None:
        assert route.dearest == 0
        return
    assert tokens >= 0
    read = min(prompt, tokens)
    if read == prompt:
        assert route.cost(prompt=read, cached_prompt=0, completion=tokens - read) <= money + 1e-9


def test_announced_prompt_frees_money_that_the_dearest_price_had_held() -> None:
    desk = make_desk(0.0027)
    assert desk.open() == ["t0"], "the dearest price pays for one at a time"
    key = desk.attempt("t0").key
    held = desk.fold.attempts[key].outstanding
    intent = attempt_pb2.CallIntent(
        call=1, items=1, prompt_tokens=held - 8, max_completion_tokens=20
    )
    desk.step(Intended(key, intent))
    assert desk.fold.attempts[key].grant.tokens == held - 8 + 20
    own = replace(desk.fold, attempts={key: desk.fold.attempts[key]})
    assert held_money(own, desk.rules) == pytest.approx(((held - 8) * 1.0 + 20 * 10.0) / 1e6)
    desk.step()
    assert len(desk.open()) > 1, "what is not held any more lets another task begin"


def test_money_for_reducing_is_not_lent() -> None:
    desk = make_desk(0.05)
    free = within_money(10**6, desk.fold, desk.rules, "fast")
    kept = within_money(10**6, desk.fold, desk.rules, "fast", reserved=300 * PRICES.dearest)
    assert free - kept == pytest.approx(300, abs=1)
    assert within_money(10**6, desk.fold, desk.rules, "fast", reserved=10**9) == 0


def test_reserve_in_money_outlasts_the_work_of_a_job_that_needs_prose() -> None:
    rules = make_rules("standard", prices=PRICES)
    plan = itemised_plan([1, 1, 1, 1])
    for task in plan.tasks:
        task.kind = common_pb2.TASK_KIND_WRITE
        task.max_result_tokens = 100
    created = make_created(items=4, budget=1_000_000, plan=plan, max_cost=0.05)
    desk = Desk(created, rules)
    desk.step()
    for attempt in list(desk.fold.open_attempts()):
        intent = attempt_pb2.CallIntent(
            call=1, prompt_tokens=500, max_completion_tokens=100_000, min_completion_tokens=1
        )
        desk.step(Intended(attempt.key, intent))
    purse = purse_of(desk.fold, rules)
    assert purse.reserved > 1000
    # It reads all but the answer that it writes.
    written = rules.answer_tokens
    kept = rules.route("fast").most_cost(purse.reserved - written, written)
    assert purse.reserved_money == pytest.approx(kept)
    assert money_left(desk.fold, rules) >= kept - 1e-9


def test_top_up_in_money_lets_waiting_tasks_begin() -> None:
    desk = make_desk(0.0027)
    few = len(desk.open())
    assert few < 3
    desk.fact(budget_granted=job_pb2.BudgetGranted(request_id="g", cost=0.02))
    desk.step()
    assert len(desk.open()) == 3
    assert desk.fold.max_cost == pytest.approx(0.0227)


def test_money_for_reducing_pays_for_notes_about_groups_of_results_as_well() -> None:
    rules = make_rules("standard", prices=PRICES)
    plan = itemised_plan([1] * 8)
    for task in plan.tasks:
        task.kind = common_pb2.TASK_KIND_WRITE
        task.max_result_tokens = 3000
    created = make_created(items=8, budget=200_000, plan=plan, max_cost=5.0)
    desk = Desk(created, rules)
    desk.step()
    purse = purse_of(desk.fold, rules)
    groups = 4  # 24,000 tokens of results, 6,144 of which fit one prompt
    written = rules.answer_tokens + groups * NOTES_TOKENS
    needed = rules.job_route(desk.fold).most_cost(purse.reserved - written, written)
    assert purse.reserved_money == pytest.approx(needed)


def test_clients_see_the_money_that_is_held_and_the_limit_with_top_ups() -> None:
    desk = make_desk(0.02)
    desk.fact(budget_granted=job_pb2.BudgetGranted(request_id="g", cost=0.01))
    job = project(desk.fold, desk.rules)
    assert job.budget.max_cost == job.ledger.max_cost == pytest.approx(0.03)
    assert job.ledger.outstanding_cost == held_money(desk.fold, desk.rules) > 0


def test_top_up_in_money_does_not_limit_a_job_without_a_limit() -> None:
    desk = make_desk(0.0)
    desk.fact(budget_granted=job_pb2.BudgetGranted(request_id="g", cost=0.02))
    assert desk.fold.max_cost == 0.0
    assert money_left(desk.fold, desk.rules) == float("inf")


def test_route_without_prices_is_not_limited_by_money() -> None:
    desk = make_desk(1e-6, rules=make_rules())
    assert len(desk.open()) == 3
    assert within_money(777, desk.fold, desk.rules, "fast") == 777


def test_own_limit_of_a_task_in_money_holds_for_its_grants() -> None:
    rules = make_rules(prices=PRICES)
    plan = itemised_plan([1])
    plan.tasks[0].max_cost = 0.003
    desk = Desk(make_created(items=1, budget=100_000, plan=plan, max_cost=1.0), rules)
    desk.step()
    attempt = desk.attempt("t0")
    intent = attempt_pb2.CallIntent(
        call=1, prompt_tokens=500, max_completion_tokens=5000, min_completion_tokens=1
    )
    desk.step(Intended(attempt.key, intent))
    # Sums of prices are rounded, downwards: a token less may come out.
    assert desk.fold.attempts[attempt.key].grant.tokens in (500 + 249, 500 + 250)


def test_cheaper_route_pays_for_more() -> None:
    rules = make_rules(prices=PRICES)
    cheap = replace(rules.route("reasoning"), prices=Prices(prompt=0.1, completion=1.0))
    routes = Routes({"fast": rules.route("fast"), "reasoning": cheap}, "fast")
    rules = replace(rules, routes=routes)
    desk = make_desk(0.01, rules=rules)
    dear, other = (within_money(10**6, desk.fold, rules, name) for name in ("fast", "reasoning"))
    assert other == pytest.approx(10 * dear, abs=10)
