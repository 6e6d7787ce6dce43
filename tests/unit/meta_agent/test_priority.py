"""Priority among a tenant's jobs: worth time in line, not a place before all others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.meta_agent.job.priority import STEP, turn

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
JOBS = st.tuples(st.integers(0, 3600), st.integers(-100, 100))


@given(jobs=st.lists(JOBS, max_size=20), ageing=st.integers(1, 600), later=st.integers(0, 7200))
def test_turns_are_the_order_of_a_priority_that_rises_a_step_in_the_time_of_ageing(
    jobs: list[tuple[int, int]], ageing: int, later: int
) -> None:
    now = 3600 + later

    def risen(job: tuple[int, int]) -> float:
        came, priority = job
        # In steps times seconds: whole numbers compare exactly.
        return priority * ageing + (now - came) * int(STEP)

    by_turn = sorted(jobs, key=lambda job: turn(BEGIN + timedelta(seconds=job[0]), job[1], ageing))
    assert [risen(job) for job in by_turn] == sorted(map(risen, jobs), reverse=True)


@given(ageing=st.integers(1, 600))
def test_however_many_urgent_jobs_come_the_turn_of_the_least_urgent_comes(ageing: int) -> None:
    least = turn(BEGIN, -100, ageing)
    steps = 200 / STEP
    for extra, passes in ((-1, True), (1, False)):
        came = BEGIN + timedelta(seconds=steps * ageing + extra)
        assert (turn(came, 100, ageing) < least) == passes
