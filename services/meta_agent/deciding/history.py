"""What calls and answers of each kind have really cost and been worth: measured, summed.

Kept in PostgreSQL as counters that replicas add to (`recording/history.py`), read back as
one frozen `History` that deciding is given. Quantiles come from histograms with buckets
that grow by a constant factor, so their error is relative and bounded (DDSketch; Masson,
Rim, Lee, VLDB 2019): here at most 15 %, upwards.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hma.llm.routes import Route
from hma.v1 import common_pb2

GROWTH = 1.15
"""Each bucket ends this many times higher than the one before."""

ENOUGH = 20
"""Measured values below which a prior stands."""

CENSORED = 2.0
"""A completion that was cut at its limit would have been longer: it is counted as this
many times as long. Counted as it is, quantiles would shrink with every cut."""

REDUCE = "reduce"
"""The kind of work that is no task's."""

MERGE = "merge"
PROSE = "prose"
"""How reducing was done; in place of a complexity."""

Labels = tuple[tuple[str, str], ...]


def bucket_of(value: float) -> int:
    """The bucket of a positive value; those up to 1 share bucket 0."""
    return max(math.ceil(math.log(value, GROWTH)), 0) if value > 1 else 0


@dataclass(frozen=True, slots=True)
class Sketch:
    """A histogram with relative buckets.

    Attributes:
        counts: How many values each bucket has.
    """

    counts: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def total(self) -> float:
        """How many values it has."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The upper end of the bucket that `share` of the values do not exceed.

        Args:
            share: 0 to 1.
        """
        wanted, seen = share * self.total, 0.0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return GROWTH**bucket
        return 0.0

    def share_up_to(self, value: float) -> float:
        """Share of the values in buckets that end at or below `value`, 0 to 1."""
        total = self.total
        below = sum(n for bucket, n in self.counts.items() if GROWTH**bucket <= value * 1.0001)
        return below / total if total else 0.0

    def plus(self, other: Sketch) -> Sketch:
        """Both histograms in one."""
        counts = defaultdict(float, self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] += count
        return Sketch(MappingProxyType(dict(counts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was measured of one kind of work on one route.

    Attributes:
        completion: Completion tokens of a call per item.
        prompt: Prompt tokens of a call.
        milliseconds: Duration of a call; for reducing: of an attempt.
        asked: Items that a model was asked.
        weight: What became of them, summed: 1 for an answer that stands in its source,
            0.5 for one that does not, 0.25 for an extract.
    """

    completion: Sketch = Sketch()
    prompt: Sketch = Sketch()
    milliseconds: Sketch = Sketch()
    asked: float = 0.0
    weight: float = 0.0

    def plus(self, other: Record) -> Record:
        """Both records in one."""
        return Record(
            completion=self.completion.plus(other.completion),
            prompt=self.prompt.plus(other.prompt),
            milliseconds=self.milliseconds.plus(other.milliseconds),
            asked=self.asked + other.asked,
            weight=self.weight + other.weight,
        )


@dataclass(frozen=True, slots=True)
class Key:
    """One kind of work on one route.

    Attributes:
        route: The route, with the model that it is configured for: another model's
            figures say nothing.
        kind: "answer", "extract", "summarize", "write", or REDUCE.
        complexity: "low", "medium", "high"; MERGE or PROSE for REDUCE.
    """

    route: str
    kind: str
    complexity: str = ""

    @property
    def labels(self) -> Labels:
        """Labels of its counters, sorted."""
        return (("complexity", self.complexity), ("kind", self.kind), ("route", self.route))


class History:
    """All records; immutable."""

    def __init__(self, records: Mapping[Key, Record] | None = None) -> None:
        self._records = dict(records or {})
        self._of_kind: dict[tuple[str, str], Record] = {}
        for key, record in self._records.items():
            kind = (key.route, key.kind)
            known = self._of_kind.get(kind)
            self._of_kind[kind] = record if known is None else known.plus(record)

    @classmethod
    def of(cls, totals: Mapping[tuple[str, Labels], float]) -> History:
        """Reads counters as `recording/history.py` writes them."""
        sums: dict[Key, dict[str, float]] = defaultdict(dict)
        sketches: dict[Key, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for (_, labels), value in totals.items():
            said = dict(labels)
            key = Key(said.get("route", ""), said.get("kind", ""), said.get("complexity", ""))
            measure, bucket = said.get("measure", ""), said.get("bucket", "")
            if bucket:
                sketches[key][measure][int(bucket)] = value
            else:
                sums[key][measure] = value
        records = {}
        for key in sums.keys() | sketches.keys():
            found = {name: Sketch(MappingProxyType(c)) for name, c in sketches[key].items()}
            records[key] = Record(
                completion=found.get("completion", Sketch()),
                prompt=found.get("prompt", Sketch()),
                milliseconds=found.get("milliseconds", Sketch()),
                asked=sums[key].get("asked", 0.0),
                weight=sums[key].get("weight", 0.0),
            )
        return cls(records)

    def record(self, key: Key) -> Record:
        """What is known of a kind of work; of all complexities when of its own too little is."""
        own = self._records.get(key)
        if own is not None and max(own.completion.total, own.milliseconds.total) >= ENOUGH:
            return own
        if key.kind == REDUCE:  # a merge says nothing about prose
            return own or Record()
        return self._of_kind.get((key.route, key.kind), own or Record())


NOTHING_KNOWN = History()


def route_label(route: Route) -> str:
    """The route as history names it."""
    return f"{route.name}@{route.model}" if route.model else route.name


def task_key(
    route: Route,
    kind: common_pb2.TaskKind.ValueType,
    complexity: common_pb2.Complexity.ValueType,
) -> Key:
    """The kind of work that a task is."""
    kind = kind or common_pb2.TASK_KIND_ANSWER
    complexity = complexity or common_pb2.COMPLEXITY_MEDIUM
    return Key(
        route_label(route),
        common_pb2.TaskKind.Name(kind).removeprefix("TASK_KIND_").lower(),
        common_pb2.Complexity.Name(complexity).removeprefix("COMPLEXITY_").lower(),
    )
