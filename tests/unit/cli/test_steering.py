"""What steers a job, as the live view, the lines and the report show it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from hma.cli.fold import fold
from hma.cli.lines import line
from hma.cli.live import render
from hma.cli.receipt import MAX_ROWS
from hma.cli.report import report
from hma.cli.view_state import JobView
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from tests.integration.client.log_steps import EPOCH, Log, Update

Payload = Mapping[str, object]


def ref(uid: str = "1.1") -> attempt_pb2.AttemptRef:
    return attempt_pb2.AttemptRef(job_id="j", epoch=1, task_uid=uid, attempt=1)


def created(**budget: float) -> Payload:
    limits = job_pb2.Budget(max_tokens=1000, **budget)  # type: ignore[arg-type]
    return {"job_created": job_pb2.JobCreated(budget=limits)}


def admitted(uid: str, allotted: int = 100) -> Payload:
    task = task_pb2.Task(id=f"t{uid[-1]}", title="do it")
    return {
        "task_admitted": job_pb2.TaskAdmitted(task_uid=uid, task=task, allotted_tokens=allotted)
    }


def started(uid: str = "1.1") -> Payload:
    grant = attempt_pb2.Grant(call=1, tokens=100)
    role = common_pb2.ROLE_WORKER
    return {
        "attempt_started": job_pb2.AttemptStarted(
            ref=ref(uid), role=role, route="fast", grant=grant
        )
    }


def told(*payloads: Payload) -> tuple[JobView, list[str]]:
    """The view after these events, and the lines that they gave."""
    log = Log("j")
    for at, payload in enumerate(payloads):
        log.event(float(at), **payload)
    view, lines = JobView(), []
    for step in log.steps(1000, 0):
        view = fold(view, step.update)
        said = line(view, step.update)
        if said is not None:
            lines.append(said.split(maxsplit=1)[1])
    return view, lines


def drawn(view: JobView) -> str:
    console = Console(width=110, height=60, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(render(view, EPOCH + 9.0, 110, 40))
    return capture.get()


def printed(job: job_pb2.Job) -> str:
    console = Console(width=120, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        for part in report(job, markdown=False):
            console.print(part)
    return capture.get()


def test_a_move_to_a_task_is_a_line_and_a_figure_and_no_notice() -> None:
    moved = job_pb2.TokensMoved(
        from_task_uid="1.1", to_task_uid="1.2", tokens=60, reason="it can use more"
    )
    view, lines = told(created(), admitted("1.1"), admitted("1.2"), {"tokens_moved": moved})
    assert lines[-1] == "60 tokens from t1 to t2: it can use more"
    assert [task.allotted for task in view.tasks.values()] == [40, 160]
    assert (view.moved, view.notices) == (60, ())
    assert "60 moved to where they buy more" in drawn(view)


def test_what_goes_back_to_the_pool_is_no_line() -> None:
    back = job_pb2.TokensMoved(from_task_uid="1.1", tokens=60)
    view, lines = told(created(), admitted("1.1"), {"tokens_moved": back})
    assert len(lines) == 1
    assert (view.moved, view.tasks["1.1"].allotted) == (0, 40)


def test_tokens_from_the_pool_for_a_call_count_as_moved() -> None:
    granted = job_pb2.CallGranted(
        ref=ref(), grant=attempt_pb2.Grant(call=2, tokens=90), from_pool_tokens=30
    )
    view, lines = told(created(), admitted("1.1"), started(), {"call_granted": granted})
    assert view.moved == 30
    assert len(lines) == 2


def test_a_trimmed_plan_is_one_line_and_merged_tasks_are_done_with() -> None:
    merge, defer = job_pb2.TRIM_ACTION_MERGE, job_pb2.TRIM_ACTION_DEFER
    trimmed = job_pb2.PlanTrimmed(
        needed_tokens=900,
        available_tokens=500,
        tasks=[
            job_pb2.Trimmed(task_uid="1.2", action=merge, into_task_uid="1.1"),
            job_pb2.Trimmed(task_uid="1.3", action=defer),
        ],
    )
    tasks = [admitted(f"1.{n}") for n in (1, 2, 3)]
    view, lines = told(created(), *tasks, {"plan_trimmed": trimmed})
    words = (
        "tasks need 900 tokens, 500 are there: 1 task merged into others, 1 task waits for tokens"
    )
    assert lines[-1] == words
    assert view.notices == (words,)
    assert view.tasks["1.2"].state == job_pb2.TASK_STATE_SKIPPED
    assert view.tasks["1.2"].problem == "merged into t1"
    assert view.tasks["1.1"].allotted == 200


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (
            job_pb2.AttemptStopped(
                cause=job_pb2.INTERRUPT_CAUSE_STRAGGLER,
                elapsed=Duration(seconds=12),
                expected=Duration(seconds=3),
                waiting_tasks=2,
            ),
            "t1: interrupted after 12s (expected 3.0s), 2 tasks wait for it",
        ),
        (
            job_pb2.AttemptStopped(cause=job_pb2.INTERRUPT_CAUSE_BUDGET, note="nothing is left"),
            "t1: told to stop (budget): nothing is left",
        ),
        (
            job_pb2.AttemptStopped(reason=attempt_pb2.STOP_REASON_TIMEOUT, note="its time is up"),
            "t1: told to stop (timeout): its time is up",
        ),
    ],
)
def test_an_interruption_says_what_led_to_it(stop: job_pb2.AttemptStopped, words: str) -> None:
    stop.ref.CopyFrom(ref())
    view, lines = told(created(), admitted("1.1"), started(), {"attempt_stopped": stop})
    assert lines[-1] == words
    assert view.notices == (words,)


def judged(number: int, most: int, *, another: bool) -> Payload:
    return {
        "round_judged": job_pb2.RoundJudged(
            round=number,
            another_round=another,
            reason="the numbers say so",
            features=job_pb2.RoundFeatures(max_rounds=most),
        )
    }


def test_rounds_are_told_unless_there_is_only_one() -> None:
    _, lines = told(created(), judged(1, 2, another=True), judged(2, 2, another=False))
    assert lines[1:] == [
        "round 1 judged: another round, because the numbers say so",
        "round 2 judged: halt, because the numbers say so",
    ]
    lost = {"attempt_lost": job_pb2.AttemptLost(ref=ref(), unknown_tokens=9, reason="gone")}
    view, lines = told(created(), admitted("1.1"), started(), lost, judged(1, 1, another=False))
    assert lines[-1] == "t1: attempt 1 lost: gone", "an older notice is not told again"
    assert view.news == ""


def test_a_late_report_says_what_is_known_now() -> None:
    usage = common_pb2.Usage(prompt_tokens=50, completion_tokens=10)
    result = attempt_pb2.AttemptResult(calls=[attempt_pb2.CallUsage(call=1, usage=usage)])
    view, lines = told(
        created(),
        admitted("1.1"),
        started(),
        {"attempt_lost": job_pb2.AttemptLost(ref=ref(), unknown_tokens=100, reason="gone")},
        {"attempt_reported": job_pb2.AttemptReported(ref=ref(), result=result)},
    )
    assert lines[-1] == "t1: a late report took back 100 unknown tokens, it had spent 60"
    assert view.attempts["1.1", 1].unknown == 0


def test_a_budget_in_money_is_shown_while_it_is_spent() -> None:
    topped_up = {"budget_granted": job_pb2.BudgetGranted(tokens=500, cost=0.25)}
    view, lines = told(created(max_cost=0.5), topped_up)
    assert "1,000 tokens, 0.5 of money" in lines[0]
    assert lines[1] == "500 tokens and 0.25 of money were added to the budget"
    ledger = job_pb2.Ledger(cost=0.125, outstanding_cost=0.0625, max_cost=0.75)
    view = fold(view, Update(progress=job_pb2.JobProgress(ledger=ledger)))
    assert "money 0.125000, 0.062500 outstanding at most of 0.75" in drawn(view)
    no_limit, _ = told(created(), topped_up)
    assert no_limit.max_cost == 0.0
    assert "money" not in drawn(no_limit).replace("of money were added", "")


def row(kind: job_pb2.LedgerRowKind.ValueType, tokens: int = 0) -> job_pb2.LedgerRow:
    made = job_pb2.LedgerRow(task_uid="1.1", attempt=2, kind=kind, unknown_tokens=tokens)
    if kind == job_pb2.LEDGER_ROW_KIND_CALL:
        usage = common_pb2.Usage(prompt_tokens=50, completion_tokens=10)
        made.call.CopyFrom(attempt_pb2.CallUsage(call=1, route="fast", usage=usage, max_tokens=99))
    return made


def ended(*rows: job_pb2.LedgerRow, **ledger: float) -> job_pb2.Job:
    job = job_pb2.Job(job_id="j", state=job_pb2.JOB_STATE_SUCCEEDED)
    job.tasks.add(task_uid="1.1", task=task_pb2.Task(id="t1"))
    figures = job_pb2.Ledger(budget_tokens=1000, rows=rows, **ledger)  # type: ignore[arg-type]
    job.ledger.CopyFrom(figures)
    return job


def test_the_receipt_has_rows_for_what_was_unknown_and_is_known() -> None:
    lost = row(job_pb2.LEDGER_ROW_KIND_UNKNOWN, 120)
    found = row(job_pb2.LEDGER_ROW_KIND_RECONCILIATION, -120)
    text = printed(ended(lost, found, row(job_pb2.LEDGER_ROW_KIND_CALL)))
    lines = [" ".join(text_line.split()) for text_line in text.splitlines()]
    assert "t1 try 2 unknown ≤120" in lines
    assert "t1 try 2 known now -120" in lines
    assert any(entry.startswith("all 1 call ") for entry in lines)


def test_a_long_receipt_sums_up_what_is_unknown() -> None:
    rows = [row(job_pb2.LEDGER_ROW_KIND_CALL) for _ in range(MAX_ROWS)]
    lost = row(job_pb2.LEDGER_ROW_KIND_UNKNOWN, 120)
    text = printed(ended(*rows, lost, unknown_tokens=120))
    lines = [" ".join(text_line.split()) for text_line in text.splitlines()]
    assert "unknown ≤120" in lines
    assert any(entry.startswith(f"all {MAX_ROWS} calls ") for entry in lines)


def test_money_is_in_the_receipt_and_in_the_last_line() -> None:
    text = printed(ended(cost=0.125, max_cost=0.5, outstanding_cost=0.25))
    assert "cost 0.125000 (up to 0.250000 more outstanding) of 0.5" in text
    assert text.splitlines()[-1].endswith("of 0.5 of money")
    assert "of money" not in printed(ended(cost=0.125))


def shaped(error: float, actual: int) -> str:
    job = ended()
    job.shape_decision.predicted_single_tokens = 2442
    job.shape_outcome.CopyFrom(
        job_pb2.ShapeOutcome(
            shape=job_pb2.JOB_SHAPE_TEAM,
            predicted_tokens=2244,
            actual_tokens=actual,
            error_percent=error,
        )
    )
    return printed(job)


@pytest.mark.parametrize(
    ("error", "actual", "words"),
    [(-16.9, 1865, "17 % less"), (20.0, 2693, "20 % more"), (0.1, 2246, "as predicted")],
)
def test_the_report_sets_the_outcome_of_the_shape_beside_its_prediction(
    error: float, actual: int, words: str
) -> None:
    assert (
        f"a team cost {actual:,} of 2,244 predicted tokens ({words}); "
        "one agent was predicted to cost 2,442"
    ) in shaped(error, actual)


def test_the_report_says_how_each_round_was_judged() -> None:
    job = ended()
    job.rounds.add(round=1, another_round=True, reason="2 items are missing")
    job.rounds.add(round=2, reason="it was the last")
    text = printed(job)
    assert "round 1 judged: another round, because 2 items are missing" in text
    assert "round 2 judged: halt, because it was the last" in text
    assert "decisions" not in printed(ended())


def test_waiting_for_quota_is_told_once_with_its_limit_and_time() -> None:
    full = job_pb2.QuotaDrawn(tokens=-300, limit="tokens_per_minute")
    full.retry_time.FromSeconds(1_700_000_000)
    ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=1)
    intent = attempt_pb2.CallIntent(prompt_tokens=900, max_completion_tokens=100)
    view, lines = told(
        created(),
        {"quota_drawn": job_pb2.QuotaDrawn(tokens=500, total_tokens=500)},
        {"quota_drawn": full},
        {"call_deferred": job_pb2.CallDeferred(ref=ref, intent=intent)},
    )
    assert lines[1:] == [
        "waits for quota: tokens_per_minute has no room until 22:13:20 UTC",
        "1.1: its call of 1,000 tokens waits for quota",
    ]
    assert len(view.notices) == 2
