"""What is printed when a job has ended, and the plain lines before."""

from __future__ import annotations

import re

from rich.console import Console

from hma.cli.fold import fold
from hma.cli.lines import line
from hma.cli.receipt import MAX_ROWS
from hma.cli.report import report, verdict
from hma.cli.view_state import JobView
from hma.v1 import common_pb2, job_pb2, task_pb2
from tests.integration.client.job_logs import Team
from tests.integration.client.projecting import project


def ended(team: Team) -> job_pb2.Job:
    job = job_pb2.Job(job_id=team.job_id)
    for step in team.steps():
        if step.update.HasField("event"):
            project(job, step.update.event)
    return job


def printed(job: job_pb2.Job, *, markdown: bool = False) -> str:
    console = Console(width=120, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        for part in report(job, markdown=markdown):
            console.print(part)
    return capture.get()


def test_the_report_has_answer_missing_ledger_timings_and_figures() -> None:
    text = printed(ended(Team(tasks=4, failing=[2])))
    for words in (
        "The gateway listens on **8080**",
        "written by the model · 3 items, 3 found word for word · confidence 0.80",
        "q2: Question 2?: its worker broke the output schema twice",
        "✗ t2  the output broke its schema twice",
        "critical path: plan → t4 → reduce",
        "a barrier after layer 0 would have cost its 4 agents 1.5s of waiting",
        "38 % pairwise overlap",
    ):
        assert words in text
    assert re.search(r"t1 +work +fast +100 +40 +50 +150 +200 +2\.0s", text)
    assert re.search(r"all +6 calls +750 +300 +375 +1,125 +5,000", text)
    assert text.splitlines()[-1].startswith("PARTIAL  job-01k0scripted")


def test_the_rows_of_the_ledger_add_up() -> None:
    job = ended(Team(tasks=5))
    rows = re.findall(r"^\S+.* (\d+) +\d+ +[\d.]+s *$", printed(job).split("ledger")[1], re.M)
    assert sum(map(int, rows)) == job.ledger.spent_tokens


def test_a_long_ledger_is_summed_by_purpose() -> None:
    job = ended(Team(tasks=MAX_ROWS + 20, workers=8, budget=50_000))
    text = printed(job)
    assert re.search(r"80 calls +work +8,000 +3,200 +4,000 +12,000", text)
    assert len(text.splitlines()) < 2 * MAX_ROWS
    assert "and 22 more" in text


def test_figures_that_are_upper_bounds_are_marked() -> None:
    job = ended(Team(tasks=2))
    job.ledger.rows[1].call.usage.accuracy = common_pb2.ACCURACY_UPPER_BOUND
    job.ledger.unknown_tokens = 77
    text = printed(job)
    assert "≤150" in text
    assert "77 tokens unknown" in text


def test_extracts_are_named() -> None:
    job = ended(Team(tasks=2))
    job.answer.items[0].origin = common_pb2.ORIGIN_EXTRACT
    assert "1 extracted, not read by a model" in printed(job)


def test_an_answer_cannot_drive_the_terminal() -> None:
    job = ended(Team(tasks=2))
    job.answer.text = "a\x1b[2Jb [bold]c[/bold]"
    job.answer.missing.append(task_pb2.Missing(item_id="q\x1b1", reason="\x1b[31mred"))
    for markdown in (False, True):
        text = printed(job, markdown=markdown)
        assert "\x1b" not in text
        assert "[bold]c[/bold]" in text


def test_a_job_that_has_just_begun_is_one_line() -> None:
    job = job_pb2.Job(
        job_id="job-1",
        state=job_pb2.JOB_STATE_QUEUED,
        state_reason="the model server is still loading",
        budget=job_pb2.Budget(max_tokens=5000),
    )
    assert printed(job).strip() == (
        "QUEUED  job-1  the model server is still loading  0 of 5,000 tokens"
    )


def test_the_verdict_of_a_failed_job_is_its_failure() -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_FAILED, state_reason="failed")
    job.failure.message = "no route answers"
    assert "no route answers" in verdict(job).plain


def test_lines_tell_the_story_of_a_job() -> None:
    view = JobView()
    told = []
    for step in Team(tasks=2, failing=[2], lost=[1]).steps():
        view = fold(view, step.update)
        said = line(view, step.update)
        if said:
            assert step.update.HasField("event"), "progress is for the live view"
            told.append(said.split(maxsplit=1)[1])
    assert told[0].endswith("accepted: 2 items, 1 document, 5,000 tokens, 2m 00s")
    for words in (
        "planning: making a plan",
        "plan by model: 2 tasks",
        "t1 started on fast, grant 200",
        "t1: attempt 1 lost: its worker is gone",
        "t1 started, try 2 on fast, grant 200",
        "t2 failed in 2.8s, 150 tokens: the output broke its schema twice",
        "partial: 1 items missing",
    ):
        assert words in told


def test_what_failed_is_told_in_a_section_of_its_own_only_when_something_did() -> None:
    job = ended(Team(tasks=2))
    assert "what failed" not in printed(job)
    job.failure_report.counts.add(
        failure_class=common_pb2.FAILURE_CLASS_RATE_LIMITED,
        count=4,
        retried=3,
        lost=1,
        tokens_lost=70,
        example="The queue of the model server is full.",
    )
    job.failure_report.takeovers = 1
    job.failure_report.handed_over_attempts = 2
    text = printed(job)
    assert "what failed" in text
    assert "4 rate limited: 3 tried again, 1 lost; 70 tokens lost  The queue" in text
    assert "taken over by another replica 1 time" in text
    assert "2 attempts cost no try" in text
