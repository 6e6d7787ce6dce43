"""The one estimator: what tokens are expected to buy. Pure, and logged with its inputs.

    gain = items * (expected weight - weight now) * P(the tokens suffice)

Weights are those of `Answer.confidence`: 1 for an answer that stands in its source, 0.5
for one that does not, 0.25 for an extract, 0 for none. The expected weight is what answers
of the same route, kind and complexity have had, drawn to a prior while they are few; the
probability comes from the measured completions. A model's own confidence is not an input,
and neither is a priority: the two must not be weighed against each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from hma.llm.routes import Route
from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.estimate import (
    QUANTILE,
    Estimate,
    dependency_tokens,
    estimate_task,
)
from services.meta_agent.deciding.history import ENOUGH, task_key
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import JobFold, TaskFold

PRIOR_WEIGHT = 0.7
"""Expected weight of an answer before any was measured."""

PRIOR_COUNT = 10.0
"""How many measured answers the prior counts as much as."""

EXTRACT_WEIGHT = 0.25
UNGROUNDED_WEIGHT = 0.5

EXTRACTED_KINDS = frozenset({common_pb2.TASK_KIND_ANSWER, common_pb2.TASK_KIND_EXTRACT})
"""Kinds whose items an extract from a document can stand in for."""


def weight_of(item: task_pb2.ItemAnswer) -> float:
    """What an answer counts, 0 to 1."""
    if not item.answer.strip():
        return 0.0
    if item.origin == common_pb2.ORIGIN_EXTRACT:
        return EXTRACT_WEIGHT
    return 1.0 if item.grounded else UNGROUNDED_WEIGHT


def expected_weight(
    route: Route,
    kind: common_pb2.TaskKind.ValueType,
    complexity: common_pb2.Complexity.ValueType,
    rules: Rules,
) -> tuple[float, int]:
    """Mean weight of an answer of this kind on this route, and the answers behind it."""
    record = rules.history.record(task_key(route, kind, complexity))
    mean = (PRIOR_WEIGHT * PRIOR_COUNT + record.weight) / (PRIOR_COUNT + record.asked)
    return min(mean, 1.0), int(record.asked)


def weight_without(task: task_pb2.Task, fold: JobFold) -> float:
    """What an item of the task counts when no model answers it: an extract, or nothing."""
    kind = task.kind or common_pb2.TASK_KIND_ANSWER
    extracted = kind in EXTRACTED_KINDS and not task.output_schema and task.items
    return EXTRACT_WEIGHT if extracted and fold.created.documents else 0.0


def open_items(task: TaskFold) -> int:
    """Items of a task that no model has answered yet; 1 for a task without items."""
    if not task.task.items:
        return int(task.result is None or not task.result.items)
    if task.result is None:
        return len(task.task.items)
    read = {i.item_id for i in task.result.items if weight_of(i) > EXTRACT_WEIGHT}
    return sum(item.item_id not in read for item in task.task.items)


def serves_only_others(task: task_pb2.Task, dependents: bool) -> bool:
    """Whether a task's own result is no part of what was asked."""
    return not task.items and dependents


def value_of(
    task: task_pb2.Task,
    items: int,
    estimate: Estimate,
    route: Route,
    fold: JobFold,
    rules: Rules,
) -> job_pb2.ValueEstimate:
    """What answering `items` items of a task is expected to be worth.

    Args:
        task: The task.
        items: How many of its items are open.
        estimate: What that costs.
        route: Where it would run.
        fold: The job.
        rules: For what was measured.
    """
    weight, samples = expected_weight(route, task.kind, task.complexity, rules)
    now = weight_without(task, fold)
    return value(items, weight, now, estimate.total, QUANTILE, samples)


def value(
    items: int, weight: float, now: float, tokens: int, probability: float, samples: int
) -> job_pb2.ValueEstimate:
    """The estimator itself (see the module's formula)."""
    gain = items * max(weight - now, 0.0) * probability
    return job_pb2.ValueEstimate(
        items=items,
        expected_weight=weight,
        weight_now=now,
        tokens=tokens,
        gain=gain,
        gain_per_1000_tokens=1000 * gain / tokens if tokens > 0 else 0.0,
        probability=probability,
        samples=samples,
    )


def longer_completion(
    task: task_pb2.Task,
    items: int,
    base: int,
    wanted: int,
    route: Route,
    fold: JobFold,
    rules: Rules,
) -> job_pb2.ValueEstimate:
    """What a completion of `wanted` instead of `base` tokens is expected to buy.

    The probability is the share of measured completions that the difference covers:
    marginal value = V * (F(wanted) - F(base)).
    """
    record = rules.history.record(task_key(route, task.kind, task.complexity))
    covered = (1.0 - QUANTILE) * (wanted - base) / max(wanted, 1)
    if record.completion.total >= ENOUGH and items:
        covered = record.completion.share_up_to(wanted / items)
        covered -= record.completion.share_up_to(base / items)
    weight, samples = expected_weight(route, task.kind, task.complexity, rules)
    now = weight_without(task, fold)
    return value(max(items, 1), weight, now, wanted - base, max(covered, 0.0), samples)


def realised_gain(task: TaskFold, fold: JobFold) -> float:
    """What a task has brought, in answered items, beyond what it would have been without."""
    if task.result is None:
        return 0.0
    now = weight_without(task.task, fold)
    return sum(max(weight_of(item) - now, 0.0) for item in task.result.items)


def estimate_open(
    task: TaskFold,
    fold: JobFold,
    rules: Rules,
    route: Route,
    by_id: Mapping[str, TaskFold] | None = None,
) -> Estimate:
    """Expected cost of what is still open of a task.

    Args:
        task: The task.
        fold: Its job.
        rules: For what was measured.
        route: Where it would run.
        by_id: The job's tasks by id, from those who ask about many.
    """
    carried = dependency_tokens(fold, task.task, by_id)
    return estimate_task(task.task, route, carried, rules.history, open_items(task))


def next_tokens(fold: JobFold, rules: Rules, tokens: int = 1000) -> job_pb2.ValueEstimate:
    """What the next tokens would buy, or would have bought: the best first.

    Candidates are tasks that lacked money, and items whose answer is missing, an extract
    or not in its source; for the last, an answer that is as good as others of its kind.

    Args:
        fold: The job.
        rules: For what was measured.
        tokens: How many more there would be.
    """
    left, parts = tokens, list[tuple[job_pb2.ValueEstimate, float]]()
    for _, _, candidate in _by_density(_candidates(fold, rules)):
        share = min(left / candidate.tokens, 1.0) if candidate.tokens else 1.0
        parts.append((candidate, share))
        left -= int(candidate.tokens * share)
        if left <= 0:
            break
    return _together(parts, tokens)


def _candidates(fold: JobFold, rules: Rules) -> Iterable[job_pb2.ValueEstimate]:
    seen: set[str] = set()
    route = rules.job_route(fold)
    for task in reversed(fold.tasks.values()):  # type: ignore[call-overload]
        if task.merged_into:
            continue
        weight, samples = expected_weight(route, task.task.kind, task.task.complexity, rules)
        have = {i.item_id: weight_of(i) for i in task.result.items} if task.result else {}
        one = estimate_task(task.task, route, 0, rules.history, 1)
        names = [item.item_id for item in task.task.items] or [task.task.id]
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            now = have.get(name, weight_without(task.task, fold))
            found = value(1, weight, now, one.call_tokens, QUANTILE, samples)
            if found.gain > 0:
                yield found


def _by_density(
    candidates: Iterable[job_pb2.ValueEstimate],
) -> list[tuple[float, int, job_pb2.ValueEstimate]]:
    queue = [(-each.gain_per_1000_tokens, place, each) for place, each in enumerate(candidates)]
    heapq.heapify(queue)
    return [heapq.heappop(queue) for _ in range(len(queue))]


def _together(
    parts: Sequence[tuple[job_pb2.ValueEstimate, float]], tokens: int
) -> job_pb2.ValueEstimate:
    if not parts:
        return job_pb2.ValueEstimate(tokens=tokens)
    gain = sum(part.gain * share for part, share in parts)
    return job_pb2.ValueEstimate(
        items=len(parts),
        expected_weight=sum(part.expected_weight for part, _ in parts) / len(parts),
        weight_now=sum(part.weight_now for part, _ in parts) / len(parts),
        tokens=tokens,
        gain=gain,
        gain_per_1000_tokens=1000 * gain / tokens if tokens else 0.0,
        probability=QUANTILE,
        samples=min(part.samples for part, _ in parts),
    )
