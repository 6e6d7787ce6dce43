"""What follows a failure: by class, as the job says; and what is reported of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.failing import DEFAULTS, rule_for
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.deciding.retrying import next_try
from services.meta_agent.job.state import AttemptStatus
from tests.unit.meta_agent.simulation import START, Faults, World, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk, make_desk, make_plan

TIMEOUT = common_pb2.FAILURE_CLASS_TIMEOUT
LIMITED = common_pb2.FAILURE_CLASS_RATE_LIMITED
TRANSIENT = common_pb2.FAILURE_CLASS_TRANSIENT
REFUSED = common_pb2.FAILURE_CLASS_REFUSED
RETRY = job_pb2.FAILURE_ACTION_RETRY
FALLBACK = job_pb2.FAILURE_ACTION_FALLBACK
GIVE_UP = job_pb2.FAILURE_ACTION_GIVE_UP
STOP_JOB = job_pb2.FAILURE_ACTION_STOP_JOB


def ruled(failure_class: int, action: int, tries: int = 0) -> Desk:
    rule = job_pb2.FailureRule(
        failure_class=failure_class,  # type: ignore[arg-type]
        action=action,  # type: ignore[arg-type]
        max_attempts=tries,
    )
    desk = make_desk(make_plan(a=[], b=[]), failure_rules=[rule])
    desk.step()
    return desk


def fails(desk: Desk, name: str, failure_class: int) -> None:
    desk.step(desk.ends(name, ok=False, failure_class=failure_class, message="no"))
    desk.step(after=6)


def state(desk: Desk, name: str) -> int:
    task = desk.fold.task_by_id(name)
    assert task is not None
    return task.state


def test_every_class_has_a_default() -> None:
    named = set(common_pb2.FailureClass.values()) - {common_pb2.FAILURE_CLASS_UNSPECIFIED}
    assert set(DEFAULTS) == named
    assert rule_for(job_pb2.JobPolicy(), common_pb2.FAILURE_CLASS_UNSPECIFIED).action == FALLBACK


@pytest.mark.parametrize(("action", "route"), [(RETRY, "fast"), (FALLBACK, "reasoning")])
def test_a_retry_stays_on_its_route_and_a_fallback_takes_another(action: int, route: str) -> None:
    rule = job_pb2.FailureRule(failure_class=TIMEOUT, action=action)  # type: ignore[arg-type]
    rules = make_rules("standard", profile={"think_tokens": 100})
    desk = make_desk(make_plan(a=[]), rules, failure_rules=[rule])
    desk.step()
    fails(desk, "a", TIMEOUT)
    assert desk.attempt("a").route == route


def test_a_number_of_tries_is_the_class_s_own() -> None:
    desk = ruled(TIMEOUT, RETRY, 5)
    for _ in range(4):
        fails(desk, "a", TIMEOUT)
        assert "a" in desk.open()
    fails(desk, "a", TIMEOUT)
    assert state(desk, "a") == job_pb2.TASK_STATE_FAILED


def test_a_class_that_is_given_up_ends_its_task_and_not_the_job() -> None:
    desk = ruled(TIMEOUT, GIVE_UP)
    fails(desk, "a", TIMEOUT)
    assert state(desk, "a") == job_pb2.TASK_STATE_FAILED
    assert desk.open() == ["b"]


def test_a_class_that_stops_the_job_ends_all_work_and_answers_with_what_is_there() -> None:
    desk = ruled(REFUSED, STOP_JOB)
    desk.step(desk.ends("b"))
    fails(desk, "a", REFUSED)
    assert desk.open() == ["r.1"]
    task = desk.fold.task_by_id("a")
    assert task is not None
    assert task.failure is not None
    assert "the job's rule for REFUSED stops it" in task.failure.message


def test_an_attempt_that_was_told_to_end_stops_no_job_though_it_never_answers() -> None:
    desk = ruled(TRANSIENT, STOP_JOB)
    desk.fact(
        attempt_stopped=job_pb2.AttemptStopped(
            ref=attempt_pb2.AttemptRef(task_uid=desk.attempt("a").uid, attempt=1),
            reason=attempt_pb2.STOP_REASON_INTERRUPT,
            cause=job_pb2.INTERRUPT_CAUSE_STRAGGLER,
        )
    )
    for _ in range(3):
        desk.step(after=6)
    assert [a.status for a in desk.fold.attempts_of("1.1")][:1] == [AttemptStatus.LOST]
    assert "b" in desk.open()


def test_being_told_to_slow_down_costs_no_try_unless_the_job_counts_it() -> None:
    patient, strict = ruled(common_pb2.FAILURE_CLASS_AUTH, GIVE_UP), ruled(LIMITED, RETRY, 2)
    for _ in range(8):
        fails(patient, "a", LIMITED)
        assert "a" in patient.open()
    fails(strict, "a", LIMITED)
    assert "a" in strict.open()
    fails(strict, "a", LIMITED)
    assert state(strict, "a") == job_pb2.TASK_STATE_FAILED


def test_tasks_wait_for_a_place_on_their_route_and_the_job_says_so() -> None:
    desk = make_desk(make_plan(a=[], b=[], c=[]))
    desk.step(routes={"fast": RouteState(True, "busy", slots=2)})
    assert desk.open() == ["a", "b"]
    away = {name: RouteState(False, "it broke") for name in ("fast", "reasoning")}
    desk.step(desk.ends("a"), desk.ends("b"), routes=away)
    assert desk.open() == []
    assert desk.fold.reason == "waits for route fast: it broke"
    desk.step(routes={"fast": RouteState(True)})
    assert (desk.open(), desk.fold.reason) == (["c"], "tasks run")


def test_the_report_counts_what_failed_and_how_it_was_made_good() -> None:
    desk = make_desk(make_plan(a=[], b=[]))
    desk.step()
    fails(desk, "a", LIMITED)
    fails(desk, "b", REFUSED)
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="other", epoch=2))
    desk.step(after=60)  # what the driver before had open is lost
    desk.step(after=6)
    desk.step(desk.ends("a"))
    desk.step(desk.ends("r.1"))
    desk.step()
    finished = desk.fold.finished
    assert finished is not None
    report = finished.failure_report
    assert report.takeovers == 1
    assert report.lost_attempts == 1
    counts = {count.failure_class: count for count in report.counts}
    assert (counts[LIMITED].count, counts[LIMITED].retried) == (1, 1)
    assert (counts[REFUSED].count, counts[REFUSED].lost) == (1, 1)
    lost = counts[TRANSIENT]
    assert lost.tokens_lost == desk.fold.unknown == report.tokens_lost > 0


def test_a_job_without_a_failure_has_no_report() -> None:
    fold = World(1, make_created(items=3), make_rules()).run()
    assert fold.finished is not None
    assert not fold.finished.HasField("failure_report")


@pytest.mark.parametrize("seed", range(40))
def test_every_failure_in_a_simulated_job_is_reported_once(seed: int) -> None:
    faults = Faults(refused=0.2, broken=0.2, failed=0.3, partial=0.2, driver_dies=0.5)
    fold = World(seed, make_created(items=8, budget=20_000), make_rules(), faults).run()
    assert fold.finished is not None
    report = fold.finished.failure_report
    for count in report.counts:
        told = count.retried + count.fell_back + count.salvaged + count.lost
        assert told == count.count > 0
    assert sum(count.tokens_lost for count in report.counts) == report.tokens_lost
    assert report.tokens_lost <= fold.spent + fold.unknown


def test_a_task_that_nobody_takes_for_hours_is_still_tried() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    attempts = [replace(desk.attempt("a"), number=n, end=START + n) for n in range(1, 2000)]
    for count in (1, 2, 1025, 1999):
        wait = next_try(desk.rules, attempts[:count]) - attempts[count - 1].end
        assert 0 < wait <= desk.rules.backoff_max


def test_a_task_whose_worker_or_driver_died_stays_on_its_route() -> None:
    rules = make_rules("standard", profile={"think_tokens": 100})
    desk = make_desk(make_plan(a=[], b=[]), rules)
    desk.step()
    handed_over = {"failure_class": TRANSIENT, "message": "the service was stopped"}
    desk.step(desk.ends("b", ok=False, **handed_over))
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="other", epoch=2))
    desk.step(after=6)
    desk.step(after=6)
    assert {desk.attempt(name).number for name in "ab"} == {2}
    assert {desk.attempt(name).route for name in "ab"} == {"fast"}


def test_a_task_whose_call_broke_takes_another_route() -> None:
    rules = make_rules("standard", profile={"think_tokens": 100})
    desk = make_desk(make_plan(a=[]), rules)
    desk.step()
    broken = desk.ends("a", ok=False, failure_class=TRANSIENT, message="it broke")
    broken.result.calls.add(call=1, route="fast", finish_reason="error")
    desk.step(broken)
    desk.step(after=6)
    assert desk.attempt("a").route == "reasoning"
