"""The drawn view: what stands in it, and that it never outgrows its room."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from hma.cli.fold import fold
from hma.cli.live import render
from hma.cli.view_state import JobView
from hma.v1 import job_pb2
from tests.integration.client.job_logs import Team
from tests.integration.client.log_steps import EPOCH


def view_at(at: float, team: Team) -> JobView:
    view = JobView()
    for step in team.steps():
        if step.at <= at:
            view = fold(view, step.update)
    return view


def drawn(part: RenderableType, width: int, height: int = 500) -> list[str]:
    console = Console(width=width, height=height, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return capture.get().splitlines()


def test_the_view_says_what_a_person_wants_to_know() -> None:
    team = Team(tasks=4, workers=2, failing=[1])
    lines = drawn(render(view_at(3.0, team), EPOCH + 3.0, 110, 30, "the hint"), 110)
    text = "\n".join(lines)
    assert lines[0].startswith("RUNNING  job-01k0scripted")
    assert "3.0s of 2m 00s" in lines[0]
    assert "team, 4 tasks · plan: model" in lines[0]
    assert lines[1].startswith("tasks run")
    for words in ("spent 375", "outstanding 400", "reserved 400", "free 3,825", "of 5,000 tokens"):
        assert words in text
    assert re.search(r"✗ t1 +the output broke its schema twice", text)
    assert re.search(r"● t2 .+ fast +\d+ +200 +━+╸", text)
    assert re.search(r"○ t4 +Answer question 4 +\(250\)", text)
    assert "2 agents at work" in text
    assert lines[-1].startswith("the hint")


def test_the_budget_bar_is_as_wide_as_the_view() -> None:
    view = view_at(3.5, Team(tasks=4))
    bar = next(
        line for line in drawn(render(view, EPOCH + 3.5, 80, 30), 80) if line.startswith("█")
    )
    assert len(bar) == 80
    assert [glyph for glyph in "█▓▒░" if glyph in bar] == list("█▓▒░")


@settings(max_examples=60, deadline=None)
@given(
    tasks=st.sampled_from([1, 3, 20, 120]),
    at=st.floats(0, 40),
    width=st.integers(20, 200),
    height=st.integers(14, 60),
)
def test_the_view_never_outgrows_its_room(tasks: int, at: float, width: int, height: int) -> None:
    team = Team(tasks=tasks, workers=4, failing=(1,), answer="A line of the answer.\n" * 40)
    lines = drawn(render(view_at(at, team), EPOCH + at, width, height, "hint"), width)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_what_runs_comes_first_when_there_is_no_room_for_all() -> None:
    team = Team(tasks=500, workers=6, budget=200_000, progress_every=2.0)
    lines = drawn(render(view_at(40.0, team), EPOCH + 40.0, 110, 24, "hint"), 110)
    rows = [line for line in lines if re.match(r"[●✓✗○] ", line)]
    assert [row[0] for row in rows[:6]] == ["●"] * 6
    (summary,) = [line for line in lines if "more: " in line]
    counts = [int(number) for number in re.findall(r"(\d+) \w+", summary.partition("more: ")[2])]
    assert len(rows) + sum(counts) == 501  # with the planning


def test_a_model_cannot_drive_the_terminal() -> None:
    team = Team(tasks=2, answer="safe \x1b[2J\x1b]0;title\x07 [red]text[/red]")
    lines = drawn(render(view_at(99, team), EPOCH + 99, 100, 40), 100)
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]text[/red]" in text


@pytest.mark.parametrize("view", [JobView(), JobView(job_id="job-1", state=99)])  # type: ignore[arg-type]
def test_an_empty_or_strange_view_is_drawn(view: JobView) -> None:
    assert drawn(render(view, 0.0, 80, 24), 80)


def test_the_clock_stands_when_the_job_has_ended() -> None:
    view = view_at(999, Team(tasks=2))
    assert view.state == job_pb2.JOB_STATE_SUCCEEDED
    first = drawn(render(view, EPOCH + 60, 110, 30), 110)
    assert first == drawn(render(view, EPOCH + 600, 110, 30), 110)
