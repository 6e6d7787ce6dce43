"""Jobs as rows, and their documents."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from hma.errors import AlreadyExists, InvalidRequest, NotFound, PreconditionFailed
from hma.v1 import job_pb2, task_pb2
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.documents import PART_BYTES
from services.meta_agent.store.new_job import MAX_TITLE_CHARS
from services.meta_agent.store.purge import purge
from services.meta_agent.store.store import Store
from services.meta_agent.store.tombstones import bury
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import (
    add_claimed_job,
    add_job,
    created,
    decided,
    fact,
    new_job,
    seal,
    until,
)


def document(document_id: str, content: bytes) -> tuple[task_pb2.DocumentRef, bytes]:
    return task_pb2.DocumentRef(document_id=document_id, size_bytes=len(content)), content


async def test_a_created_job_is_there_with_log_and_row(store: Store) -> None:
    job = new_job(request_id="r1", title="x" * 1000 + "\0")
    assert (await store.jobs.create(job, created(job))).made
    row = await store.jobs.get(job.job_id, tenant="acme")
    assert (row.version, row.epoch, row.driver, row.sealed) == (1, 0, None, False)
    assert (row.create_time, row.deadline) == (job.create_time, job.deadline)
    assert row.title == "x" * MAX_TITLE_CHARS
    assert [e.sequence for e in await store.log.read(job.job_id)] == [1]


async def test_the_same_request_id_makes_one_job(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    jobs = [new_job(request_id="r1") for _ in range(10)]
    results = await asyncio.gather(
        *(
            store.jobs.create(job, created(job), [document("d1", b"text")])
            for job, store in zip(jobs, [here, there] * 5, strict=True)
        )
    )
    assert len({result.job_id for result in results}) == 1
    assert [result.made for result in results].count(True) == 1
    assert len((await here.jobs.page("acme")).jobs) == 1
    orphans = await here.database.fetch("SELECT DISTINCT job_id FROM job_document")
    assert [row["job_id"] for row in orphans] == [results[0].job_id]


async def test_a_repeated_request_writes_its_documents_no_second_time(store: Store) -> None:
    size = "SELECT pg_total_relation_size('job_document')"
    documents = [document("d1", random.Random(1).randbytes(1 << 20))]
    first, again = new_job(request_id="same"), new_job(request_id="same")
    assert (await store.jobs.create(first, created(first), documents)).made
    before = await store.database.fetchrow(size)
    assert not (await store.jobs.create(again, created(again), documents)).made
    assert await store.database.fetchrow(size) == before


async def test_a_request_id_reused_for_another_request_is_refused(store: Store) -> None:
    await add_job(store, new_job(request_id="r1", fingerprint=b"one"))
    other = new_job(request_id="r1", fingerprint=b"two")
    with pytest.raises(AlreadyExists):
        await store.jobs.create(other, created(other))
    with pytest.raises(NotFound):
        await store.jobs.get(other.job_id)


async def test_request_ids_are_per_tenant_and_empty_ones_are_none(store: Store) -> None:
    ids = [
        await add_job(store, new_job(tenant=tenant, request_id=request_id))
        for tenant in ("acme", "beta")
        for request_id in ("r1", "", "")
    ]
    assert len(set(ids)) == 6


async def test_another_tenants_job_is_not_found(store: Store) -> None:
    job_id = await add_job(store)
    with pytest.raises(NotFound):
        await store.jobs.get(job_id, tenant="beta")
    with pytest.raises(NotFound):
        await store.jobs.delete(job_id, tenant="beta")


async def test_pages_show_each_job_once_while_new_ones_arrive(store: Store) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    # Pairs with the same time, and times that differ by a microsecond.
    old = [
        await add_job(store, new_job(create_time=start + timedelta(microseconds=i // 2)))
        for i in range(11)
    ]
    await add_job(store, new_job(tenant="beta"))
    seen: list[str] = []
    token = ""
    for number in range(4):
        page = await store.jobs.page("acme", size=3, token=token)
        seen += [row.job_id for row in page.jobs]
        token = page.next_token
        await add_job(store, new_job(create_time=start + timedelta(days=1 + number)))
    assert token == ""
    assert sorted(seen) == sorted(old)
    assert len(seen) == len(set(seen))
    times = [(await store.jobs.get(job_id)).create_time for job_id in seen]
    assert times == sorted(times, reverse=True)


async def test_pages_filter_by_state_and_their_tokens_know_it(store: Store) -> None:
    done = []
    for _ in range(3):
        job_id, epoch = await add_claimed_job(store)
        await seal(store, job_id, epoch)
        done.append(job_id)
    await add_job(store)
    page = await store.jobs.page("acme", states=[job_pb2.JOB_STATE_SUCCEEDED], size=2)
    assert {row.job_id for row in page.jobs} <= set(done)
    rest = await store.jobs.page(
        "acme", states=[job_pb2.JOB_STATE_SUCCEEDED], size=2, token=page.next_token
    )
    assert {row.job_id for row in (*page.jobs, *rest.jobs)} == set(done)
    with pytest.raises(InvalidRequest):
        await store.jobs.page("acme", size=2, token=page.next_token)
    with pytest.raises(InvalidRequest):
        await store.jobs.page("beta", size=2, token=page.next_token)


async def test_open_jobs_are_counted_by_state(store: Store) -> None:
    running, epoch = await add_claimed_job(store)
    ended, ended_epoch = await add_claimed_job(store)
    await add_job(store)
    summary = JobSummary(job_pb2.JOB_STATE_RUNNING)
    await store.log.append(Append(running, epoch, [decided(running)], summary))
    await seal(store, ended, ended_epoch)
    assert await store.jobs.open_counts() == {
        job_pb2.JOB_STATE_QUEUED: 1,
        job_pb2.JOB_STATE_RUNNING: 1,
    }


async def test_deleting_leaves_nothing(store: Store) -> None:
    planted = "planted-7391"
    job = new_job(request_id=f"r-{planted}", title=f"About {planted}")
    await store.jobs.create(job, created(job), [document("d1", planted.encode() * 50_000)])
    await store.log.append_fact(job.job_id, fact(job.job_id, f"e-{planted}", planted))
    [claimed] = await store.claims.claim(store.replica_id, driving=())
    await store.log.append(
        Append(
            job.job_id,
            claimed.epoch,
            [decided(job.job_id, planted)],
            JobSummary(job_pb2.JOB_STATE_FAILED, planted),
            seal=True,
            expected_version=2,
        )
    )
    neighbour = await add_job(store, documents=[document("d1", b"stays")])
    assert await _tables_with(store, planted, job.job_id) == {"job", "job_event", "job_document"}

    await store.jobs.delete(job.job_id, request_id=f"d-{planted}")
    assert await _tables_with(store, planted, planted) == set()
    assert await _tables_with(store, job.job_id, job.job_id) == {"deleted_job"}
    with pytest.raises(NotFound):
        await store.jobs.delete(job.job_id)
    with pytest.raises(NotFound):
        _ = [part async for part in store.documents.read(job.job_id, "d1")]
    assert [part async for part in store.documents.read(neighbour, "d1")] == [b"stays"]
    # A late retry makes no second job; another request with that id is refused.
    again = new_job(request_id=f"r-{planted}")
    found = await store.jobs.create(again, created(again))
    assert (found.job_id, found.made) == (job.job_id, False)
    assert found.state == job_pb2.JOB_STATE_FAILED
    other = new_job(request_id=f"r-{planted}", fingerprint=b"other")
    with pytest.raises(AlreadyExists):
        await store.jobs.create(other, created(other))
    assert {row.job_id for row in (await store.jobs.page("acme")).jobs} == {neighbour}


async def test_a_retry_that_meets_the_deletion_makes_no_second_job(store: Store) -> None:
    job = new_job(request_id="r1")
    await store.jobs.create(job, created(job))
    [claimed] = await store.claims.claim(store.replica_id, driving=())
    await seal(store, job.job_id, claimed.epoch)
    again = new_job(request_id="r1")
    connection = await asyncpg.connect(store.database.url)
    try:
        # The deletion is not committed yet: the retry waits for it.
        async with connection.transaction():
            row = await connection.fetchrow("SELECT * FROM job WHERE id = $1", job.job_id)
            assert row is not None
            await bury(connection, row, "")
            await purge(connection, [job.job_id], timeout=30)
            retried = asyncio.create_task(store.jobs.create(again, created(again)))
            await until(lambda: _waits_for_a_lock(connection))
    finally:
        await connection.close()
    found = await retried
    assert (found.job_id, found.made) == (job.job_id, False)
    assert await store.database.fetch("SELECT FROM job") == []


async def _waits_for_a_lock(connection: asyncpg.Connection) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(await connection.fetchval(waiting))


async def test_only_the_request_that_deleted_a_job_may_delete_it_again(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await seal(store, job_id, epoch)
    await store.jobs.delete(job_id, tenant="acme", request_id="d1")
    await store.jobs.delete(job_id, tenant="acme", request_id="d1")
    for tenant, request_id in (("acme", "d2"), ("acme", ""), ("beta", "d1")):
        with pytest.raises(NotFound):
            await store.jobs.delete(job_id, tenant=tenant, request_id=request_id)


async def test_a_job_that_has_not_ended_is_not_deleted(store: Store) -> None:
    job_id = await add_job(store)
    with pytest.raises(PreconditionFailed):
        await store.jobs.delete(job_id)
    assert len(await store.log.read(job_id)) == 1


@pytest.mark.parametrize(
    "size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 17]
)
async def test_documents_come_back_in_parts(store: Store, size: int) -> None:
    content = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    job_id = await add_job(store, documents=[document("d0", b"other"), document("d1", content)])
    parts = [part async for part in store.documents.read(job_id, "d1")]
    assert b"".join(parts) == content
    assert max(map(len, parts)) <= PART_BYTES


async def test_an_unknown_document_is_not_found(store: Store) -> None:
    job_id = await add_job(store)
    with pytest.raises(NotFound):
        _ = [part async for part in store.documents.read(job_id, "d9")]


async def test_32_mib_of_documents_fit_in_one_job(store: Store) -> None:
    content = ("The quick brown fox jumps over the lazy dog. " * 233_017).encode()[: 10 << 20]
    documents = [document(f"d{i}", content) for i in range(3)]
    async with asyncio.timeout(30):
        job_id = await add_job(store, documents=documents)
    size = 0
    async for part in store.documents.read(job_id, "d2"):
        size += len(part)
    assert size == len(content)


async def _tables_with(store: Store, planted: str, job_id: str) -> set[str]:
    """Tables in which the planted text or the job's id stands, in any column."""
    tables = await store.database.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    found = set()
    for table in tables:
        for row in await store.database.fetch(f'SELECT * FROM "{table["relname"]}"'):
            text = " ".join(
                v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)
                for v in row.values()
            )
            if planted in text or job_id in text:
                found.add(table["relname"])
    return found
