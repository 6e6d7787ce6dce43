"""Jobs survive what happens to processes: a few fixed seeds. `make chaos` runs many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.jobs import SCRIPT, orders
from tests.chaos.plan import plan_faults
from tests.chaos.run import run
from tests.chaos.trouble import Trouble

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

SEEDS = (4, 6)
DEADLINE = 45.0


@pytest.fixture
async def fleet(open_directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """A fleet of the test's own."""
    directory = open_directory / f"chaos-{request.node.name}"
    # Slow enough that a restart always meets work, quick enough that it ends meanwhile.
    slow = "rolling" in request.node.name
    async with open_fleet(directory, SCRIPT, token_delay=0.03 if slow else 0.01) as running:
        yield running


@pytest.mark.parametrize("seed", SEEDS)
async def test_jobs_survive_processes_that_die_stand_still_and_stop(
    fleet: Fleet, seed: int
) -> None:
    faults = plan_faults(seed)
    print(f"seed {seed}:", *faults, sep="\n")
    outcome = await run(fleet, seed, orders(seed, DEADLINE), lambda t: t.make(faults))
    print(outcome.summary)
    assert outcome.faults == []


async def test_a_rolling_restart_under_load_loses_no_job_and_fails_no_call(fleet: Fleet) -> None:
    async def roll(trouble: Trouble) -> None:
        await trouble.restart("meta-agent-1", "worker-1", "reducer-1")
        await trouble.restart("meta-agent-2", "worker-2", "reducer-2")
        await trouble.restart("analyst")

    outcome = await run(fleet, 1, orders(1, DEADLINE), roll, spread=15.0, stubborn=False)
    assert outcome.faults == []
    states = {verdict.state for verdict in outcome.verdicts}
    assert states <= {"JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIAL", "JOB_STATE_CANCELLED"}
    # What was under way was handed over in good order: nothing is written off.
    assert [why for verdict in outcome.verdicts for why in verdict.lost] == []
    assert sum(verdict.dropped for verdict in outcome.verdicts) == 0
