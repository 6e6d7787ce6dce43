"""Jobs and events for the tests of the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.ids import new_event_id, new_job_id
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.reader import READER
from services.meta_agent.store.store import Store

JobEvent = job_pb2.JobEvent


def new_job(
    *,
    tenant: str = "acme",
    request_id: str = "",
    fingerprint: bytes = b"same",
    title: str = "What is in the handbook?",
    min_reader: int = READER,
    create_time: datetime | None = None,
    priority: int = 0,
) -> NewJob:
    now = create_time or datetime.now(UTC)
    return NewJob(
        job_id=new_job_id(),
        tenant=tenant,
        request_id=request_id,
        fingerprint=fingerprint,
        title=title,
        create_time=now,
        deadline=now + timedelta(minutes=10),
        budget_tokens=5000,
        min_reader=min_reader,
        priority=priority,
    )


def created(job: NewJob) -> JobEvent:
    return JobEvent(
        job_id=job.job_id,
        event_id=new_event_id(),
        job_created=job_pb2.JobCreated(tenant=job.tenant, task_description=job.title),
    )


def decided(job_id: str, note: str = "", event_id: str = "") -> JobEvent:
    return JobEvent(
        job_id=job_id,
        event_id=event_id or new_event_id(),
        state_changed=job_pb2.StateChanged(reason=note),
    )


def fact(job_id: str, event_id: str = "", reason: str = "") -> JobEvent:
    return JobEvent(
        job_id=job_id,
        event_id=event_id or new_event_id(),
        interrupt_requested=job_pb2.InterruptRequested(reason=reason),
    )


async def add_job(
    store: Store,
    job: NewJob | None = None,
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]] = (),
) -> str:
    job = job or new_job()
    await store.jobs.create(job, created(job), documents)
    return job.job_id


async def add_claimed_job(store: Store) -> tuple[str, int]:
    """Creates a job that `store`'s replica drives; its id and epoch."""
    job_id = await add_job(store)
    mine = await store.database.fetch("SELECT id FROM job WHERE driver = $1", store.replica_id)
    [claimed] = await store.claims.claim(store.replica_id, driving={row["id"] for row in mine})
    assert claimed.job_id == job_id
    return job_id, claimed.epoch


async def seal(store: Store, job_id: str, epoch: int) -> int:
    row = await store.jobs.get(job_id)
    return await store.log.append(
        Append(
            job_id,
            epoch,
            [decided(job_id, "the end")],
            JobSummary(job_pb2.JOB_STATE_SUCCEEDED, "done"),
            seal=True,
            expected_version=row.version,
        )
    )


async def until(
    condition: Callable[[], Awaitable[bool]], *, timeout: float = 30.0, every: float = 0.02
) -> float:
    """Waits for a state; the seconds it took."""
    start = time.monotonic()
    while not await condition():
        assert time.monotonic() - start < timeout, "the state was not reached in time"
        await asyncio.sleep(every)
    return time.monotonic() - start
