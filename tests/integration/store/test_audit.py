"""The trail is appended to, by the transactions that it tells of, and never changed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from hma.errors import InvalidRequest, NotFound, PreconditionFailed
from services.meta_agent.access.audit_trail import AuditTrail
from services.meta_agent.store.audit import AuditQuery, AuditRow, serving
from services.meta_agent.store.store import Store
from services.meta_agent.upkeep.audit_expiry import AuditExpiry
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import add_job, created, fact, new_job, seal, until
from tests.integration.store.proxy import Proxy

DAY = 86_400.0


def by(method: str, tenant: str = "acme") -> AuditRow:
    return AuditRow(
        tenant=tenant, subject="key:k1", method=method, address="10.0.0.9", request_id="r1"
    )


async def trail(store: Store, tenant: str | None = "acme") -> list[tuple[str, str, str]]:
    page = await store.audit.page(AuditQuery(tenant=tenant))
    return [(row["method"], row["resource"], row["code"]) for row in reversed(page.rows)]


async def test_a_mutation_and_its_row_are_one_transaction(store: Store) -> None:
    with serving(by("CreateJob")) as deed:
        job_id = await add_job(store)
    assert deed.written
    with serving(by("InterruptJob")) as deed:
        await store.log.note(job_id, fact(job_id, "e1"))
    assert deed.written
    with serving(by("InterruptJob")) as deed:
        await store.log.note(job_id, fact(job_id, "e1"))  # in the log already
    assert not deed.written
    [claimed] = await store.claims.claim(store.replica_id, driving=())
    await seal(store, job_id, claimed.epoch)
    with serving(by("CancelJob")) as deed, pytest.raises(PreconditionFailed):
        await store.log.note(job_id, fact(job_id))
    assert not deed.written
    with serving(by("DeleteJob")) as deed:
        await store.jobs.delete(job_id, tenant="acme")
    assert deed.written
    assert await trail(store) == [
        ("CreateJob", job_id, "OK"),
        ("InterruptJob", job_id, "OK"),
        ("DeleteJob", job_id, "OK"),
    ]
    [row] = (await store.audit.page(AuditQuery(tenant="acme", size=1))).rows
    assert (row["subject"], row["address"], row["request_id"]) == ("key:k1", "10.0.0.9", "r1")
    assert row["count"] == 1


async def test_a_mutation_whose_row_cannot_be_written_does_not_happen(store: Store) -> None:
    job_id = await add_job(store)
    await store.database.execute("ALTER TABLE audit_entry ADD CHECK (method <> 'Forbidden')")
    job = new_job()
    with serving(by("Forbidden")) as deed:
        with pytest.raises(asyncpg.CheckViolationError):
            await store.jobs.create(job, created(job))
        with pytest.raises(asyncpg.CheckViolationError):
            await store.log.note(job_id, fact(job_id, "e1"))
    assert not deed.written
    with pytest.raises(NotFound):
        await store.jobs.get(job.job_id)
    assert await store.log.find(job_id, "e1") is None


async def test_work_that_nobody_called_for_leaves_no_row(store: Store) -> None:
    job_id = await add_job(store)
    await store.log.note(job_id, fact(job_id))
    assert await trail(store, None) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET subject = 'key:other'",
        "DELETE FROM audit_entry",
        "TRUNCATE audit_entry",
        # The retention's door does not open for what is younger than a day …
        "SELECT set_config('hma.audit_retention', '0', true); DELETE FROM audit_entry",
        "SELECT set_config('hma.audit_retention', '-999999999', true); DELETE FROM audit_entry",
        # … and for nothing but deleting.
        "SELECT set_config('hma.audit_retention', '86400', true); UPDATE audit_entry SET code = ''",
        "SELECT set_config('hma.audit_retention', '86400', true); TRUNCATE audit_entry",
    ],
)
async def test_rows_are_neither_changed_nor_deleted(store: Store, statement: str) -> None:
    await store.audit.append([by("CreateJob")])
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await store.database.execute(statement)
    assert await trail(store) == [("CreateJob", "", "OK")]


async def test_retention_deletes_what_is_old_enough_and_nothing_else(store: Store) -> None:
    ages = (40.0, 31.0, 30.5, 29.0, 0.0)
    await store.audit.append(
        [AuditRow(tenant="acme", method=f"m{age:g}", age=age * DAY) for age in ages]
    )
    assert await store.audit.expire(30 * DAY, 2) == 2
    assert await store.audit.expire(30 * DAY, 2) == 1
    assert await store.audit.expire(30 * DAY, 2) == 0
    assert [method for method, _, _ in await trail(store)] == ["m29", "m0"]
    # A day is the least, whoever asks.
    assert await store.audit.expire(0, 10) == 1
    assert [method for method, _, _ in await trail(store)] == ["m0"]
    # The door is shut again behind each batch, on the same pooled connections.
    for _ in range(10):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.database.execute("DELETE FROM audit_entry")


@pytest.mark.parametrize(("age", "kept"), [(30 * DAY, 1), (0.0, 6)])
async def test_the_loop_works_off_all_batches_and_nothing_expires_at_zero(
    store: Store, age: float, kept: int
) -> None:
    old = AuditRow(tenant="acme", method="old", age=31 * DAY)
    await store.audit.append([old] * 5 + [by("new")])
    running = asyncio.create_task(AuditExpiry(store.audit, age=age, batch=2).run())

    async def done() -> bool:
        return len(await trail(store)) == kept

    try:
        await until(done)
        await asyncio.sleep(0.3)
        assert await done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_pages_fit_together_and_a_token_is_good_for_its_list_only(store: Store) -> None:
    await store.audit.append([by(f"m{n}", "acme" if n % 2 else "zeta") for n in range(10)])
    first = await store.audit.page(AuditQuery(tenant="acme", size=3))
    second = await store.audit.page(AuditQuery(tenant="acme", size=3, token=first.next_token))
    names = [row["method"] for row in (*first.rows, *second.rows)]
    assert names == ["m9", "m7", "m5", "m3", "m1"]
    assert not second.next_token
    with pytest.raises(InvalidRequest):
        await store.audit.page(AuditQuery(tenant="zeta", size=3, token=first.next_token))


async def test_the_trail_is_asked_by_job_by_outcome_and_by_time(store: Store) -> None:
    refused = AuditRow(tenant="acme", method="GetJob", resource="job-1", code="NOT_FOUND")
    await store.audit.append(
        [
            AuditRow(tenant="acme", method="CreateJob", resource="job-1", age=7200),
            refused,
            AuditRow(tenant="", method="GET /x", code="UNAUTHENTICATED"),
        ]
    )
    now = (await store.database.fetch("SELECT clock_timestamp()"))[0][0]

    async def methods(**query: object) -> list[str]:
        page = await store.audit.page(AuditQuery(**{"tenant": None, **query}))  # type: ignore[arg-type]
        return [row["method"] for row in page.rows]

    assert await methods() == ["GET /x", "GetJob", "CreateJob"]
    assert await methods(tenant="acme") == ["GetJob", "CreateJob"]
    assert await methods(resource="job-1") == ["GetJob", "CreateJob"]
    assert await methods(refused_only=True) == ["GET /x", "GetJob"]
    assert await methods(start=now - timedelta(hours=1)) == ["GET /x", "GetJob"]


async def test_refusals_wait_while_the_database_is_away(
    open_replica: OpenStore, proxy: Proxy
) -> None:
    store = await open_replica(url=proxy.url)
    registry = CollectorRegistry()
    refusals = AuditTrail(store.audit, registry)
    proxy.down()
    refusals.note(AuditRow(tenant="acme", method="GetJob", code="NOT_FOUND"))
    await refusals.flush()
    proxy.up()

    async def written() -> bool:
        await refusals.flush()
        return bool(registry.get_sample_value("hma_audit_refusals_written_total"))

    await until(written)
    assert await trail(store) == [("GetJob", "", "NOT_FOUND")]


async def test_what_is_too_much_to_wait_is_dropped_and_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.meta_agent.access.audit_trail._MOST_WAITING", 3)
    registry = CollectorRegistry()
    refusals = AuditTrail(store.audit, registry)
    for number in range(5):
        refusals.note(AuditRow(tenant=f"t{number}", method="GetJob", code="NOT_FOUND"))
    await refusals.flush()
    assert registry.get_sample_value("hma_audit_refusals_dropped_total") == 2
    assert registry.get_sample_value("hma_audit_refusals_written_total") == 3
    assert "refusals are missing" in caplog.text
