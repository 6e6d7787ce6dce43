"""Metrics of the whole fleet, the same whichever replica is asked.

Drivers report each committed event once. What they counted goes to the database every
second, and the page is made of the sums over all replicas, past ones included.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from hma.errors import Unavailable
from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.state import AttemptFold, AttemptKey, JobFold
from services.meta_agent.store.fleet import Counters, FleetMetrics, Labels
from services.meta_agent.store.jobs import Jobs

_log = logging.getLogger(__name__)

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the task duration's buckets, in seconds."""

_TOKENS = "hma_tokens_total"
_ERRORS = "hma_worker_errors_total"
_DURATION = "hma_task_duration_seconds"
_JOBS = "hma_jobs_finished_total"
_LAST_FLUSH = 2.0

_OPEN_STATES = (
    job_pb2.JOB_STATE_QUEUED,
    job_pb2.JOB_STATE_PLANNING,
    job_pb2.JOB_STATE_RUNNING,
    job_pb2.JOB_STATE_REDUCING,
)


class FleetCounters:
    """Counts committed events on this replica, until they are taken to the database."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)

    def observe(self, event: job_pb2.JobEvent, before: JobFold, fold: JobFold) -> None:
        """Counts an event that this replica's driver has committed or read.

        Args:
            event: The event; each is counted by one driver.
            before: The job before it.
            fold: The job after it.
        """
        self._count_tokens(before, fold)
        match event.WhichOneof("payload"):
            case "attempt_finished":
                self._count_error(event.attempt_finished, fold)
            case "attempt_reported":
                self._count_error(event.attempt_reported, fold)
            case "attempt_lost":
                if _failing(fold.attempts.get(_key(event.attempt_lost))):
                    self.add(_ERRORS, 1, {"class": "TRANSIENT", **_whose(fold)})
            case "task_settled":
                self._count_duration(event, fold)
            case "job_finished":
                state = job_pb2.JobState.Name(fold.state).removeprefix("JOB_STATE_")
                self.add(_JOBS, 1, {"state": state, **_whose(fold)})

    def take(self) -> Counters:
        """What was counted since the last call."""
        taken = dict(self._counts)
        self._counts.clear()
        return taken

    def _count_tokens(self, before: JobFold, fold: JobFold) -> None:
        for row in fold.rows[len(before.rows) :]:
            usage = row.call.usage
            labels = {
                "role": common_pb2.Role.Name(row.role).removeprefix("ROLE_").lower(),
                "route": row.call.route,
                **_whose(fold),
            }
            # Four classes that add up to what the budget counts.
            for name, tokens in (
                ("prompt", usage.prompt_tokens - usage.cached_prompt_tokens),
                ("cached_prompt", usage.cached_prompt_tokens),
                ("completion", usage.completion_tokens - usage.reasoning_tokens),
                ("reasoning", usage.reasoning_tokens),
            ):
                if tokens > 0:
                    self.add(_TOKENS, tokens, {"class": name, **labels})

    def _count_error(
        self, ended: job_pb2.AttemptFinished | job_pb2.AttemptReported, fold: JobFold
    ) -> None:
        if not _failing(fold.attempts.get(_key(ended))):
            return
        if ended.result.HasField("failure"):
            kind = ended.result.failure.failure_class or common_pb2.FAILURE_CLASS_INTERNAL
            refused = ended.result.state == attempt_pb2.ATTEMPT_STATE_REFUSED
            if refused or kind == common_pb2.FAILURE_CLASS_CANCELLED:
                return  # a full Worker, or somebody asked for it: no error
            name = common_pb2.FailureClass.Name(kind).removeprefix("FAILURE_CLASS_")
            self.add(_ERRORS, 1, {"class": name, **_whose(fold)})

    def _count_duration(self, event: job_pb2.JobEvent, fold: JobFold) -> None:
        attempts = fold.attempts_of(event.task_settled.task_uid)
        if not attempts:  # skipped: it never ran
            return
        seconds = max(event.time.ToNanoseconds() / 1e9 - min(a.start for a in attempts), 0.0)
        self.add(f"{_DURATION}_sum", seconds, {})
        bound = next((f"{limit:g}" for limit in BUCKETS if seconds <= limit), "+Inf")
        self.add(f"{_DURATION}_bucket", 1, {"le": bound})

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Adds to a counter."""
        self._counts[name, tuple(sorted(labels.items()))] += value


def _failing(attempt: AttemptFold | None) -> bool:
    """Whether it is a Worker's, and its end no other process's."""
    if attempt is None or attempt.role != common_pb2.ROLE_WORKER:
        return False
    return not attempt.handed_over


def _whose(fold: JobFold) -> dict[str, str]:
    return {"tenant": fold.created.tenant}


def _key(
    ended: job_pb2.AttemptFinished | job_pb2.AttemptReported | job_pb2.AttemptLost,
) -> AttemptKey:
    return ended.ref.task_uid, ended.ref.attempt


class FleetPage:
    """Takes the counts to the database each second, and serves the sums (/fleet).

    An async context manager; what was counted last is written on leaving it.
    """

    def __init__(
        self, counters: FleetCounters, fleet: FleetMetrics, jobs: Jobs, *, interval: float = 1.0
    ) -> None:
        self._counters = counters
        self._fleet = fleet
        self._jobs = jobs
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        # Replaced as a whole: the page is read from another thread.
        self._totals: Counters = {}
        self._open: Mapping[job_pb2.JobState.ValueType, int] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._flush_forever(), name="fleet metrics")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(_LAST_FLUSH):
                await self._fleet.add(self._counters.take())
        except (TimeoutError, Unavailable):
            _log.warning("the last second of the fleet's metrics could not be written")

    async def flush(self) -> None:
        """Writes what was counted and reads the sums.

        Raises:
            Unavailable: The database cannot be reached; nothing is lost.
        """
        await self._fleet.add(self._counters.take())
        self._totals = await self._fleet.totals()
        self._open = await self._jobs.open_counts()

    def collect(self) -> Iterable[Metric]:
        """The sums, at most a second old; called by the metrics server's thread."""
        totals = self._totals
        yield _counter(
            totals,
            _TOKENS,
            "Tokens that the inference servers counted. The classes add up: prompt is what "
            "was not cached, completion what was not reasoning",
            ("class", "role", "route", "tenant"),
        )
        yield _counter(
            totals, _ERRORS, "Attempts of Workers that failed, by class", ("class", "tenant")
        )
        yield _counter(totals, _JOBS, "Jobs that ended, by state", ("state", "tenant"))
        yield _histogram(totals)
        jobs = GaugeMetricFamily("hma_jobs", "Jobs that have not ended, by state", labels=["state"])
        for state in _OPEN_STATES:
            name = job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")
            jobs.add_metric([name], self._open.get(state, 0))
        yield jobs

    async def _flush_forever(self) -> None:
        while True:
            try:
                await self.flush()
            except Unavailable as error:
                _log.debug("fleet metrics are held back: %s", error.message)
            await asyncio.sleep(self._interval)


def _counter(totals: Counters, name: str, text: str, labels: tuple[str, ...]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for (counter, pairs), value in sorted(totals.items()):
        if counter == name:
            values = dict(pairs)
            family.add_metric([values.get(label, "") for label in labels], value)
    return family


def _histogram(totals: Counters) -> Metric:
    counts = {
        dict(pairs).get("le", ""): value
        for (name, pairs), value in totals.items()
        if name == f"{_DURATION}_bucket"
    }
    buckets, total = [], 0.0
    for bound in (*(f"{limit:g}" for limit in BUCKETS), "+Inf"):
        total += counts.get(bound, 0.0)
        buckets.append((bound, total))
    family = HistogramMetricFamily(_DURATION, "From a task's first attempt to its end, in seconds")
    family.add_metric([], buckets, sum_value=totals.get((f"{_DURATION}_sum", ()), 0.0))
    return family
