"""For whom room is kept, and how much of it others see."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from services.meta_agent.store.quota_limits import PERIODS
from services.meta_agent.store.quota_line import HOLD, First, with_kept, worth_waiting_for
from services.meta_agent.store.quota_use import Use

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USE = Use(
    now=0.0,
    settled={p.name: {"requests": 0.0, "tokens": 100.0, "cost": 1.0} for p in PERIODS},
    jobs=3,
    tasks=0,
    held_tokens=50,
    held_cost=0.5,
)


def test_what_the_first_waits_for_counts_as_held_for_those_behind_it_only() -> None:
    first = First("b", 70, 0.01, NOW)
    behind = with_kept(USE, first, "c", NOW + timedelta(seconds=1))
    assert behind.used("tokens_per_minute") == 220
    assert behind.used("cost_per_month") == pytest.approx(2.2)
    assert (behind.jobs, behind.settled) == (USE.jobs, USE.settled)
    assert with_kept(USE, first, "b", NOW) is USE, "its own"
    assert with_kept(USE, first, "a", NOW) is USE, "of two at one moment, one is first"
    assert with_kept(USE, first, "z", NOW) is not USE
    assert with_kept(USE, first, "c", NOW - timedelta(seconds=1)) is USE
    assert with_kept(USE, None, "c", NOW) is USE


@pytest.mark.parametrize(
    ("lacks", "most", "wait", "kept"),
    [
        (10, 10, None, True),
        (10, math.inf, HOLD - 1, True),
        (10, 9, None, False),
        (10, 100, HOLD, False),
        (0, 100, None, False),
    ],
)
def test_room_is_kept_for_what_can_be_had_and_soon(
    lacks: int, most: float, wait: float | None, kept: bool
) -> None:
    assert worth_waiting_for(lacks, most, wait) == kept
