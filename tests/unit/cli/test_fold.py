"""The live view as a fold: right figures, and never a fault whatever comes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hma.cli.fold import fold
from hma.cli.lines import line
from hma.cli.view_state import JobView, spending
from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2
from tests.integration.client.job_logs import Team
from tests.integration.client.log_steps import Log, Step, Update

teams = st.builds(
    Team,
    tasks=st.integers(1, 12),
    workers=st.integers(1, 4),
    failing=st.sets(st.integers(1, 12), max_size=3).map(tuple),
    lost=st.sets(st.integers(1, 12), max_size=3).map(tuple),
    budget=st.just(6000),
)


def view_of(steps: Iterable[Step]) -> JobView:
    view = JobView()
    for step in steps:
        view = fold(view, step.update)
    return view


def ref(uid: str, attempt: int = 1) -> attempt_pb2.AttemptRef:
    return attempt_pb2.AttemptRef(job_id="j", epoch=1, task_uid=uid, attempt=attempt)


def events(*payloads: Mapping[str, object]) -> JobView:
    log = Log("j")
    for at, payload in enumerate(payloads):
        log.event(float(at), **payload)
    return view_of(log.steps(1000, 0))


def started(uid: str, tokens: int, attempt: int = 1) -> Mapping[str, object]:
    grant = attempt_pb2.Grant(call=1, tokens=tokens)
    return {
        "attempt_started": job_pb2.AttemptStarted(
            ref=ref(uid, attempt), role=common_pb2.ROLE_WORKER, route="fast", grant=grant
        )
    }


def call(number: int, tokens: int) -> attempt_pb2.CallUsage:
    return attempt_pb2.CallUsage(call=number, usage=common_pb2.Usage(prompt_tokens=tokens))


def finished(uid: str, *calls: attempt_pb2.CallUsage, late: bool = False) -> Mapping[str, object]:
    result = attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, calls=calls)
    if late:
        return {"attempt_reported": job_pb2.AttemptReported(ref=ref(uid), result=result)}
    return {"attempt_finished": job_pb2.AttemptFinished(ref=ref(uid), result=result)}


@settings(max_examples=40, deadline=None)
@given(teams)
def test_the_figures_from_events_are_those_of_the_ledger(team: Team) -> None:
    steps = team.steps()
    before = spending(view_of(steps[:-1]))
    ledger = steps[-1].update.event.job_finished.ledger
    assert (before.spent, before.unknown, before.outstanding) == (
        ledger.spent_tokens,
        ledger.unknown_tokens,
        0,
    )
    after = spending(view_of(steps))
    assert (after.spent, after.reserved) == (ledger.spent_tokens, 0)


@settings(max_examples=40, deadline=None)
@given(teams)
def test_the_figures_agree_with_every_snapshot(team: Team) -> None:
    view = JobView()
    for step in team.steps():
        view = fold(view, step.update)
        if step.update.HasField("progress"):
            ledger = step.update.progress.ledger
            found = spending(view)
            assert (found.spent, found.outstanding, found.unknown, found.reserved) == (
                ledger.spent_tokens,
                ledger.outstanding_tokens,
                ledger.unknown_tokens,
                ledger.reserved_tokens,
            )


@settings(max_examples=60, deadline=None)
@given(teams, st.randoms(use_true_random=False), st.floats(0.1, 0.9))
def test_any_part_of_a_log_in_any_order_folds(
    team: Team, chance: random.Random, share: float
) -> None:
    steps = [step for step in team.steps() if chance.random() < share]
    chance.shuffle(steps)
    view = JobView()
    for step in steps:
        view = fold(view, step.update)
        line(view, step.update)
        assert spending(view).free >= 0


def test_an_ended_job_is_what_its_last_event_says() -> None:
    view = view_of(Team(tasks=3, failing=[2], lost=[1]).steps())
    assert view.state == job_pb2.JOB_STATE_PARTIAL
    assert [task.task_id for task in view.tasks.values()] == ["t1", "t2", "t3"]
    assert view.tasks["1.2"].state == job_pb2.TASK_STATE_FAILED
    assert view.tasks["1.2"].problem == "the output broke its schema twice"
    assert view.answer == Team().answer
    assert view.notices == ("t1: attempt 1 lost: its worker is gone",)
    assert not any(attempt.running for attempt in view.attempts.values())


def test_the_answer_grows_as_the_reducer_writes() -> None:
    seen = []
    view = JobView()
    for step in Team(tasks=2).steps():
        view = fold(view, step.update)
        if view.answer and view.answer not in seen:
            seen.append(view.answer)
    assert len(seen) > 2
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


def test_one_agent_writes_the_answer_itself() -> None:
    view = events(
        {"shape_decided": job_pb2.ShapeDecided(shape=job_pb2.JOB_SHAPE_SINGLE)}, started("1.1", 9)
    )
    running = job_pb2.RunningAttempt(ref=ref("1.1"), offset=0, text="So far")
    view = fold(view, Update(progress=job_pb2.JobProgress(attempts=[running])))
    assert view.answer == "So far"


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([(0, "ab"), (2, "cd")], "abcd"),
        ([(0, "ab"), (0, "ab")], "ab"),
        ([(0, "abcd"), (2, "XY")], "abXY"),
        ([(0, "ab"), (4, "ef")], "ab……ef"),
        ([(0, "ab"), (5, "")], "ab"),
    ],
)
def test_output_is_put_together_by_its_offsets(pieces: list[tuple[int, str]], text: str) -> None:
    view = events(started("1.1", 9))
    for offset, piece in pieces:
        running = job_pb2.RunningAttempt(ref=ref("1.1"), offset=offset, text=piece)
        view = fold(view, Update(progress=job_pb2.JobProgress(attempts=[running])))
    assert view.attempts["1.1", 1].text == text


def test_a_call_is_booked_once_however_often_it_is_reported() -> None:
    view = events(
        started("1.1", 100),
        {"call_settled": job_pb2.CallSettled(ref=ref("1.1"), call=call(1, 60))},
        {"call_settled": job_pb2.CallSettled(ref=ref("1.1"), call=call(1, 60))},
        finished("1.1", call(1, 60), call(2, 5)),
        finished("1.1", call(1, 60), call(2, 5), call(3, 9), late=True),
    )
    assert spending(view).spent == 65


def test_a_new_grant_replaces_the_one_before() -> None:
    granted = job_pb2.CallGranted(ref=ref("1.1"), grant=attempt_pb2.Grant(call=2, tokens=70))
    denied = job_pb2.CallGranted(ref=ref("1.1"), grant=attempt_pb2.Grant(call=3, denied=True))
    first = started("1.1", 100)
    settled = {"call_settled": job_pb2.CallSettled(ref=ref("1.1"), call=call(1, 60))}
    assert spending(events(first)).outstanding == 100
    assert spending(events(first, settled)).outstanding == 0
    assert spending(events(first, settled, {"call_granted": granted})).outstanding == 70
    assert spending(events(first, {"call_granted": denied})).outstanding == 0


def test_a_late_report_replaces_what_was_unknown() -> None:
    lost = {"attempt_lost": job_pb2.AttemptLost(ref=ref("1.1"), unknown_tokens=100, reason="gone")}
    before = spending(events(started("1.1", 100), lost))
    after = spending(events(started("1.1", 100), lost, finished("1.1", call(1, 60), late=True)))
    assert (before.unknown, before.spent, before.outstanding) == (100, 0, 0)
    assert (after.unknown, after.spent) == (0, 60)


def test_added_budget_counts_and_is_told() -> None:
    view = events(
        {"job_created": job_pb2.JobCreated(budget=job_pb2.Budget(max_tokens=1000))},
        {"budget_granted": job_pb2.BudgetGranted(tokens=500)},
    )
    assert spending(view).budget == 1500
    assert view.notices == ("500 tokens were added to the budget",)


def test_an_event_of_a_newer_server_changes_nothing_but_the_place() -> None:
    view = view_of(Team(tasks=2).steps()[:10])
    strange = job_pb2.JobEvent.FromString(
        job_pb2.JobEvent(job_id=view.job_id, sequence=view.sequence + 1).SerializeToString()
        + b"\x9a\x06\x00"  # field 99
    )
    after = fold(view, meta_agent_pb2.WatchJobResponse(event=strange))
    assert after.sequence == view.sequence + 1
    assert (after.tasks, after.attempts) == (view.tasks, view.attempts)


def test_five_hundred_tasks_fold_in_good_time() -> None:
    steps = Team(tasks=500, workers=20, progress_every=2.0, budget=200_000).steps()
    view = view_of(steps)
    assert len(view.tasks) == 500
    assert view.finished is not None
