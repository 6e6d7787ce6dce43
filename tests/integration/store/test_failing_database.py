"""A database with trouble of its own is away, as far as callers are concerned: no defect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from hma.errors import Unavailable
from services.meta_agent.store.append import Append
from services.meta_agent.store.appender import AppenderLimits
from services.meta_agent.store.database import Database, is_away, is_failing, reachable
from services.meta_agent.store.store import Store, StoreOptions
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import (
    add_claimed_job,
    add_job,
    decided,
    fact,
    new_job,
    seal,
)

CODES = (
    *("53000", "53100", "53200", "53300", "53400", "53999"),
    *("57000", "57P03", "57P05", "58000", "58030", "58P01"),
    *("XX000", "XX001", "XX002", "XX999"),
)


async def break_table(database: Database, table: str, code: str, when: str = "true") -> None:
    """Every change of a row of `table` for which `when` holds fails with this SQLSTATE."""
    await database.execute(
        f"CREATE OR REPLACE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {when} THEN RAISE 'planted' USING ERRCODE = '{code}'; END IF; "
        f"RETURN coalesce(NEW, OLD); END $$"
    )
    await database.execute(
        f"CREATE TRIGGER planted BEFORE INSERT OR UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION planted()"
    )


async def mend(database: Database, table: str) -> None:
    await database.execute(f"DROP TRIGGER planted ON {table}")


def raised(code: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    """What the library makes of an error of the server."""
    fields = {"C": code, "S": severity, "V": severity, "M": "planted"}
    return asyncpg.PostgresError.new(fields)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("severity", ["ERROR", "FATAL", "PANIC"])
def test_the_database_s_own_trouble_is_unavailable_whatever_it_is(code: str, severity: str) -> None:
    with pytest.raises(Unavailable), reachable():
        raise raised(code, severity)
    if severity != "ERROR":
        assert is_away(raised(code, severity)), "whether it took effect is not known"


@pytest.mark.parametrize("code", ["25P03", "25P04", "40003"])
def test_what_ends_the_session_or_is_not_known_is_away(code: str) -> None:
    assert is_away(raised(code, "FATAL"))
    with pytest.raises(Unavailable), reachable():
        raise raised(code, "FATAL")


@pytest.mark.parametrize("code", ["23505", "23514", "22003", "42601", "42P01", "P0001", "0A000"])
def test_what_a_statement_is_at_fault_for_is_no_trouble_of_the_database(code: str) -> None:
    error = raised(code)
    assert not is_away(error)
    assert not is_failing(error)
    with pytest.raises(asyncpg.PostgresError), reachable():
        raise error


@pytest.mark.parametrize("code", ["53100", "57000", "58030", "XX000", "XX001"])
async def test_an_append_waits_until_the_database_has_mended(store: Store, code: str) -> None:
    job_id, epoch = await add_claimed_job(store)
    await break_table(store.database, "job_event", code)
    appending = asyncio.create_task(store.log.append(Append(job_id, epoch, [decided(job_id)])))
    done, _ = await asyncio.wait([appending], timeout=0.2)
    assert not done
    await mend(store.database, "job_event")
    assert await appending == 2
    assert [event.sequence for event in await store.log.read(job_id)] == [1, 2]


async def test_a_broken_page_of_one_job_holds_up_nobody_else(store: Store) -> None:
    (bad, bad_epoch), (good, good_epoch) = [await add_claimed_job(store) for _ in range(2)]
    await break_table(store.database, "job_event", "XX001", f"NEW.job_id = '{bad}'")
    first = asyncio.create_task(store.log.append(Append(bad, bad_epoch, [decided(bad)])))
    # Behind the first, in its job's order; and it must not be waited for in a busy loop.
    second = asyncio.create_task(store.log.append(Append(bad, bad_epoch, [decided(bad)])))
    for version in range(2, 12):
        append = Append(good, good_epoch, [decided(good)])
        assert await asyncio.wait_for(store.log.append(append), 5) == version
    assert not first.done()
    await mend(store.database, "job_event")
    assert [await first, await second] == [2, 3]


async def test_an_append_is_unavailable_when_the_trouble_stays(open_replica: OpenStore) -> None:
    store = await open_replica(options=StoreOptions(appender=AppenderLimits(away=0.3)))
    job_id, epoch = await add_claimed_job(store)
    append = Append(job_id, epoch, [decided(job_id)])
    await break_table(store.database, "job_event", "58030")
    with pytest.raises(Unavailable) as caught:
        await store.log.append(append)
    assert caught.value.reason == "APPEND_UNKNOWN"
    await mend(store.database, "job_event")
    assert await store.log.append(append) == 2


async def test_an_append_that_waits_for_the_database_is_given_up_when_its_replica_stops(
    open_replica: OpenStore,
) -> None:
    store = await open_replica(options=StoreOptions(appender=AppenderLimits(away=0.5)))
    job_id, epoch = await add_claimed_job(store)
    await break_table(store.database, "job_event", "XX000")
    appending = asyncio.create_task(store.log.append(Append(job_id, epoch, [decided(job_id)])))
    await asyncio.wait([appending], timeout=0.1)
    appender: Any = store.log._appender
    await appender.__aexit__(None, None, None)
    with pytest.raises(Unavailable):
        await appending


def claim(store: Store, job_id: str, epoch: int) -> Awaitable[object]:
    return store.claims.claim(store.replica_id, driving=())


def release(store: Store, job_id: str, epoch: int) -> Awaitable[object]:
    return store.claims.release(job_id, epoch)


def add_fact(store: Store, job_id: str, epoch: int) -> Awaitable[object]:
    return store.log.append_fact(job_id, fact(job_id))


def create(store: Store, job_id: str, epoch: int) -> Awaitable[object]:
    return add_job(store)


def create_again(store: Store, job_id: str, epoch: int) -> Awaitable[object]:
    return add_job(store, new_job(request_id="again"))


Call = Callable[[Store, str, int], Awaitable[object]]


@pytest.mark.parametrize("code", ["58030", "XX000"])
@pytest.mark.parametrize("call", [claim, release, add_fact, create, create_again])
async def test_any_call_is_unavailable_while_the_database_fails(
    store: Store, call: Call, code: str
) -> None:
    job_id, epoch = await add_claimed_job(store)
    await break_table(store.database, "job", code)
    with pytest.raises(Unavailable) as caught:
        await call(store, job_id, epoch)
    assert "planted" not in caught.value.message
    await mend(store.database, "job")
    await call(store, job_id, epoch)


@pytest.mark.parametrize("code", ["53100", "XX001"])
async def test_a_deletion_is_unavailable_while_the_database_fails_and_whole_after_it(
    store: Store, code: str
) -> None:
    job_id, epoch = await add_claimed_job(store)
    await seal(store, job_id, epoch)
    await break_table(store.database, "job_event", code)
    with pytest.raises(Unavailable):
        await store.jobs.delete(job_id)
    assert len(await store.log.read(job_id)) == 2
    await mend(store.database, "job_event")
    await store.jobs.delete(job_id)
    assert await store.log.read(job_id) == []
