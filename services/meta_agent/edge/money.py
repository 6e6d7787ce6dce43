"""Money at the edge: what a budget in money is in tokens, and what a call needs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal

from hma.errors import InvalidRequest
from hma.llm.routes import Route, Routes
from hma.v1 import job_pb2


def routes_of(policy: job_pb2.JobPolicy, routes: Routes) -> list[Route]:
    """The routes that a job may use."""
    return [routes[policy.route]] if policy.route in routes else list(routes.values())


def buyable_tokens(money: float, routes: Iterable[Route], most: int) -> int:
    """The tokens that a budget in money alone is read as.

    More than `money` divided by the cheapest price cannot be bought, so the money is
    what limits the job; the tokens only keep its arithmetic whole.

    Args:
        money: In the currency of the routes' prices.
        routes: Those that the job may use.
        most: The largest budget in tokens.
    """
    prices = [route.cheapest for route in routes if route.cheapest > 0]
    if not prices:
        return most
    tokens = money / min(prices)
    return most if tokens >= most else int(tokens)


def least_money(tokens: int, route: Route) -> float:
    """Money that surely pays for `tokens`: before a call it is not known which are dear."""
    return tokens * route.dearest


def check_money_grant(max_cost: float, cost: float) -> None:
    """Refuses money for a job that has no limit in money, or more than can be added.

    Raises:
        InvalidRequest: It cannot take the money.
    """
    if cost and not max_cost:
        raise InvalidRequest.field(
            "cost", "the job has no limit in money (max_cost) that this could raise; add tokens"
        )
    if not math.isfinite(max_cost + cost):
        raise InvalidRequest.field("cost", "is more than can be added to the job's max_cost")


def tokens_with_money(
    created: job_pb2.JobCreated, granted: job_pb2.BudgetGranted, routes: Routes, most: int
) -> int:
    """The tokens that come with granted money, so that it can be spent.

    None, unless the job's own tokens were read from its money and no tokens were asked
    for: then the money is read as it was when the job was made.

    Args:
        created: The job as it was made.
        granted: What was asked for.
        routes: All routes.
        most: The largest budget in tokens.
    """
    if granted.tokens or not granted.cost:
        return 0
    usable, budget = routes_of(created.policy, routes), created.budget
    if budget.max_tokens != buyable_tokens(budget.max_cost, usable, most):
        return 0
    return buyable_tokens(granted.cost, usable, most)


def say_at_least(money: float) -> str:
    """`money` in three digits, rounded up, so that what is said is enough: "0.000321"."""
    amount = Decimal(repr(money))
    if not amount:
        return "0"
    step = Decimal(1).scaleb(amount.adjusted() - 2)
    return f"{amount.quantize(step, rounding=ROUND_CEILING).normalize():f}"
