"""What follows a failure: by class, as the job says; and what is reported of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.failing import DEFAULTS, rule_for
from services.meta_agent.deciding.interrupting import paces_of
from services.meta_agent.deciding.observed import Broken, Ended, Intended, RouteState
from services.meta_agent.deciding.retrying import MOST_ORPHANS, next_try
from services.meta_agent.edge.explanation import explain
from services.meta_agent.job.state import AttemptStatus
from tests.unit.meta_agent.simulation import START, Faults, World, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk, make_desk, make_plan
from tests.unit.meta_agent.test_hard_endings import prose_desk

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


def strict_desk(name: str) -> Desk:
    """A job that the first failure ends, at its task a or at its answer r.1."""
    rules = make_rules("standard", profile={"think_tokens": 100})
    strict = job_pb2.FailureRule(
        failure_class=common_pb2.FAILURE_CLASS_TRANSIENT, action=STOP_JOB, max_attempts=1
    )
    desk = make_desk(make_plan(a=[]), rules, failure_rules=[strict])
    desk.step()
    if name == "r.1":
        desk.step(desk.ends("a"))
    return desk


@pytest.mark.parametrize("name", ["a", "r.1"])
def test_a_rolling_restart_costs_neither_tries_nor_a_route(name: str) -> None:
    desk = strict_desk(name)
    for epoch in range(2, 7):
        cut = desk.ends(name, ok=False, failure_class=common_pb2.FAILURE_CLASS_TRANSIENT)
        cut.result.handed_over = True
        if epoch % 2:
            desk.step(cut)  # its service was stopped
        else:
            attempt = desk.attempt(name)
            ref = attempt_pb2.AttemptRef(task_uid=attempt.uid, attempt=attempt.number)
            desk.fact(epoch=epoch, job_claimed=job_pb2.JobClaimed(replica="b", epoch=epoch))
            desk.fact(attempt_reported=job_pb2.AttemptReported(ref=ref, result=cut.result))
            desk.step()
        desk.step(after=6)
        assert desk.attempt(name).route == "fast"
    desk.step(desk.ends(name))
    assert state(desk, "a") == job_pb2.TASK_STATE_SUCCEEDED
    assert (desk.fold.answer is not None) == (name == "r.1")


def leaves(desk: Desk, text: str = "") -> Ended:
    """The last word of a Reducer whose driver has died, with as much as it had."""
    cut = desk.ends("r.1", ok=False, failure_class=TRANSIENT, message="the driver was lost")
    cut.result.state = attempt_pb2.ATTEMPT_STATE_PARTIAL
    cut.result.answer.text = text
    cut.result.answer.missing.add(item_id="q1", reason="No task has worked on it.")
    cut.result.handed_over = True
    return cut


def reducing_desk() -> Desk:
    rules = make_rules("standard", profile={"think_tokens": 100})
    desk = make_desk(make_plan(a=[]), rules)
    desk.step()
    desk.step(desk.ends("a"))
    return desk


def test_a_reducer_that_had_to_leave_is_asked_again_and_the_whole_answer_stands() -> None:
    desk = reducing_desk()
    for _ in range(3):
        desk.step(leaves(desk, "half an"))
        assert desk.fold.answer is None
        desk.step(after=6)
    desk.step(desk.ends("r.1"))
    desk.step()
    assert (desk.fold.state, desk.fold.answer.text) == (job_pb2.JOB_STATE_SUCCEEDED, "done")  # type: ignore[union-attr]


def test_what_a_reducer_left_behind_is_the_answer_when_there_is_no_time_for_another() -> None:
    desk = reducing_desk()
    desk.step(leaves(desk, "half an answer"))
    assert not desk.fold.ended
    desk.step(after=6)
    desk.step(after=desk.fold.deadline - desk.now)
    assert desk.fold.state == job_pb2.JOB_STATE_PARTIAL
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "half an answer"


def test_prose_that_a_reducer_left_behind_stands_when_there_is_no_money_for_other() -> None:
    desk = prose_desk(600, budget=7100)
    desk.step()
    desk.step(desk.ends("a"), desk.ends("b"))
    while not desk.fold.ended:
        reduce = desk.attempt("r.1")
        assert reduce.grant.tokens > 0, "it is not asked to merge instead"
        cut = leaves(desk, "half an answer")
        call = cut.result.calls.add(call=1, max_tokens=reduce.grant.tokens)
        call.usage.prompt_tokens = reduce.grant.tokens
        call.usage.accuracy = common_pb2.ACCURACY_EXACT
        desk.step(cut)
        desk.step(after=6)
    assert desk.now < desk.fold.deadline - 60
    assert desk.fold.spent <= 7100
    assert desk.fold.state == job_pb2.JOB_STATE_PARTIAL
    assert desk.fold.answer is not None
    assert desk.fold.answer.text == "half an answer"


def test_a_task_whose_driver_was_lost_keeps_its_route() -> None:
    rules = make_rules("standard", profile={"think_tokens": 100})
    desk = make_desk(make_plan(a=[]), rules)
    desk.step()
    assert desk.attempt("a").route == "fast"
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="other", epoch=2))
    desk.step(after=60)
    desk.step(after=6)
    assert (desk.attempt("a").number, desk.attempt("a").route) == (2, "fast")


def dies(desk: Desk) -> None:
    """Its driver dies without a word, and the next one gives up what that had open."""
    epoch = desk.fold.epoch + 1
    desk.fact(epoch=epoch, job_claimed=job_pb2.JobClaimed(replica=f"r{epoch}", epoch=epoch))
    desk.step(after=desk.rules.report_grace)
    desk.step(after=desk.rules.backoff_max)


@pytest.mark.parametrize("name", ["a", "r.1"])
def test_drivers_that_die_cost_neither_tries_nor_a_route(name: str) -> None:
    desk = strict_desk(name)
    for _ in range(6):
        held = desk.fold.unknown + desk.attempt(name).outstanding
        dies(desk)
        assert desk.fold.unknown == held, "its money stays booked"
        assert desk.attempt(name).route == "fast"
    desk.step(desk.ends(name))
    assert state(desk, "a") == job_pb2.TASK_STATE_SUCCEEDED
    assert (desk.fold.answer is not None) == (name == "r.1")


def test_a_task_of_which_one_driver_after_another_dies_is_given_up() -> None:
    desk = make_desk(
        make_plan(a=[], b=[]), make_rules(report_grace=0.5, backoff_max=0.5), max_attempts=1
    )
    desk.step()
    desk.step(desk.ends("b"))
    for _ in range(MOST_ORPHANS):
        dies(desk)
    assert (state(desk, "a"), desk.attempt("a").number) == (
        job_pb2.TASK_STATE_RUNNING,
        MOST_ORPHANS + 1,
    )
    dies(desk)
    assert state(desk, "a") == job_pb2.TASK_STATE_FAILED


def test_a_task_that_loses_its_workers_while_its_driver_lives_fails() -> None:
    desk = make_desk(make_plan(a=[], b=[]))
    desk.step()
    dies(desk)  # costs no try
    for _ in range(3):
        broken = {desk.attempt("a").key: Broken(desk.now, "the stream broke")}
        desk.step(after=desk.rules.report_grace, broken=broken)
        desk.step(after=desk.rules.backoff_max)
    assert state(desk, "a") == job_pb2.TASK_STATE_FAILED


def test_a_failure_that_a_task_of_a_dead_driver_reports_late_counts() -> None:
    desk = make_desk(make_plan(a=[], b=[]), max_attempts=1)
    desk.step()
    failed = desk.ends("a", ok=False, failure_class=TIMEOUT, message="no answer")
    ref = attempt_pb2.AttemptRef(task_uid=failed.key[0], attempt=failed.key[1])
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="b", epoch=2))
    desk.step(after=desk.rules.report_grace)
    desk.fact(attempt_reported=job_pb2.AttemptReported(ref=ref, result=failed.result))
    desk.step(after=desk.rules.backoff_max)
    assert state(desk, "a") == job_pb2.TASK_STATE_FAILED


def test_nothing_is_said_to_an_attempt_of_a_dead_driver_and_its_time_costs_no_try() -> None:
    desk = make_desk(make_plan(a=[], b=[]), make_rules(task_timeout=20.0), max_attempts=1)
    desk.step()
    desk.now += 18
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="b", epoch=2))
    desk.step(after=3)  # past its deadline
    assert [a.stop for a in desk.fold.open_attempts()] == [None, None]
    desk.step(after=2)
    desk.step(after=desk.rules.backoff_max)
    assert desk.attempt("a").number == 2


def test_a_call_that_waits_for_quota_when_its_driver_dies_is_granted_nothing() -> None:
    created = make_created(items=0, budget=50_000, plan=make_plan(a=[]), draws=True)
    desk = Desk(created)
    desk.fact(quota_drawn=job_pb2.QuotaDrawn(total_tokens=1_000))
    desk.step()
    intent = attempt_pb2.CallIntent(
        call=1, prompt_tokens=5_000, max_completion_tokens=50, min_completion_tokens=50
    )
    assert "call_deferred" in desk.step(Intended(desk.attempt("a").key, intent))
    desk.fact(epoch=2, job_claimed=job_pb2.JobClaimed(replica="b", epoch=2))
    desk.fact(quota_drawn=job_pb2.QuotaDrawn(total_tokens=40_000))
    assert "call_granted" not in desk.step()
    desk.step(after=desk.rules.report_grace)
    assert desk.fold.unknown == 0


def test_how_long_an_attempt_of_a_dead_driver_was_waited_for_is_no_pace_of_its_route() -> None:
    desk = make_desk(make_plan(a=[], b=[]))
    desk.step()
    call = attempt_pb2.CallUsage(call=1, route="fast")
    ref = attempt_pb2.AttemptRef(task_uid=desk.attempt("a").uid, attempt=1)
    desk.fact(call_settled=job_pb2.CallSettled(ref=ref, call=call))
    dies(desk)
    desk.step(desk.ends("b"))
    assert paces_of(desk.fold) == {}
    ended = desk.ends("a")
    ended.result.calls.append(call)
    desk.step(ended)
    assert list(paces_of(desk.fold)) == [("fast", desk.fold.tasks["1.1"].task.kind)]


def test_an_attempt_that_had_to_stop_before_its_driver_died_costs_a_try() -> None:
    desk = make_desk(make_plan(a=[], b=[]), make_rules(task_timeout=20.0), max_attempts=1)
    desk.step()
    desk.step(after=20)
    assert desk.attempt("a").stop == attempt_pb2.STOP_REASON_TIMEOUT
    dies(desk)
    assert state(desk, "a") == job_pb2.TASK_STATE_FAILED


def test_the_report_tells_what_cost_no_try() -> None:
    desk = make_desk(make_plan(a=[]))
    desk.step()
    for _ in range(4):
        dies(desk)
    desk.step(desk.ends("a"))
    desk.step(desk.ends("r.1"))
    assert desk.fold.finished is not None
    report = desk.fold.finished.failure_report
    assert (report.takeovers, report.lost_attempts, report.handed_over_attempts) == (4, 4, 4)
    (count,) = report.counts
    assert (count.count, count.retried) == (4, 4)
    assert count.example == "its driver was lost"
    said = " ".join(explain(desk.events, desk.rules).sentences)
    assert "An attempt at task a was lost (its driver was lost) and cost no try" in said
    assert "4 attempts failed, 4 of them with their service or driver at the cost of no try" in said


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
