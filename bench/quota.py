"""What quotas cost: accepting a job, and a grant, with and without them, side by side.

python -m bench.quota                     # on an embedded PostgreSQL, with fsync
python -m bench.quota --url postgresql://…  # on one of yours; makes and deletes jobs
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from bench.append import embedded, settled_call
from hma.v1 import admin_pb2, attempt_pb2, job_pb2
from services.meta_agent.store.append import Append
from services.meta_agent.store.ids import new_event_id, new_job_id, new_replica_id
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.quota_draws import Draw
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.store import Store, StoreOptions, open_store

FREE, LIMITED = "bench-free", "bench-limited"

_MANY = {
    "requests_per_minute": 10**6,
    "requests_per_day": 10**9,
    "tokens_per_minute": 10**9,
    "tokens_per_hour": 10**10,
    "tokens_per_day": 10**11,
    "tokens_per_month": 10**12,
    "concurrent_jobs": 10**6,
    "concurrent_tasks": 10**6,
}

# A tenant that has been busy all day: a row for each minute, and for the latest seconds.
_HISTORY = """
INSERT INTO quota_bucket (tenant, width, start, shard, requests, tokens, cost)
SELECT $1, w.width, date_bin(w.width * interval '1 second',
                             clock_timestamp() - n * w.width * interval '1 second',
                             timestamptz '2000-01-01 00:00Z'), -1, 3, 5000, 0.01
FROM (VALUES (1, 60), (60, 1440), (86400, 31)) AS w (width, many), generate_series(0, w.many) AS n
ON CONFLICT DO NOTHING
"""


def new_job(tenant: str) -> NewJob:
    """A job of this tenant."""
    now = datetime.now(UTC)
    return NewJob(
        job_id=new_job_id(),
        tenant=tenant,
        request_id=new_event_id(),
        fingerprint=b"",
        title="bench",
        create_time=now,
        deadline=now + timedelta(hours=1),
        budget_tokens=50_000,
        least_tokens=500,
    )


async def make(store: Store, tenant: str) -> NewJob:
    """Accepts a job."""
    job = new_job(tenant)
    created = job_pb2.JobCreated(tenant=tenant, task_description="x" * 500)
    event = job_pb2.JobEvent(job_id=job.job_id, event_id=new_event_id(), job_created=created)
    await store.jobs.create(job, event)
    return job


async def side_by_side(
    name: str, works: dict[str, Callable[[], Awaitable[object]]], rounds: int, at_once: int = 1
) -> None:
    """Runs the works in turn, so that what else the machine does meets all of them."""
    times: dict[str, list[float]] = {what: [] for what in works}

    async def one(what: str, work: Callable[[], Awaitable[object]]) -> None:
        begun = time.perf_counter()
        await work()
        times[what].append(time.perf_counter() - begun)

    for _ in range(rounds):
        for what, work in works.items():
            await asyncio.gather(*(one(what, work) for _ in range(at_once)))
    print(f"{name}, {at_once} at once")
    for what, found in times.items():
        found.sort()
        p50, p95 = (found[int(len(found) * q)] * 1000 for q in (0.5, 0.95))
        print(f"  {what:<44} p50 {p50:6.2f} ms   p95 {p95:6.2f} ms")


async def claimed(store: Store, tenant: str) -> tuple[NewJob, int]:
    """A job that this replica drives, and its epoch."""
    job = await make(store, tenant)
    row = await store.database.fetchrow(
        "UPDATE job SET driver = $2, epoch = 1 WHERE id = $1 RETURNING epoch",
        job.job_id,
        store.replica_id,
    )
    assert row is not None
    return job, row["epoch"]


def granted(job_id: str) -> job_pb2.JobEvent:
    """The event that grants a call."""
    ref = attempt_pb2.AttemptRef(job_id=job_id, task_uid="1.1", attempt=1)
    intent = attempt_pb2.CallIntent(call=1, prompt_tokens=900, max_completion_tokens=100)
    grant = attempt_pb2.Grant(call=1, tokens=1000)
    return job_pb2.JobEvent(
        job_id=job_id,
        event_id=new_event_id(),
        call_granted=job_pb2.CallGranted(ref=ref, grant=grant, intent=intent),
    )


async def run(url: str, rounds: int) -> None:
    """Measures admissions, grants, settlements and draws."""
    options = StoreOptions(quota=QuotaRules(tranche=1000))
    async with open_store(
        url, replica_id=new_replica_id("bench"), address="bench:0", options=options
    ) as store:
        limits = admin_pb2.QuotaLimits(**_MANY)
        await store.quotas.set(admin_pb2.SetQuotaRequest(tenant=LIMITED, limits=limits))
        await store.database.execute(_HISTORY, LIMITED)
        for at_once in (1, 20):
            await side_by_side(
                "accepting a job",
                {
                    "no limits": lambda: make(store, FREE),
                    "eight limits, a day of use": lambda: make(store, LIMITED),
                },
                rounds // at_once,
                at_once,
            )
        jobs = {tenant: await claimed(store, tenant) for tenant in (FREE, LIMITED)}

        def append(tenant: str, event: Callable[[str], job_pb2.JobEvent]) -> Awaitable[int]:
            job, epoch = jobs[tenant]
            return store.log.append(Append(job.job_id, epoch, [event(job.job_id)]))

        await side_by_side(
            "a grant that is committed",
            {
                "no limits": lambda: append(FREE, granted),
                "within what is drawn": lambda: append(LIMITED, granted),
            },
            rounds,
        )
        await side_by_side(
            "a call that is settled",
            {
                "no limits": lambda: append(FREE, settled_call),
                "with limits": lambda: append(LIMITED, settled_call),
            },
            rounds,
        )
        job, epoch = jobs[LIMITED]
        draw = Draw(
            job_id=job.job_id,
            tenant=LIMITED,
            epoch=epoch,
            least=1,
            wanted=1,
            ceiling=1,
            spare=0,
            price=0.0,
        )
        await side_by_side(
            "once a tranche", {"drawing more": lambda: store.quotas.draws.draw(draw)}, rounds
        )
        await side_by_side("GetQuota", {"eight limits": lambda: store.quotas.get(LIMITED)}, 50)
        for tenant in (FREE, LIMITED):
            for statement in (
                "DELETE FROM job_event WHERE job_id IN (SELECT id FROM job WHERE tenant = $1)",
                "DELETE FROM job WHERE tenant = $1",
                "DELETE FROM ledger_entry WHERE tenant = $1",
                "DELETE FROM quota_bucket WHERE tenant = $1",
                "DELETE FROM tenant_quota WHERE tenant = $1",
            ):
                await store.database.execute(statement, tenant)


def main() -> None:
    """Runs the benchmark on an embedded PostgreSQL, or on `--url`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="PostgreSQL to measure on")
    parser.add_argument("--quick", action="store_true", help="repeat less")
    asked = parser.parse_args()
    rounds = 100 if asked.quick else 400
    if asked.url:
        asyncio.run(run(asked.url, rounds))
        return
    with embedded() as own:
        asyncio.run(run(own, rounds))


if __name__ == "__main__":
    main()
