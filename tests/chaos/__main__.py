"""`python -m tests.chaos`: seeded runs of ten jobs while processes die, stand still, restart.

A seed that fails keeps what every process said in var/chaos/SEED. The same seed makes the
same plan again: `make chaos CHAOS_SEED=17 CHAOS_RUNS=1`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.fleet import open_fleet
from tests.chaos.jobs import SCRIPT, orders
from tests.chaos.plan import database_away, plan_faults
from tests.chaos.run import Outcome, run

DEADLINE = 45.0
AWAY_EVERY = 25
"""Every so many seeds PostgreSQL is away for a minute instead."""

KEPT = Path("var") / "chaos"


async def one(seed: int, directory: Path) -> Outcome:
    """One run with a fleet of its own."""
    away = seed % AWAY_EVERY == AWAY_EVERY - 1
    faults = database_away(60.0) if away else plan_faults(seed)
    for fault in faults:
        print(f"    {fault}", flush=True)
    async with open_fleet(directory, SCRIPT) as fleet:
        wanted = orders(seed, 150.0 if away else DEADLINE)
        return await run(fleet, seed, wanted, lambda trouble: trouble.make(faults))


def main() -> None:
    """Runs the seeds; exits 1 when one of them failed."""
    parser = argparse.ArgumentParser(description="Chaos: jobs survive what happens to processes.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    arguments = parser.parse_args()
    failed = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        print(f"seed {seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="hma-chaos-") as name:
            directory = Path(name)
            directory.chmod(0o755)  # PostgreSQL may run as another user
            try:
                outcome = asyncio.run(one(seed, directory / "fleet"))
            except Exception as error:  # noqa: BLE001 - a run that broke has failed too
                outcome = Outcome([f"the run broke: {error!r}"])
            if outcome.faults:
                failed.append(seed)
                _keep(directory / "fleet", seed, outcome.faults)
        print(f"  {'FAILED' if outcome.faults else 'passed'}: {outcome.summary}", flush=True)
        for fault in outcome.faults:
            print(f"    {fault}", flush=True)
    print(f"{arguments.runs - len(failed)} of {arguments.runs} runs passed; failed: {failed}")
    sys.exit(1 if failed else 0)


def _keep(directory: Path, seed: int, faults: list[str]) -> None:
    kept = KEPT / str(seed)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(directory / "log", kept)
    (kept / "faults").write_text("\n".join(faults) + "\n")


if __name__ == "__main__":
    main()
