"""Budgets in money: what calls may cost at most, and the tokens that what is left pays for.

A running call is held at its announced prompt and the rest of its grant as completion, a
call whose prompt is not known at the dearest price of a token. So money
holds as tokens do: cost + held <= max_cost, always.
"""

from __future__ import annotations

from hma.llm.routes import Route
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import AttemptFold, JobFold, TaskFold

_ROUNDING = 1e-12
"""Sums of prices are floating-point numbers."""


def held_money(fold: JobFold, rules: Rules) -> float:
    """Most money that running and lost calls may still cost."""
    return sum(_held(attempt, rules) for attempt in fold.attempts.values())


def money_left(fold: JobFold, rules: Rules) -> float:
    """Money that is neither spent nor held; infinite without a limit."""
    if not fold.max_cost:
        return float("inf")
    return max(fold.max_cost - fold.cost - held_money(fold, rules) - _ROUNDING, 0.0)


def tokens_for(money: float, route: Route, prompt_tokens: int = 0) -> int | None:
    """Most tokens of one call that `money` pays for; None: any number.

    Args:
        money: What there is.
        route: Where they would be spent.
        prompt_tokens: How many of them are prompt, as far as known.
    """
    if money == float("inf") or route.dearest <= 0:
        return None
    prompt, completion = route.most_cost(prompt_tokens, 0), route.most_cost(0, 1)
    if not prompt_tokens or prompt > money or completion <= 0:
        return int(money / route.dearest)
    return prompt_tokens + int((money - prompt) / completion)


def usual_tokens(money: float, route: Route) -> int | None:
    """Tokens that `money` pays for in calls of the usual make-up; None: any number.

    An expectation for setting aside, by the route's typical prompt and answer. What a
    call may really have is decided by `within_money`.
    """
    if money == float("inf") or route.dearest <= 0:
        return None
    prompt, answer = max(route.profile.prompt_tokens, 1), max(route.profile.answer_tokens, 1)
    price = route.most_cost(prompt, answer) / (prompt + answer)
    return int(money / (price or route.dearest))


def within_money(
    tokens: int,
    fold: JobFold,
    rules: Rules,
    route: str,
    *,
    reserved: float = 0.0,
    prompt_tokens: int = 0,
    task: TaskFold | None = None,
    holder: AttemptFold | None = None,
) -> int:
    """As many of `tokens` as the money that is left pays for on a route.

    Args:
        tokens: What is wanted.
        fold: The job.
        rules: Prices.
        route: Where they would be spent.
        reserved: Money that is kept for reducing.
        prompt_tokens: How many of the tokens are prompt, as far as known.
        task: Its own limit counts too.
        holder: An attempt that holds money for this very call already.
    """
    where = rules.route(route)
    back = _held(holder, rules) if holder is not None else 0.0
    left = money_left(fold, rules) + back - reserved
    limits = [tokens, tokens_for(max(left, 0.0), where, prompt_tokens)]
    if task is not None and task.task.max_cost:
        own = task.task.max_cost + back
        own -= sum(a.cost + _held(a, rules) for a in fold.attempts_of(task.uid))
        limits.append(tokens_for(max(own, 0.0), where, prompt_tokens))
    return max(min(limit for limit in limits if limit is not None), 0)


def _held(attempt: AttemptFold, rules: Rules) -> float:
    """What an attempt's running call can still cost, or a lost one may have cost.

    Being lost does not make a call dearer: what was announced of it still holds.
    """
    route = rules.route(attempt.route)
    tokens = attempt.outstanding if attempt.open else attempt.unknown
    prompt = min(attempt.prompt_tokens, tokens)
    if not prompt:
        return tokens * route.dearest
    return route.most_cost(prompt, tokens - prompt)
