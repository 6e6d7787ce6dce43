"""What is kept of a job besides its log: the fleet's metrics and the benchmark's line."""

from __future__ import annotations

import logging

from hma.v1 import job_pb2
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.edge.projection import project
from services.meta_agent.job.state import JobFold
from services.meta_agent.recording.benchmark_log import BenchmarkLog
from services.meta_agent.recording.fleet_metrics import FleetCounters
from services.meta_agent.recording.history import HistoryCounters

_log = logging.getLogger(__name__)


class Recorder:
    """Told by the drivers of every event that they have committed or read."""

    def __init__(self, counters: FleetCounters, benchmark: BenchmarkLog, rules: Rules) -> None:
        """Records nothing yet.

        Args:
            counters: The fleet's metrics.
            benchmark: Gets a line per finished job.
            rules: What projecting a job needs to know, and the models of the routes.
        """
        self._counters = counters
        self._history = HistoryCounters(counters, rules)
        self._benchmark = benchmark
        self._rules = rules

    def observe(self, event: job_pb2.JobEvent, before: JobFold, fold: JobFold) -> None:
        """Takes note of an event.

        Args:
            event: The event.
            before: The job before it.
            fold: The job after it.
        """
        try:
            self._counters.observe(event, before, fold)
            self._history.observe(event, before, fold)
            if event.HasField("job_finished"):
                self._benchmark.record(project(fold, self._rules))
        except Exception:  # noqa: BLE001 - logged; figures about a job must not stop it
            _log.exception("event %s could not be recorded", event.event_id)
