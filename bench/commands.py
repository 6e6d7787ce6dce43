"""How soon a command at any replica stops the generation: cancel, interrupt, deadline.

python -m bench.commands            # a minute
python -m bench.commands --quick    # fewer jobs

The replica that takes the command does not drive the job. The time runs from the call
(for a deadline: from the moment at which the job had to end) until the model server has
seen the abort; all on loopback, with fsync. A deadline leaves time to reduce, so its
generation stops before it: the time is negative.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import hma
from bench.stage.running import database_server, running
from bench.stage.tables import milliseconds, show
from hma.v1 import meta_agent_pb2
from tests.integration.edge.edge import Edge, running_edge
from tests.integration.system.whole import Whole
from tests.scripted_llm import Call, Reply, ScriptedLLM

_DOCUMENT = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n")
_DEADLINE = 4.0
_AT_ONCE = 5


def endless(_call: Call) -> Reply:
    """Writes on for as long as it may."""
    return Reply(text=" and so on" * 4000, token_delay=0.5)


def calls_of(llm: ScriptedLLM, job_id: str) -> list[Call]:
    """The calls that the server has had for a job."""
    return [call for call in llm.calls if call.headers.get("x-hma-job") == job_id]


@contextlib.asynccontextmanager
async def two_replicas(server: str) -> AsyncIterator[tuple[Whole, Edge]]:
    """One that drives, one that takes the commands."""
    async with (
        running(server, endless, profile="smollm2") as driving,
        running_edge(driving.store.database.url) as other,
    ):
        yield driving, other


async def stopped_after(driving: Whole, other: Edge, command: str) -> tuple[float, float]:
    """Runs a job into a command; seconds until the abort, and until the job had ended."""
    job_id = await driving.client.submit(
        "In which year was the mill built?",
        documents=[_DOCUMENT],
        budget=60_000,
        deadline=_DEADLINE if command == "deadline" else 60,
    )
    await driving.llm.wait_until(
        lambda llm: any(call.completion_tokens for call in calls_of(llm, job_id)), timeout=20
    )
    start, wall = time.monotonic(), time.time()
    if command == "cancel":
        await other.api.CancelJob(meta_agent_pb2.CancelJobRequest(job_id=job_id), timeout=10)
    elif command == "interrupt":
        await other.api.InterruptJob(meta_agent_pb2.InterruptJobRequest(job_id=job_id), timeout=10)
    await driving.llm.wait_until(
        lambda llm: all(call.end is not None for call in calls_of(llm, job_id)), timeout=20
    )
    job: hma.Job = await driving.client.wait(job_id)
    if command == "deadline":
        start += job.deadline_time.ToNanoseconds() / 1e9 - wall
    ended = time.monotonic()
    calls = calls_of(driving.llm, job_id)
    assert all(call.state == "aborted" for call in calls), "a call came to its own end"
    return max(call.end or ended for call in calls) - start, ended - start


async def run(server: str, jobs: int) -> None:
    """Measures and prints."""
    rows = []
    async with two_replicas(server) as (driving, other):
        for command in ("cancel", "interrupt", "deadline"):
            # Deadlines take their time: some at once.
            width = _AT_ONCE if command == "deadline" else 1
            took: list[tuple[float, float]] = []
            while len(took) < jobs:
                count = min(width, jobs - len(took))
                took += await asyncio.gather(
                    *(stopped_after(driving, other, command) for _ in range(count))
                )
            aborted, ended = zip(*took, strict=True)
            rows.append((command, jobs, milliseconds(aborted), milliseconds(ended)))
    show(
        "Commands at a replica that does not drive the job, ms p50 / p95 (aim: 200)",
        ("", "jobs", "until the abort", "until the end"),
        rows,
    )


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer jobs")
    jobs = 5 if parser.parse_args().quick else 30
    with database_server() as server:
        asyncio.run(run(server, jobs))


if __name__ == "__main__":
    main()
