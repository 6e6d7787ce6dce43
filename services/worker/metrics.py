"""What a Worker process counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hma.v1 import attempt_pb2, common_pb2

_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class WorkerMetrics:
    """Metrics of one process; the fleet's are at the gateway's /metrics."""

    def __init__(self, registry: CollectorRegistry, active: Callable[[], float]) -> None:
        """Registers the metrics.

        Args:
            registry: Where.
            active: How many tasks run now.
        """
        gauge = Gauge("hma_worker_active_tasks", "Tasks that run now", registry=registry)
        gauge.set_function(active)
        self._durations = Histogram(
            "hma_worker_attempt_duration_seconds",
            "How long attempts took",
            ["state"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "hma_worker_attempt_failures",
            "Attempts that were not whole, by class of failure",
            ["failure_class"],
            registry=registry,
        )
        self._tokens = Counter(
            "hma_worker_tokens", "Tokens spent", ["route", "token_class"], registry=registry
        )

    def record(
        self,
        result: attempt_pb2.AttemptResult,
        calls: Sequence[attempt_pb2.CallUsage],
        seconds: float,
    ) -> None:
        """Counts an attempt that has ended.

        Args:
            result: How.
            calls: Its calls.
            seconds: How long it took.
        """
        state = attempt_pb2.AttemptState.Name(result.state).removeprefix("ATTEMPT_STATE_")
        self._durations.labels(state.lower()).observe(seconds)
        if result.HasField("failure"):
            name = common_pb2.FailureClass.Name(result.failure.failure_class)
            self._failures.labels(name.removeprefix("FAILURE_CLASS_").lower()).inc()
        for call in calls:
            self._tokens.labels(call.route, "prompt").inc(call.usage.prompt_tokens)
            self._tokens.labels(call.route, "completion").inc(call.usage.completion_tokens)
