"""Which route a task takes: by its complexity, its purse, route health and history."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hma.llm.routes import Route
from hma.llm.thinking import kept_for_the_answer
from hma.v1 import common_pb2, task_pb2
from services.meta_agent.deciding.estimate import estimate_task
from services.meta_agent.deciding.history import ENOUGH
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.deciding.rules import Rules, is_on
from services.meta_agent.deciding.valuing import expected_weight
from services.meta_agent.job.state import JobFold

CLEARLY_BETTER = 0.15
"""Difference of measured answer weights that makes a task of ordinary complexity reason."""


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
        rules: The routes there are, and what was measured of them.
        states: Which of them can be called now; missing means ready.
        purse: Tokens the task can have; None when not known yet.
        failed: Routes that this task has failed on and is not to take again.
    """
    default = rules.job_route(fold)
    if task.route in rules.routes:
        return task.route, "the task names it"
    if fold.created.policy.route in rules.routes:
        return fold.created.policy.route, "the job's policy names it"
    if not is_on(fold.created.policy.routing):
        return default.name, "routing is off"
    usable = [r for r in rules.routes.values() if _usable(r, states, failed)]
    thinking = next((r for r in usable if r.reasoning and affords(task, r, rules, purse)), None)
    if thinking is not None:
        reason = _why_reason(task, default, thinking, rules)
        if reason:
            return thinking.name, reason
    if default in usable:
        return default.name, "the default"
    trouble = f"route {default.name} {_trouble(default, states)}"
    others = [r for r in usable if not r.reasoning] + ([thinking] if thinking else [])
    if others:
        return others[0].name, trouble
    return default.name, f"{trouble}, and no other can be used"


def planning_route(fold: JobFold, rules: Rules, states: Mapping[str, RouteState]) -> Route:
    """The route on which a job is planned: its own, or another one while that is not ready."""
    return _own_or_other(fold, rules, states, lambda _: True)


def reducing_route(fold: JobFold, rules: Rules, states: Mapping[str, RouteState]) -> Route:
    """The route that writes the answer: the job's own, or another one while that is not ready.

    The other one can reduce, too, and takes prompts as large: what reducing costs was
    computed for the job's own.
    """
    size = rules.job_route(fold).context_tokens
    return _own_or_other(
        fold, rules, states, lambda r: r.profile.can_reduce and r.context_tokens >= size
    )


def _own_or_other(
    fold: JobFold,
    rules: Rules,
    states: Mapping[str, RouteState],
    suits: Callable[[Route], bool],
) -> Route:
    own = rules.job_route(fold)
    fixed = bool(fold.created.policy.route) or not is_on(fold.created.policy.routing)
    if fixed or _ready(own, states):
        return own
    others = (r for r in rules.routes.values() if not r.reasoning and _ready(r, states))
    return next((r for r in others if suits(r)), own)


def affords(task: task_pb2.Task, route: Route, rules: Rules, purse: int | None) -> bool:
    """Whether a route that thinks can, and the purse pays for it.

    A grant too small for the thoughts and the answer after them never gets one. Where the
    server does not end thoughts by itself, the Worker makes none without tokens for
    another call as well, that answers after thoughts that were cut (`hma.llm.thinking`).
    """
    profile = route.profile
    if not profile.think_tokens:
        return False
    if purse is None:
        return True
    least = profile.prompt_tokens + profile.think_tokens + profile.answer_tokens
    call = max(least, estimate_task(task, route, 0, rules.history).call_tokens)
    return purse >= call + kept_for_the_answer(route, profile.prompt_tokens, profile.answer_tokens)


def _why_reason(task: task_pb2.Task, default: Route, thinking: Route, rules: Rules) -> str:
    """Why the task should reason; empty when it should not."""
    plain, few = expected_weight(default, task.kind, task.complexity, rules)
    deep, some = expected_weight(thinking, task.kind, task.complexity, rules)
    measured = min(few, some) >= ENOUGH
    figures = f"answers have weighed {deep:.2f} there against {plain:.2f} on {default.name}"
    if task.complexity == common_pb2.COMPLEXITY_HIGH:
        if measured and deep <= plain:
            return ""  # it has not paid
        words = "high complexity, and the grant pays for reasoning"
        return f"{words}; {figures}" if measured else words
    if measured and deep - plain >= CLEARLY_BETTER:
        return f"{figures}, and the grant pays for reasoning"
    return ""


def _usable(route: Route, states: Mapping[str, RouteState], shunned: frozenset[str]) -> bool:
    return route.name not in shunned and _ready(route, states)


def _ready(route: Route, states: Mapping[str, RouteState]) -> bool:
    state = states.get(route.name)
    return state is None or state.ready


def _trouble(route: Route, states: Mapping[str, RouteState]) -> str:
    return "has failed this task" if _ready(route, states) else "is not ready"
