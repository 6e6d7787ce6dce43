"""Bars, shares and the two concurrency figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.cli.timeline import Interval, cells, figures, shares

intervals = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0.01, 50)).map(lambda p: Interval(p[0], p[0] + p[1])),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(
    ("spans", "saved", "overlap"),
    [
        ([(0, 2), (2, 4)], 0, 0),
        ([(0, 2), (0, 2)], 50, 100),
        ([(0, 2), (1, 3)], 25, 50),
        ([(0, 4), (1, 2)], 20, 100),
        ([(0, 3)] * 4, 75, 100),
        ([(0, 1), (9, 10)], 0, 0),
        ([(0, 1)], 0, 0),
    ],
)
def test_the_figures_are_those_of_the_definition(
    spans: list[tuple[float, float]], saved: float, overlap: float
) -> None:
    found = figures([Interval(start, end) for start, end in spans])
    assert (found.time_saved, found.overlap) == pytest.approx((saved, overlap))


def test_nothing_at_all_has_no_figures() -> None:
    assert figures([]) == figures([Interval(3, 3)])


@given(intervals)
def test_the_figures_are_shares(work: list[Interval]) -> None:
    found = figures(work)
    assert 0 <= found.time_saved < 100
    assert -1e-6 <= found.overlap <= 100 + 1e-6


@given(intervals, st.integers(1, 80))
def test_a_bar_has_its_width_and_all_work_shows(work: list[Interval], width: int) -> None:
    for interval in work:
        bar = cells([interval], 0, 150, width)
        assert len(bar) == width
        assert bar.strip()


def test_a_bar_says_what_ran_and_what_came_to_nothing() -> None:
    work = [Interval(0, 2, lost=True), Interval(5, 10, running=True)]
    assert cells(work, 0, 10, 10) == "╌╌   ━━━━╸"


@given(st.lists(st.integers(0, 5000), min_size=4, max_size=4), st.integers(10, 200))
def test_shares_fill_the_width_and_show_what_is_there(amounts: list[int], width: int) -> None:
    whole = sum(amounts)
    sizes = shares(amounts, whole, width)
    assert sum(sizes) == width
    assert all(size >= 0 for size in sizes)
    if amounts[0]:
        assert sizes[0] > 0


def test_shares_of_nothing_are_all_free() -> None:
    assert shares([0, 0, 0], 0, 20) == [0, 0, 20]
