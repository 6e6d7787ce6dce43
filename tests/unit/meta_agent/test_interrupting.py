"""What is ended before its time: stragglers, repeated failures, what nothing needs."""

from __future__ import annotations

from dataclasses import replace

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.observed import Ended, Intended
from tests.unit.meta_agent.histories import measured
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import START, make_created, make_rules
from tests.unit.meta_agent.test_deciding import Desk

LIMIT = 6.9
"""Three times the measured 2 s, read from a bucket that is at most 15 % too high."""


def make_desk(
    sizes: tuple[int, ...] = (1, 1, 1), *, count: int = 100, chain: int = 0, **policy: object
) -> Desk:
    rules = make_rules()
    rules = replace(rules, history=measured(rules, seconds=2.0, count=count))
    created = make_created(
        items=sum(sizes),
        budget=20_000,
        plan=itemised_plan(sizes, chain),
        policy=job_pb2.JobPolicy(**policy),  # type: ignore[arg-type]
    )
    desk = Desk(created, rules)
    desk.step()
    return desk


def give(
    desk: Desk, name: str, *items: str, state: int = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
) -> Ended:
    result = attempt_pb2.AttemptResult(state=state)  # type: ignore[arg-type]
    attempt = desk.attempt(name)
    asked = [item.item_id for item in desk.fold.tasks[attempt.uid].task.items]
    for item in items:
        result.task.items.add(
            item_id=item, answer="42", grounded=True, origin=common_pb2.ORIGIN_MODEL
        )
    result.task.missing.extend(task_pb2.Missing(item_id=i) for i in asked if i not in items)
    result.calls.add(call=1, usage=common_pb2.Usage(prompt_tokens=10, completion_tokens=2))
    return Ended(attempt.key, result)


def stops(desk: Desk) -> list[job_pb2.AttemptStopped]:
    return [e.attempt_stopped for e in desk.events if e.HasField("attempt_stopped")]


def test_straggler_is_ended_when_others_wait_and_says_from_what() -> None:
    desk = make_desk((1, 1, 1), chain=2)  # t0 <- t1, t2
    desk.step(give(desk, "t2", "q3"), after=2.0)
    desk.step()
    assert desk.wake_at - START <= LIMIT
    desk.step(after=3.9)
    assert 6.0 <= desk.wake_at - START <= LIMIT
    assert not stops(desk)
    desk.step(after=1.1)
    (stop,) = stops(desk)
    assert stop.cause == job_pb2.INTERRUPT_CAUSE_STRAGGLER
    assert stop.waiting_tasks == 1
    assert stop.elapsed.ToMilliseconds() == 7000
    assert 2000 <= stop.expected.ToMilliseconds() <= 2300


def test_straggler_is_left_alone_while_nobody_waits_for_it() -> None:
    desk = make_desk((1, 1, 1))
    desk.step(give(desk, "t2", "q3"), after=1.0)
    desk.step(after=30.0)
    assert not stops(desk)
    # It is the last: the answer waits for it.
    desk.step(give(desk, "t1", "q2"))
    assert [s.ref.task_uid for s in stops(desk)] in ([], ["1.1"])
    desk.step()
    assert [s.ref.task_uid for s in stops(desk)] == ["1.1"]


def test_too_few_measurements_make_no_straggler() -> None:
    desk = make_desk((1, 1, 1), chain=2, count=19)
    desk.step(give(desk, "t2", "q3"), after=1.0)
    desk.step(after=60.0)
    assert not stops(desk)


def test_siblings_of_the_same_job_measure_when_history_does_not() -> None:
    desk = make_desk((1, 1, 1, 1, 1, 1), chain=0, count=0)
    for number in range(1, 5):
        desk.step(give(desk, f"t{number}", f"q{number + 1}"), after=0.5)
    desk.step(give(desk, "t5", "q6"))
    # The slowest sibling took 2 s; the least that any may take is 5.
    desk.step(after=3.9)
    assert not stops(desk)
    desk.step(after=0.2)
    assert [s.ref.task_uid for s in stops(desk)] == ["1.1"]


def test_server_that_is_slow_for_all_makes_no_straggler() -> None:
    desk = make_desk((1, 1, 1, 1), chain=2)  # t0 <- t1, t2 <- t3
    desk.step(after=60.0)
    assert not stops(desk), "none that runs beside it has ended either"
    desk.step(give(desk, "t2", "q3"))
    desk.step()
    assert [s.ref.task_uid for s in stops(desk)] == ["1.1"]


def test_straggler_is_tried_again_for_what_remains_and_not_ended_twice() -> None:
    desk = make_desk((3, 1, 1), chain=2)
    desk.step(give(desk, "t2", "q5"), after=1.0)
    desk.step(after=30.0)
    assert [s.ref.attempt for s in stops(desk)] == [1]
    desk.step(give(desk, "t0", "q1", state=attempt_pb2.ATTEMPT_STATE_PARTIAL))
    desk.step(after=1.0)
    again = desk.attempt("t0")
    assert again.number == 2
    # Two of three items are open: no more than their calls are paid for.
    desk.step(after=100.0)
    assert [s.ref.attempt for s in stops(desk)] == [1]
    desk.step(give(desk, "t0", "q2", "q3"))
    result = desk.fold.tasks["1.1"].result
    assert result is not None


def test_last_try_is_not_ended_for_its_time() -> None:
    desk = make_desk((1, 1, 1), chain=2, max_attempts=1)
    desk.step(give(desk, "t2", "q3"), after=1.0)
    desk.step(after=60.0)
    assert not stops(desk)


def broken_call(desk: Desk, name: str, number: int) -> Intended:
    call = attempt_pb2.CallUsage(
        call=number, finish_reason="error", usage=common_pb2.Usage(prompt_tokens=5)
    )
    intent = attempt_pb2.CallIntent(
        call=number + 1, prompt_tokens=10, max_completion_tokens=5, previous=call
    )
    return Intended(desk.attempt(name).key, intent)


def test_attempt_whose_calls_fail_again_and_again_is_ended() -> None:
    desk = make_desk((1, 1))
    for number in (1, 2):
        desk.step(broken_call(desk, "t0", number))
    assert not stops(desk)
    desk.step(broken_call(desk, "t0", 3))
    (stop,) = stops(desk)
    assert stop.cause == job_pb2.INTERRUPT_CAUSE_FAILURE
    assert stop.note == "3 of its calls failed"


def test_task_that_nothing_needs_any_more_is_ended() -> None:
    plan = itemised_plan([1, 1])
    plan.tasks.insert(0, task_pb2.Task(id="helper", instruction="look"))
    plan.tasks.insert(1, task_pb2.Task(id="crit", instruction="look", critical=True))
    plan.tasks[2].depends_on.extend(["helper", "crit"])
    created = make_created(items=2, budget=20_000, plan=plan)
    desk = Desk(created)
    desk.step()
    assert set(desk.open()) == {"helper", "crit", "t1"}
    desk.step(desk.ends("crit", ok=False, failure_class=common_pb2.FAILURE_CLASS_REFUSED))
    desk.step()
    (stop,) = stops(desk)
    assert desk.fold.tasks[stop.ref.task_uid].task.id == "helper"
    assert stop.cause == job_pb2.INTERRUPT_CAUSE_OBSOLETE


def test_interruption_off_ends_none_of_them() -> None:
    desk = make_desk((1, 1, 1), chain=2, interruption=job_pb2.SWITCH_OFF)
    desk.step(give(desk, "t2", "q3"), after=1.0)
    for number in (1, 2, 3):
        desk.step(broken_call(desk, "t0", number), after=20.0)
    assert not stops(desk)


def test_causes_of_clients_and_of_the_deadline_are_logged() -> None:
    desk = make_desk()
    desk.fact(interrupt_requested=job_pb2.InterruptRequested(reason="now"))
    desk.step()
    assert {s.cause for s in stops(desk)} == {job_pb2.INTERRUPT_CAUSE_CLIENT}
    desk = make_desk()
    desk.step(after=599.0)
    assert {s.cause for s in stops(desk)} <= {
        job_pb2.INTERRUPT_CAUSE_DEADLINE,
        job_pb2.INTERRUPT_CAUSE_TIMEOUT,
    }
    desk = make_desk()
    desk.fact(cancel_requested=job_pb2.CancelRequested(reason="no"))
    desk.step()
    assert {s.cause for s in stops(desk)} == {job_pb2.INTERRUPT_CAUSE_CANCEL}
