"""What tests measure growth with tells linear work from work by the square."""

from __future__ import annotations

import pytest

from tests.growth import assert_linear, count_calls


def test_linear_work_passes_and_work_by_the_square_does_not() -> None:
    assert_linear(lambda size: sum(range(size)), 20_000)
    with pytest.raises(AssertionError, match="times the work"):
        assert_linear(lambda size: [sum(range(size)) for _ in range(size)], 60)


def test_calls_are_counted_and_too_many_end_the_work() -> None:
    begun: list[int] = []

    def work() -> None:
        for number in range(100):
            begun.append(number)

    assert 100 <= count_calls(work, 200) <= 110
    begun.clear()
    with pytest.raises(AssertionError, match="more than 20"):
        count_calls(work, 20)
    assert len(begun) < 25
