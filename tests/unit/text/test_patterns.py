"""Patterns of users: matched in linear time, or refused."""

from __future__ import annotations

import pytest

from hma.text.patterns import BadPattern, check_pattern, found


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "(.*.*.*.*)*x$", r"^(\w+\s?)*$"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    # Thirty letters would keep `re` busy for minutes, these until pytest ends the test.
    assert not found(pattern, "a" * 20_000 + "!")


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", "*", "(?=a)b", r"(a)\1", "(?:a{0,1000}){0,1000}", "\ud800"],
)
def test_what_cannot_be_matched_so_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        check_pattern(pattern)


def test_a_pattern_stands_anywhere_unless_it_is_anchored() -> None:
    assert found(r"\d{4}", "in 1764 it was")
    assert not found(r"^\d{4}$", "in 1764 it was")
    assert found("^é$", "é")
