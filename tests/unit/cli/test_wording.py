"""Figures and names as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.cli.wording import clean, count, one_line, seconds, word
from hma.v1 import attempt_pb2, common_pb2, job_pb2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "0.0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (123, "2m 03s"),
        (3599.7, "1h 00m"),
        (3720, "1h 02m"),
    ],
)
def test_durations_are_short(value: float, text: str) -> None:
    assert seconds(value) == text


def test_names_lose_their_prefix() -> None:
    assert word(job_pb2.JobState, job_pb2.JOB_STATE_SUCCEEDED) == "succeeded"
    assert word(common_pb2.FailureClass, common_pb2.FAILURE_CLASS_RATE_LIMITED) == "rate limited"
    assert word(attempt_pb2.PlanSource, 99) == "99"


def test_one_is_not_many() -> None:
    assert (count(1, "task"), count(1200, "task")) == ("1 task", "1,200 tasks")


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    cleaned = clean(text)
    assert all(char == "\n" or ord(char) >= 32 for char in cleaned)
    assert not any(0x7F <= ord(char) <= 0x9F for char in cleaned)


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line_and_short(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line
