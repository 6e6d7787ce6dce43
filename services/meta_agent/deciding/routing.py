"""Which route a task takes: by its complexity, its purse, route health and history."""

from __future__ import annotations

from collections.abc import Mapping

from hma.llm.routes import Route
from hma.v1 import common_pb2, task_pb2
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.deciding.rules import Rules, is_on
from services.meta_agent.job.state import JobFold


def choose_route(
    task: task_pb2.Task,
    fold: JobFold,
    rules: Rules,
    states: Mapping[str, RouteState],
    purse: int | None = None,
    failed: frozenset[str] = frozenset(),
) -> tuple[str, str]:
    """The route's name, and why.

    Args:
        task: The task.
        fold: Its job.
        rules: The routes there are.
        states: Which of them can be called now; missing means ready.
        purse: Tokens the task can have; None when not known yet.
        failed: Routes on which this task has failed.
    """
    default = rules.job_route(fold)
    if task.route in rules.routes:
        return task.route, "the task names it"
    if fold.created.policy.route in rules.routes:
        return fold.created.policy.route, "the job's policy names it"
    if not is_on(fold.created.policy.routing):
        return default.name, "routing is off"
    if task.complexity == common_pb2.COMPLEXITY_HIGH:
        thinking = _reasoning_route(rules, purse)
        if thinking is not None and _usable(thinking, states, failed):
            return thinking.name, "high complexity, and the grant pays for reasoning"
    if _usable(default, states, failed):
        return default.name, "the default"
    others = [r for r in rules.routes.values() if not r.reasoning and _usable(r, states, failed)]
    if others:
        return others[0].name, f"route {default.name} failed or is not ready"
    return default.name, "the default; no other is ready"


def reducing_route(fold: JobFold, rules: Rules) -> str:
    """The route that writes plans and answers."""
    return rules.job_route(fold).name


def _reasoning_route(rules: Rules, purse: int | None) -> Route | None:
    """A route that thinks, if its model can and the purse pays for it.

    A grant too small for the thoughts and the answer after them never gets one.
    """
    for route in rules.routes.values():
        profile = route.profile
        need = profile.prompt_tokens + profile.think_tokens + profile.answer_tokens
        if route.reasoning and profile.think_tokens and (purse is None or purse >= need):
            return route
    return None


def _usable(route: Route, states: Mapping[str, RouteState], failed: frozenset[str]) -> bool:
    state = states.get(route.name)
    return route.name not in failed and (state is None or state.ready)
