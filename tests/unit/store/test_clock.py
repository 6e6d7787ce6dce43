from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from services.meta_agent.store.clock import Clock


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    delays=st.lists(
        st.tuples(st.floats(0.0001, 0.5), st.floats(0.0001, 0.5)), min_size=1, max_size=40
    )
)
def test_the_estimate_is_off_by_half_the_quickest_round_trip_at_most(
    delays: list[tuple[float, float]],
) -> None:
    local = Time()
    clock = Clock(local)
    true_offset = 1_700_000_000.0
    for there, back in delays:
        sent = local.now
        local.now += there + back
        clock.observe(sent, local.now, sent + there + true_offset)
        local.now += 1
    quickest = min(there + back for there, back in delays[-16:])
    local.now += 2  # past any step back of the estimate
    assert abs(clock.now() - (local.now + true_offset)) <= quickest / 2 + 1e-6


def test_time_does_not_run_backwards_when_the_estimate_improves() -> None:
    local = Time()
    clock = Clock(local)
    local.now = 101.0
    clock.observe(100.0, 101.0, 1_000_000_001.0)
    before = clock.now()
    clock.observe(100.99, 101.0, 1_000_000_000.2)
    assert clock.now() >= before


def test_it_follows_a_database_whose_clock_was_set() -> None:
    local = Time()
    clock = Clock(local)
    clock.observe(100.0, 100.01, 2_000_000_000.0)
    clock.now()
    clock.observe(100.0, 100.01, 1_900_000_000.0)
    assert abs(clock.now() - 1_900_000_000.0) < 1


def test_before_the_first_sample_it_is_local_time() -> None:
    local = Time()
    before = time.time()
    clock = Clock(local)
    after = time.time()
    assert before - 1e-3 <= clock.now() <= after + 1e-3
    begin = clock.now()
    local.now += 50
    assert clock.now() - begin == 50
