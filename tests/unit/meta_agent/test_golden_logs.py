"""Logs of every reader version fold to the states that they folded to when they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.meta_agent.job.apply import fold_events
from services.meta_agent.store.reader import READER
from tests.golden.logs import GOLDEN, differences, read_log, state_of

LOGS = sorted(GOLDEN.glob("*/*.binpb"))


@pytest.mark.parametrize("path", LOGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_golden_log_folds_to_its_state(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    found = json.loads(json.dumps(state_of(fold_events(read_log(path)))))
    assert differences(expected, found) == []


def test_golden_logs_have_lost_attempts_moved_tokens_and_rounds() -> None:
    kinds = {event.WhichOneof("payload") for path in LOGS for event in read_log(path)}
    wanted = {"attempt_lost", "attempt_reported", "tokens_moved", "plan_trimmed", "round_judged"}
    assert wanted <= kinds
    assert "budget_granted" in kinds
    assert "cancel_requested" in kinds


def test_golden_logs_are_of_this_reader_or_earlier() -> None:
    readers = {int(path.parent.name.removeprefix("reader-")) for path in LOGS}
    assert readers
    assert max(readers) <= READER


def test_a_difference_is_told_by_its_place() -> None:
    expected = {"tasks": {"1.1": {"state": 3, "attempts": [1, 2]}}, "spent": 5}
    found = {"tasks": {"1.1": {"state": 3, "attempts": [1, 4], "new": 1}}, "spent": 6}
    assert differences(expected, found) == [
        ".tasks.1.1.attempts[1]: 2 became 4",
        ".spent: 5 became 6",
    ]
