"""The first limits of a tenant are set while its jobs are being accepted without any."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from hma.errors import PreconditionFailed, QuotaExceeded, Unavailable
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store import audit
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.database import Connection
from services.meta_agent.store.ids import new_event_id
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.store import Store
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import created, decided, new_job, until
from tests.integration.store.proxy import Proxy
from tests.integration.store.quota_checks import check_buckets, check_windows
from tests.integration.store.test_quota import claim, job_of, limit, make, used

_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@dataclass
class Pause:
    """A transaction that has done all but commit, until `go` is set."""

    there: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


PauseAt = Callable[[str], Pause]


@pytest.fixture
def pause_at(monkeypatch: pytest.MonkeyPatch) -> PauseAt:
    """Makes whoever writes the trail of this resource, its last statement, wait."""
    pauses: dict[str, Pause] = {}
    write = audit.write

    async def pausing(connection: Connection, resource: str) -> None:
        await write(connection, resource)
        pause = pauses.pop(resource, None)
        if pause is not None:
            pause.there.set()
            await pause.go.wait()

    monkeypatch.setattr(audit, "write", pausing)
    return lambda resource: pauses.setdefault(resource, Pause())


@contextlib.asynccontextmanager
async def begun(pause: Pause, work: asyncio.Task[object]) -> AsyncIterator[None]:
    """What is done while `work` pauses; then it goes on, to its end."""
    async with asyncio.timeout(10):
        await asyncio.wait(
            {work, asyncio.create_task(pause.there.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
    assert not work.done()
    try:
        yield
    finally:
        pause.go.set()
        await asyncio.gather(work, return_exceptions=True)


async def waits_or_ended(store: Store, work: asyncio.Task[object]) -> None:
    """Until `work` waits for a lock, or did not need to."""

    async def reached() -> bool:
        row = await store.database.fetchrow(_WAITING)
        assert row is not None
        return work.done() or row["count"] == 1

    await until(reached)


async def _after(setting: asyncio.Task[None], store: Store) -> None:
    """One more job, once there are limits."""
    await setting
    await make(store)


async def test_a_job_that_was_being_accepted_when_limits_came_counts_in_them(
    open_replica: OpenStore, pause_at: PauseAt
) -> None:
    store, other = await open_replica("a"), await open_replica("b")
    early = job_of()
    pause = pause_at(early.job_id)
    accepting = asyncio.create_task(store.jobs.create(early, created(early)))
    async with begun(pause, accepting):
        setting = asyncio.create_task(limit(other, concurrent_jobs=1, requests_per_hour=1))
        await waits_or_ended(other, setting)
        later = asyncio.create_task(_after(setting, other))
        if setting.done():
            await asyncio.wait({later})
    assert (await accepting).made
    with pytest.raises(QuotaExceeded):
        await later
    for each in (store, other):
        with pytest.raises(QuotaExceeded):
            await make(each)
    await check_buckets(store)


async def test_a_job_that_comes_while_limits_are_being_set_is_held_by_them(
    open_replica: OpenStore, pause_at: PauseAt
) -> None:
    store, other = await open_replica("a"), await open_replica("b")
    await make(store)
    pause = pause_at("acme")
    setting = asyncio.create_task(limit(other, concurrent_jobs=1))
    async with begun(pause, setting):
        accepting = asyncio.create_task(make(store))
        await waits_or_ended(other, accepting)
    await setting
    with pytest.raises(QuotaExceeded):
        await accepting
    await check_windows(store)
    await check_buckets(store)


async def test_limits_of_one_tenant_do_not_wait_for_jobs_of_another(
    open_replica: OpenStore, pause_at: PauseAt
) -> None:
    store, other = await open_replica("a"), await open_replica("b")
    job = job_of("slow")
    pause = pause_at(job.job_id)
    accepting = asyncio.create_task(store.jobs.create(job, created(job)))
    async with begun(pause, accepting):
        await asyncio.wait_for(limit(other, "quick", concurrent_jobs=1), 5)
        await asyncio.wait_for(make(other, job_of("slow")), 5)
    assert (await accepting).made


async def test_whenever_the_first_limits_come_no_window_is_exceeded_afterwards(
    open_replica: OpenStore,
) -> None:
    stores = [await open_replica(name) for name in ("a", "b", "c")]
    for number in range(20):
        tenant = f"t{number}"

        async def client(store: Store, tenant: str = tenant) -> int:
            made = 0
            for _ in range(3):
                with contextlib.suppress(QuotaExceeded, Unavailable):
                    await make(store, job_of(tenant))
                    made += 1
            return made

        async def set_limits(tenant: str = tenant, after: int = number) -> float:
            for _ in range(after):
                await asyncio.sleep(0)
            with contextlib.suppress(Unavailable):  # somebody's commit took long: again
                await limit(stores[0], tenant, concurrent_jobs=1)
            await limit(stores[0], tenant, concurrent_jobs=1)
            return (await used(stores[0], tenant))["concurrent_jobs"][0]

        accepted_before, *made = await asyncio.gather(
            set_limits(), *(client(store) for store in stores for _ in range(2))
        )
        # Those that were accepted before stay; with one of them, there is no room.
        assert sum(made) == max(accepted_before, 1)


def top_up(job: NewJob, tokens: int) -> job_pb2.JobEvent:
    event = job_pb2.JobEvent(job_id=job.job_id, event_id=new_event_id())
    event.budget_granted.tokens = tokens
    return event


async def test_a_top_up_counts_before_the_jobs_driver_has_heard_of_it(
    open_replica: OpenStore,
) -> None:
    store = await open_replica("a")
    job = await make(store)
    await store.log.note(job.job_id, top_up(job, 700), store.quotas.undrawn(job.tenant))
    await limit(store, tokens_per_hour=1_000_000)
    held = job.budget_tokens + 700
    assert await used(store) == {"tokens_per_hour": (held, held)}
    # What its driver then writes knows of no top-up yet.
    epoch = await claim(store, job)
    summary = JobSummary(
        state=job_pb2.JOB_STATE_RUNNING,
        state_reason="",
        spent_tokens=0,
        budget_tokens=job.budget_tokens,
    )
    await store.log.append(Append(job.job_id, epoch, [decided(job.job_id)], summary))
    assert await used(store) == {"tokens_per_hour": (held, held)}


async def test_a_top_up_that_comes_while_tokens_are_being_limited_is_refused(
    open_replica: OpenStore, pause_at: PauseAt
) -> None:
    store, other = await open_replica("a"), await open_replica("b")
    job = await make(store)
    pause = pause_at("acme")
    setting = asyncio.create_task(limit(other, tokens_per_hour=1_000_000))
    async with begun(pause, setting):
        guard = store.quotas.undrawn(job.tenant)
        granting = asyncio.create_task(store.log.note(job.job_id, top_up(job, 700), guard))
        await waits_or_ended(other, granting)
    await setting
    with pytest.raises(PreconditionFailed) as refused:
        await granting
    assert refused.value.reason == "OUTSIDE_QUOTA"
    assert await used(store) == {"tokens_per_hour": (job.budget_tokens, job.budget_tokens)}
    assert [e.WhichOneof("payload") for e in await store.log.read(job.job_id)] == ["job_created"]


@pytest.mark.parametrize("limited", [False, True])
async def test_a_job_with_documents_is_made_once_whatever_reply_is_lost(
    open_replica: OpenStore, proxy: Proxy, limited: bool
) -> None:
    store, outside = await open_replica("a", url=proxy.url), await open_replica("b")
    if limited:
        await limit(outside, concurrent_jobs=50)
    document = (task_pb2.DocumentRef(document_id="d"), b"content")
    step = cuts = 0
    while cuts == step:
        proxy.cut("after", "hma-meta-agent", skip=step)
        job = new_job(request_id=f"r{step}")
        found = await store.jobs.create(job, created(job), [document])
        assert found.job_id == job.job_id
        parts = [part async for part in outside.documents.read(job.job_id, "d")]
        assert parts == [b"content"]
        step, cuts = step + 1, proxy.cuts_made
    assert step > 5
