"""An explanation on wide and narrow terminals."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from hma.cli.explaining import MAX_ROWS, explanation
from hma.cli.tables import Column, fitted
from hma.v1 import attempt_pb2, explanation_pb2, job_pb2


def printed(told: explanation_pb2.Explanation, width: int = 140) -> str:
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        for part in explanation(told, width):
            console.print(part)
    return capture.get()


def account(name: str, **fields: object) -> explanation_pb2.TokenAccount:
    values: dict[str, object] = {
        "routes": ["fast"],
        "attempts": 1,
        "allotted_tokens": 200,
        "predicted_tokens": 180,
        "prompt_tokens": 120,
        "completion_tokens": 30,
        **fields,
    }
    return explanation_pb2.TokenAccount(task_id=name, **values)  # type: ignore[arg-type]


def told() -> explanation_pb2.Explanation:
    moved = explanation_pb2.TokenMovement(to="t5", tokens=120, reason="it can use more")
    setattr(moved, "from", "t3")
    moved.predicted.gain = 0.6
    moved.realised_gain = 2.0
    return explanation_pb2.Explanation(
        job_id="job-1",
        state=job_pb2.JOB_STATE_PARTIAL,
        sentences=["A team was chosen.", "Another 1,000 tokens would have bought 2 answers."],
        ledger=job_pb2.Ledger(
            budget_tokens=2000, spent_tokens=300, unknown_tokens=40, cost=0.002, max_cost=0.5
        ),
        accounts=[
            account("t3", predicted_gain=0.9, realised_gain=1.0, to_pool_tokens=120),
            account("t5", retried_tokens=70, unknown_tokens=40, from_pool_tokens=120),
        ],
        movements=[moved],
        interruptions=[
            explanation_pb2.Interruption(
                task_id="t7",
                attempt=2,
                cause=job_pb2.INTERRUPT_CAUSE_STRAGGLER,
                reason="2 tasks wait for it",
                outcome=attempt_pb2.ATTEMPT_STATE_PARTIAL,
                salvaged_items=1,
                spent_tokens=80,
            )
        ],
        dropped=[
            explanation_pb2.DroppedTask(
                task_id="t9", what="skipped", reason="the budget is gone", extracted_items=1
            )
        ],
        rounds=[
            job_pb2.RoundJudged(
                round=1,
                features=job_pb2.RoundFeatures(items=4, answered=3, quality=0.7),
                reason="it was the last",
            )
        ],
    )


def test_story_and_tables_are_printed() -> None:
    text = printed(told())
    assert text.startswith("· A team was chosen.")
    for pattern in (
        r"t3 +fast +1 +200 +180 +120 +30 +150 +120 +0\.9 → 1\.0",
        r"t5 +fast +1 +200 +180 +120 +30 +150 +70 +40 +120",
        r"all +2 +240 +60 +300 +70 +40 +120 +120 +0\.9 → 1\.0",
        r"t3 +t5 +120 +0\.6 → 2\.0 +it can use more",
        r"t7 +2 +straggler +partial +1 +80 +2 tasks wait for it",
        r"t9 +skipped +1 +the budget is gone",
        r"1 +0\.70 +3 of 4 +0 +halt +it was the last",
    ):
        assert re.search(pattern, text), pattern
    last = text.splitlines()[-1]
    assert last == "PARTIAL  job-1  300 of 2,000 tokens · 40 unknown · cost 0.002000 of 0.5"
    assert "again: re-asks" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_what_matters_stays(width: int) -> None:
    lines = printed(told(), width).splitlines()
    assert max(map(len, lines)) <= width
    heads = next(line for line in lines if line.startswith("task "))
    assert "spent" in heads
    assert "…" not in heads
    assert ("route" in heads) == (width >= 120)


def test_empty_parts_are_left_out() -> None:
    text = printed(explanation_pb2.Explanation(job_id="job-1", state=job_pb2.JOB_STATE_QUEUED))
    assert text.split() == ["QUEUED", "job-1", "0", "of", "0", "tokens"]


def test_columns_without_figures_are_left_out() -> None:
    only = explanation_pb2.Explanation(accounts=[account("t1")])
    text = printed(only)
    for absent in ("unknown", "again", "pool", "cached", "cost", "gain"):
        assert absent not in text


def test_long_tables_end_and_their_sum_is_of_all() -> None:
    many = explanation_pb2.Explanation(accounts=[account(f"t{n}") for n in range(500)])
    text = printed(many)
    assert f"and {500 - MAX_ROWS} more rows" in text
    assert re.search(r"all +500 +60,000 +15,000 +75,000", text)
    assert len(text.splitlines()) < MAX_ROWS + 10


def test_refunds_give_way_to_moves_that_bought_something() -> None:
    long = explanation_pb2.Explanation()
    for n in range(100):
        entry = long.movements.add(to="pool" if n else "t1", tokens=n + 1)
        setattr(entry, "from", "t2" if n else "pool")
    text = printed(long)
    assert re.search(r"pool +t1 +1", text)
    assert "and 99 more rows" in text


def test_nothing_in_an_explanation_can_drive_the_terminal() -> None:
    evil = told()
    evil.sentences.append("a\x1b[2Jb")
    evil.accounts[0].task_id = "t\x1b[31m"
    evil.dropped[0].reason = "\x1b]0;x\x07"
    assert "\x1b" not in printed(evil)


def test_a_table_drops_what_ranks_last_first() -> None:
    columns = [
        Column("a", ["1234567890"]),
        Column("b", ["1234567890"], 2),
        Column("c", ["1234567890"], 1),
        Column("d", [""], 3),
    ]
    heads = [[c.header for c in fitted(columns, width).columns] for width in (34, 33, 21, 5)]
    assert heads == [["a", "b", "c"], ["a", "c"], ["a"], ["a"]]
