"""`python -m tests.golden`: keeps logs of this reader version, of simulated and of real jobs."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import asyncpg

from hma.v1 import job_pb2
from services.meta_agent.store.reader import READER
from tests.chaos import evidence
from tests.chaos.fleet import open_fleet
from tests.chaos.jobs import SCRIPT, orders
from tests.chaos.plan import Fault
from tests.chaos.run import run
from tests.golden.logs import GOLDEN, write_log
from tests.unit.meta_agent.simulation import World
from tests.unit.meta_agent.test_simulated_jobs import make_world

_SEEDS = 1000
_FAULTS = [
    Fault(2.0, "worker-1", "kill", 0.5),
    Fault(3.0, "meta-agent-1", "kill", 0.5),
    Fault(6.0, "meta-agent-2", "pause", 4.5),
]


def main() -> None:
    """Makes the logs, unless there are some: those are never made again."""
    directory = GOLDEN / f"reader-{READER}"
    if directory.exists():
        sys.exit(f"{directory} is there: a release's logs stay as they were. Raise READER.")
    logs = {**_simulated(), **asyncio.run(_real())}
    directory.mkdir(parents=True)
    for name, events in logs.items():
        write_log(directory, name, events)
    print(f"{len(logs)} logs in {directory}")


def _simulated() -> dict[str, list[job_pb2.JobEvent]]:
    """The first jobs that between them meet everything that any of the simulated ones meets."""
    worlds = {}
    for seed in range(_SEEDS):
        world = make_world(seed)
        world.run()
        worlds[seed] = world
    wanted = {each for world in worlds.values() for each in _met(world)}
    kept = {}
    while wanted:
        # The log that shows most of what is missing, the shortest of those.
        seed = max(worlds, key=lambda s: (len(_met(worlds[s]) & wanted), -len(worlds[s].log)))
        wanted -= _met(worlds[seed])
        kept[f"simulated-{seed}"] = worlds.pop(seed).log
    return kept


def _met(world: World) -> set[str]:
    """What is special about a log."""
    met: set[str] = {event.WhichOneof("payload") or "" for event in world.log}
    met |= {f"cause {e.attempt_stopped.cause}" for e in world.log if e.HasField("attempt_stopped")}
    met |= {f"round {world.fold.round}", f"state {world.fold.state}"}
    if world.fold.max_cost:
        met.add("money")
    return met


async def _real() -> dict[str, list[job_pb2.JobEvent]]:
    """The ten jobs of a chaos run in which a Worker and a driver die and a driver stands still."""
    with tempfile.TemporaryDirectory(prefix="hma-golden-") as name:
        os.chmod(name, 0o755)  # PostgreSQL may run as another user
        async with open_fleet(Path(name) / "fleet", SCRIPT) as fleet:
            wanted = orders(0, 60.0)
            outcome = await run(fleet, 0, wanted, lambda trouble: trouble.make(_FAULTS))
            if outcome.faults:
                sys.exit("\n".join(outcome.faults))
            connection = await asyncpg.connect(fleet.database_url, timeout=10)
            try:
                jobs = zip(wanted, outcome.verdicts, strict=True)
                return {
                    f"real-{order.name}": await evidence.read_log(connection, verdict.job_id)
                    for order, verdict in jobs
                }
            finally:
                await connection.close(timeout=10)


if __name__ == "__main__":
    main()
