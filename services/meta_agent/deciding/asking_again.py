"""What another round would ask: items that no model has read, and weak answers.

Items that no model has read are asked again as they were; items whose answer is weak only
where another route can be asked, since at temperature 0 the same route gives the same
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hma.llm.routes import Route
from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.deadlines import TOKENS_PER_SECOND
from services.meta_agent.deciding.estimate import QUANTILE, estimate_task
from services.meta_agent.deciding.history import ENOUGH, task_key
from services.meta_agent.deciding.routing import affords
from services.meta_agent.deciding.rules import Rules, is_on
from services.meta_agent.deciding.settling import BAD_ENDS
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.deciding.valuing import (
    expected_weight,
    serves_only_others,
    value,
    weight_of,
    weight_without,
)
from services.meta_agent.job.state import JobFold, TaskFold

WEAK = 0.75
"""Quality of an answer below which another round may ask for it again."""

Judge = Callable[[task_pb2.ItemAnswer], float]
"""How good an answer probably is, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Again:
    """Open or weak items of one task, to be asked once more.

    Attributes:
        task: The task they belong to.
        items: The items; empty for a task that has none.
        route: Where they would be asked.
        value: What that is expected to be worth.
        seconds: How long it is expected to take.
        first: What it needs and what came to nothing, to be asked again before it.
    """

    task: TaskFold
    items: tuple[task_pb2.Item, ...]
    route: Route
    value: job_pb2.ValueEstimate
    seconds: float
    first: tuple[Again, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Names it: unread and weak items of a task are asked on different routes."""
        return self.task.uid, self.route.name


def candidates(turn: Turn) -> list[Again]:
    """What could be asked again and may gain; each item once, of its latest task."""
    fold, rules = turn.fold, turn.rules
    default = rules.job_route(fold)
    known = {item.item_id: item for item in fold.answer.items} if fold.answer else {}
    judge = judge_of(fold, rules)
    redone = {task.redoes for task in fold.tasks.values()}
    needed = {name for task in fold.tasks.values() for name in task.task.depends_on}
    found: list[Again] = []
    failed: dict[str, Again] = {}
    # Tasks are admitted after what they depend on.
    for task in fold.tasks.values():
        if task.uid in redone or task.merged_into:
            continue
        unread, weak = _open(task, known, judge)
        first = _first(task, failed) if unread or weak else ()
        other = _other_route(turn, task)
        if unread:
            again = replace(_again(turn, task, unread, known, default, judge), first=first)
            if fold.created.items and serves_only_others(task.task, task.task.id in needed):
                # Worth nothing by itself: it comes with what it is needed for.
                again = replace(again, value=_without_gain(again.value))
            found.append(again)
            if task.state in BAD_ENDS:
                failed[task.task.id] = again
        if weak and other is not None:
            found.append(replace(_again(turn, task, weak, known, other, judge), first=first))
    return [again for again in found if again.value.gain > 0]


def _first(task: TaskFold, failed: Mapping[str, Again]) -> tuple[Again, ...]:
    """What a task needs, directly or not, that came to nothing; in order, each once."""
    before: dict[str, Again] = {}
    for name in task.task.depends_on:
        if name in failed:
            for again in (*failed[name].first, failed[name]):
                before.setdefault(again.task.uid, again)
    return tuple(before.values())


def _without_gain(value: job_pb2.ValueEstimate) -> job_pb2.ValueEstimate:
    return job_pb2.ValueEstimate(
        tokens=value.tokens, probability=value.probability, samples=value.samples
    )


def judge_of(fold: JobFold, rules: Rules) -> Judge:
    """How good answers probably are: each by the calibration of the route that gave it."""
    routes = {
        (item.item_id, item.answer, item.mean_logprob): rules.route(attempt.route)
        for attempt in fold.attempts.values()
        if attempt.result is not None
        for item in attempt.result.task.items
    }
    default = rules.job_route(fold)

    def judge(item: task_pb2.ItemAnswer) -> float:
        return quality_of(item, routes.get((item.item_id, item.answer, item.mean_logprob), default))

    return judge


def quality_of(item: task_pb2.ItemAnswer, route: Route) -> float:
    """How good an answer probably is, 0 to 1, from signals that cost no token.

    By the route's calibration of grounding and mean log-probability (facts/llm.md, rule
    9); without one, by the weights of `Answer.confidence`.
    """
    calibration = route.profile.calibration
    if calibration is None or item.origin == common_pb2.ORIGIN_EXTRACT or not item.answer:
        return weight_of(item)
    return calibration.probability_good(grounded=item.grounded, mean_logprob=item.mean_logprob)


def _open(
    task: TaskFold, known: dict[str, task_pb2.ItemAnswer], judge: Judge
) -> tuple[list[task_pb2.Item], list[task_pb2.Item]]:
    """Items of a task that no model has read, and those whose answer is weak."""
    if not task.task.items:
        nothing = task.result is None or not (task.result.items or task.result.notes)
        return ([task_pb2.Item(item_id=task.task.id)] if nothing else []), []
    unread, weak = [], []
    for item in task.task.items:
        answer = known.get(item.item_id)
        extract = answer is not None and answer.origin == common_pb2.ORIGIN_EXTRACT
        if answer is None and _was_read(task, item.item_id):
            weak.append(item)
        elif answer is None or (extract and not answer.mean_logprob):
            unread.append(item)
        elif extract or judge(answer) < WEAK:
            weak.append(item)
    return unread, weak


def _was_read(task: TaskFold, item_id: str) -> bool:
    """Whether a model has looked and said that the answer is not there."""
    gaps = task.result.missing if task.result is not None else ()
    refused = common_pb2.FAILURE_CLASS_REFUSED
    return any(gap.item_id == item_id and gap.failure_class == refused for gap in gaps)


def _other_route(turn: Turn, task: TaskFold) -> Route | None:
    """Another route than the task has taken, that thinks and is to be had."""
    fold, rules = turn.fold, turn.rules
    fixed = task.task.route or fold.created.policy.route
    if fixed or not is_on(fold.created.policy.routing):
        return None
    taken = {attempt.route for attempt in fold.attempts_of(task.uid)}
    for route in rules.routes.values():
        if route.name in taken or not turn.route_state(route.name).ready:
            continue
        if not route.reasoning or affords(task.task, route, rules, None):
            return route
    return None


def _again(
    turn: Turn,
    task: TaskFold,
    items: Sequence[task_pb2.Item],
    known: dict[str, task_pb2.ItemAnswer],
    route: Route,
    judge: Judge,
) -> Again:
    fold, rules = turn.fold, turn.rules
    estimate = estimate_task(task.task, route, 0, rules.history, len(items))
    weight, samples = expected_weight(route, task.task.kind, task.task.complexity, rules)
    now = [
        judge(known[item.item_id]) if item.item_id in known else weight_without(task.task, fold)
        for item in items
    ]
    mean = min(sum(now) / len(now), 1.0)
    record = rules.history.record(task_key(route, task.task.kind, task.task.complexity))
    seconds = estimate.calls * estimate.call_completion / TOKENS_PER_SECOND
    if record.milliseconds.total >= ENOUGH:
        seconds = estimate.calls * record.milliseconds.quantile(QUANTILE) / 1000
    worth = value(len(items), weight, mean, estimate.total, QUANTILE, samples)
    own = tuple(items) if task.task.items else ()
    return Again(task, own, route, worth, seconds)
