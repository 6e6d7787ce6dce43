"""Measured histories, as the fleet's counters give them."""

from __future__ import annotations

from types import MappingProxyType

from hma.v1 import common_pb2
from services.meta_agent.deciding.history import History, Record, Sketch, bucket_of, task_key
from services.meta_agent.deciding.rules import Rules

ANSWER = common_pb2.TASK_KIND_ANSWER
MEDIUM = common_pb2.COMPLEXITY_MEDIUM


def sketch(*values: float, times: int = 1) -> Sketch:
    """A histogram of these values, each so many times."""
    counts: dict[int, float] = {}
    for value in values:
        bucket = bucket_of(value)
        counts[bucket] = counts.get(bucket, 0) + times
    return Sketch(MappingProxyType(counts))


def measured(
    rules: Rules,
    *,
    route: str = "fast",
    completion: float = 20,
    prompt: float = 100,
    seconds: float = 1.0,
    weight: float = 0.8,
    count: int = 100,
    complexity: common_pb2.Complexity.ValueType = MEDIUM,
) -> History:
    """A history in which every call that answers an item was the same."""
    record = Record(
        completion=sketch(completion, times=count),
        prompt=sketch(prompt, times=count),
        milliseconds=sketch(1000 * seconds, times=count),
        asked=count,
        weight=weight * count,
    )
    return History({task_key(rules.route(route), ANSWER, complexity): record})
