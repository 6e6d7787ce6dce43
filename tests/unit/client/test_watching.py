"""Waiting for a job and watching it: how long, how often, and when it is given up."""

from __future__ import annotations

import pytest

from hma.client.backoff import Backoff
from hma.client.watching import PAUSE, WAIT_MARGIN, WAIT_SLICE, Waiting, Watching
from hma.errors import DeadlinePassed, InvalidRequest, NotFound, Unavailable
from hma.v1 import job_pb2, meta_agent_pb2
from tests.unit.client.test_tries import Time

RUNNING = job_pb2.Job(job_id="j", state=job_pb2.JOB_STATE_RUNNING)
RUNNING.budget.deadline.FromSeconds(120)


def asked(waiting: Waiting) -> float:
    return float(waiting.request().wait.ToTimedelta().total_seconds())


def test_a_wait_asks_slice_by_slice_and_for_no_more_than_is_left() -> None:
    clock = Time()
    waiting = Waiting("j", "20s", clock=clock)
    assert asked(waiting) == WAIT_SLICE
    clock.now += WAIT_SLICE
    assert waiting.pause_after(RUNNING) == 0
    assert asked(waiting) == 20 - WAIT_SLICE
    clock.now += 5
    with pytest.raises(DeadlinePassed, match="j has not ended after 20 s"):
        waiting.pause_after(RUNNING)


def test_without_a_limit_a_wait_lasts_as_long_as_the_job_may_and_a_margin() -> None:
    clock = Time()
    waiting = Waiting("j", None, clock=clock)
    waiting.request()
    waiting.pause_after(RUNNING)
    clock.now += 120 + WAIT_MARGIN - 1
    waiting.pause_after(RUNNING)
    clock.now += 1
    with pytest.raises(DeadlinePassed):
        waiting.pause_after(RUNNING)


def test_a_server_that_does_not_wait_is_not_asked_without_pause() -> None:
    clock = Time()
    waiting = Waiting("j", 20, clock=clock)
    waiting.request()
    clock.now += PAUSE / 4
    assert waiting.pause_after(RUNNING) == pytest.approx(PAUSE * 3 / 4)


def test_a_timeout_that_is_no_time_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        Waiting("j", "soon")


def watching() -> Watching:
    first, resume = Backoff(tries=2, first=0.1), Backoff(tries=4, first=0.1)
    return Watching("j", 3, events_only=True, first=first, resume=resume)


def test_a_watch_that_never_worked_is_given_up_early_with_what_was_said() -> None:
    watch = watching()
    assert watch.pause_after(Unavailable("away")) > 0
    with pytest.raises(NotFound, match="no such job"):
        watch.pause_after(NotFound("no such job"))


def test_a_watch_that_worked_is_resumed_behind_the_last_event_with_more_patience() -> None:
    watch = watching()
    watch.pause_after(None)
    update = meta_agent_pb2.WatchJobResponse(event=job_pb2.JobEvent(sequence=4))
    assert watch.takes(update)
    assert not watch.takes(update)
    assert watch.request() == meta_agent_pb2.WatchJobRequest(
        job_id="j", after_sequence=4, events_only=True
    )
    for _ in range(3):
        watch.pause_after(None)
    with pytest.raises(Unavailable, match="keeps ending early"):
        watch.pause_after(None)
