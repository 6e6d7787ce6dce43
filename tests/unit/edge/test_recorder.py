from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hma.v1 import attempt_pb2, job_pb2
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.apply import fold_events
from services.meta_agent.job.state import JobFold
from services.meta_agent.recording.benchmark_log import BenchmarkLog
from services.meta_agent.recording.fleet_metrics import FleetCounters
from services.meta_agent.recording.recorder import Recorder
from tests.unit.edge.factory import routes


class BrokenCounters(FleetCounters):
    def observe(self, event: job_pb2.JobEvent, before: JobFold, fold: JobFold) -> None:
        raise RuntimeError("broken")


async def test_a_finished_job_is_counted_and_gets_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    finished = job_pb2.JobFinished(state=job_pb2.JOB_STATE_FAILED)
    events = [
        job_pb2.JobEvent(job_id="j", sequence=1, job_created=job_pb2.JobCreated()),
        job_pb2.JobEvent(job_id="j", sequence=2, job_finished=finished),
    ]
    counters = FleetCounters()
    async with BenchmarkLog(path) as log:
        recorder = Recorder(counters, log, Rules(routes=routes()))
        for number, event in enumerate(events, 1):
            recorder.observe(event, fold_events(events[: number - 1]), fold_events(events[:number]))
    assert [name for name, _ in counters.take()] == ["hma_jobs_finished_total"]
    assert len(path.read_text().splitlines()) == 2


def test_figures_that_cannot_be_kept_do_not_stop_a_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder(BrokenCounters(), BenchmarkLog(None), Rules(routes=routes()))
    lost = job_pb2.AttemptLost(ref=attempt_pb2.AttemptRef(job_id="j"))
    with caplog.at_level(logging.ERROR):
        recorder.observe(job_pb2.JobEvent(event_id="e9", attempt_lost=lost), JobFold(), JobFold())
    assert "event e9 could not be recorded" in caplog.text
