"""Who worked when: timings, barriers, concurrency, the critical path. From the log alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from google.protobuf.duration_pb2 import Duration

from hma.v1 import common_pb2
from services.meta_agent.job.state import AttemptFold, JobFold
from services.meta_agent.job.times import timestamp


@dataclass(frozen=True, slots=True)
class Span:
    """When one agent worked; seconds since the epoch."""

    start: float
    end: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


def task_name(fold: JobFold, uid: str) -> str:
    """A task's id in its plan; "plan" or "reduce" for those."""
    task = fold.tasks.get(uid)
    if task is not None:
        return task.task.id
    return "plan" if uid.startswith("p") else "reduce"


def agent_timings(fold: JobFold) -> list[common_pb2.AgentTiming]:
    """One entry for each attempt that worked, in the order they started."""
    timings = []
    for attempt in _worked(fold):
        task = fold.tasks.get(attempt.uid)
        timings.append(
            common_pb2.AgentTiming(
                task_id=task_name(fold, attempt.uid),
                role=attempt.role,
                start=timestamp(attempt.start),
                end=timestamp(attempt.end),
                duration=_duration(attempt.end - attempt.start),
                layer_id=task.layer if task is not None else -1,
            )
        )
    return timings


def layer_barriers(fold: JobFold) -> list[common_pb2.LayerBarrier]:
    """Per layer, how long its agents waited, or would have, for the slowest."""
    barriers = []
    for layer, spans in sorted(_by_layer(fold).items()):
        last = max(span.end for span in spans.values())
        waited = sum(last - span.end for span in spans.values())
        barriers.append(
            common_pb2.LayerBarrier(
                layer_id=layer,
                agents=[task_name(fold, uid) for uid in spans],
                wait_time=_duration(waited),
            )
        )
    return barriers


def concurrency_figures(fold: JobFold) -> list[common_pb2.Concurrency]:
    """Per layer, and last (layer -1) for all Workers of the job."""
    layers = _by_layer(fold)
    figures = [_concurrency(layer, list(layers[layer].values())) for layer in sorted(layers)]
    everything = [span for spans in layers.values() for span in spans.values()]
    return [*figures, _concurrency(-1, everything)] if everything else []


def time_saved_percent(spans: Sequence[Span]) -> float:
    """100 * (1 - wall / sum of durations); 0 when they ran one after another."""
    work = sum(span.duration for span in spans)
    wall = _wall(spans)
    return max(100.0 * (1.0 - wall / work), 0.0) if work > 0 else 0.0


def pairwise_overlap_percent(spans: Sequence[Span]) -> float:
    """Mean over all pairs of intersection / shorter duration, in percent."""
    shares = []
    for one, other in combinations(spans, 2):
        common = min(one.end, other.end) - max(one.start, other.start)
        shorter = min(one.duration, other.duration)
        shares.append(max(common, 0.0) / shorter if shorter > 0 else 0.0)
    return 100.0 * sum(shares) / len(shares) if shares else 0.0


def critical_path(fold: JobFold) -> list[str]:
    """Ids of the tasks on the chain of dependencies that took longest.

    The longest path by duration through the dependency graph (critical path
    method); tasks are admitted after what they depend on, so one pass suffices.
    """
    spans = _spans(fold)
    length: dict[str, float] = {}
    before: dict[str, str] = {}
    for task in fold.tasks.values():
        name = task.task.id
        longest = max(
            (d for d in task.task.depends_on if d in length), key=lambda d: length[d], default=""
        )
        own = spans[task.uid].duration if task.uid in spans else 0.0
        length[name] = own + (length[longest] if longest else 0.0)
        if longest:
            before[name] = longest
    if not length:
        return []
    path = [max(length, key=lambda name: length[name])]
    while path[-1] in before:
        path.append(before[path[-1]])
    return path[::-1]


def _worked(fold: JobFold) -> list[AttemptFold]:
    return [a for a in fold.attempts.values() if not a.open and not a.refused]


def _spans(fold: JobFold) -> dict[str, Span]:
    """Per task uid, from its first attempt's start to its last one's end."""
    spans: dict[str, Span] = {}
    for attempt in _worked(fold):
        if attempt.uid in fold.tasks:
            first = spans.get(attempt.uid)
            start = first.start if first is not None else attempt.start
            spans[attempt.uid] = Span(start, attempt.end)
    return spans


def _by_layer(fold: JobFold) -> dict[int, dict[str, Span]]:
    layers: dict[int, dict[str, Span]] = defaultdict(dict)
    for uid, span in _spans(fold).items():
        layers[fold.tasks[uid].layer][uid] = span
    return layers


def _concurrency(layer: int, spans: Sequence[Span]) -> common_pb2.Concurrency:
    return common_pb2.Concurrency(
        layer_id=layer,
        time_saved_percent=time_saved_percent(spans),
        pairwise_overlap_percent=pairwise_overlap_percent(spans),
        wall=_duration(_wall(spans)),
        work=_duration(sum(span.duration for span in spans)),
    )


def _wall(spans: Sequence[Span]) -> float:
    if not spans:
        return 0.0
    return max(span.end for span in spans) - min(span.start for span in spans)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(int(seconds * 1e6))
    return duration
