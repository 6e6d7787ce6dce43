"""The job log under concurrency: gapless, fenced, idempotent, sealed once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from hma.errors import Fenced, HmaError, NotFound, PreconditionFailed, Unavailable
from hma.v1 import job_pb2
from services.meta_agent.store import database
from services.meta_agent.store.append import (
    Append,
    JobEvent,
    JobSummary,
    Outcome,
    VersionMoved,
    write_batch,
)
from services.meta_agent.store.appender import AppenderLimits
from services.meta_agent.store.database import Connection, connect
from services.meta_agent.store.store import Store, StoreOptions
from tests.integration.store.conftest import OpenStore
from tests.integration.store.making import (
    add_claimed_job,
    add_job,
    decided,
    fact,
    seal,
    until,
)


def sequences(events: Sequence[JobEvent]) -> list[int]:
    return [event.sequence for event in events]


async def test_an_event_is_read_as_it_was_decided_with_its_sequence(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    event = decided(job_id, "planning")
    event.epoch = epoch
    event.sequence = 99  # whatever the caller left there
    assert await store.log.append(Append(job_id, epoch, [event])) == 2
    [_, read] = await store.log.read(job_id)
    event.sequence = 2
    assert read == event
    assert await store.log.read(job_id, after=2) == []


async def test_the_summary_reaches_the_row(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    summary = JobSummary(job_pb2.JOB_STATE_RUNNING, "3 of 5\0 tasks", spent_tokens=17)
    await store.log.append(Append(job_id, epoch, [decided(job_id)], summary, min_reader=7))
    row = await store.jobs.get(job_id)
    assert (row.state, row.state_reason) == (job_pb2.JOB_STATE_RUNNING, "3 of 5 tasks")
    assert (row.spent_tokens, row.budget_tokens, row.version) == (17, 5000, 2)
    assert row.min_reader == 7


@pytest.mark.parametrize("seed", range(6))
async def test_sequences_are_gapless_under_concurrent_drivers_and_facts(
    open_replica: OpenStore, seed: int
) -> None:
    """Three jobs, each with a driver and strangers on two replicas, in random interleavings."""
    rng = random.Random(seed)
    here, there = await open_replica("a"), await open_replica("b")
    jobs = [await add_claimed_job(here) for _ in range(3)]
    written: dict[str, list[str]] = {job_id: [] for job_id, _ in jobs}

    async def drive(job_id: str, epoch: int) -> None:
        version = 1
        for _ in range(rng.randint(5, 25)):
            events = [decided(job_id) for _ in range(rng.randint(1, 4))]
            after = await here.log.append(Append(job_id, epoch, events))
            # What lies between is exactly what others have written meanwhile.
            foreign = await here.log.read(job_id, version, after - len(events) - version)
            assert {e.WhichOneof("payload") for e in foreign} <= {"interrupt_requested"}
            version = after
            written[job_id] += [e.event_id for e in events]
            await asyncio.sleep(rng.random() * 0.003)

    async def interrupt(job_id: str) -> None:
        for _ in range(rng.randint(5, 15)):
            event = fact(job_id)
            sequence = await rng.choice([here, there]).log.append_fact(job_id, event)
            [found] = await there.log.read(job_id, sequence - 1, 1)
            assert found.event_id == event.event_id
            written[job_id].append(event.event_id)
            await asyncio.sleep(rng.random() * 0.003)

    async with asyncio.TaskGroup() as group:
        for job_id, epoch in jobs:
            group.create_task(drive(job_id, epoch))
            for _ in range(3):
                group.create_task(interrupt(job_id))

    for job_id, _ in jobs:
        events = await there.log.read(job_id)
        assert sequences(events) == list(range(1, len(events) + 1))
        assert sorted(e.event_id for e in events[1:]) == sorted(written[job_id])
        own = [e.event_id for e in events if e.HasField("state_changed")]
        assert own == [i for i in written[job_id] if i in set(own)], "a driver's order changed"
        assert (await there.jobs.get(job_id)).version == len(events)


async def test_a_zombie_is_fenced_and_the_new_driver_is_not_disturbed(
    open_replica: OpenStore,
) -> None:
    zombie, heir = await open_replica("a"), await open_replica("b")
    job_id, old_epoch = await add_claimed_job(zombie)
    await zombie.claims.release(job_id, old_epoch)
    [claimed] = await heir.claims.claim(heir.replica_id, driving=())
    assert claimed.epoch == old_epoch + 1

    async def write_as(store: Store, epoch: int) -> int:
        return await store.log.append(Append(job_id, epoch, [decided(job_id)]))

    results = await asyncio.gather(
        *(write_as(zombie, old_epoch) for _ in range(5)),
        *(write_as(heir, claimed.epoch) for _ in range(5)),
        return_exceptions=True,
    )
    assert all(isinstance(r, Fenced) for r in results[:5])
    assert sorted(results[5:]) == [2, 3, 4, 5, 6]  # type: ignore[type-var]


async def test_one_fenced_job_does_not_fail_the_others_of_its_batch(store: Store) -> None:
    jobs = [await add_claimed_job(store) for _ in range(3)]
    batch = [Append(job_id, epoch, [decided(job_id)]) for job_id, epoch in jobs]
    batch[1] = Append(jobs[1][0], jobs[1][1] + 7, [decided(jobs[1][0])])
    batch.append(Append("job-none", 1, [decided("job-none")]))
    async with store.database.connection() as connection:
        outcomes = await write_batch(connection, batch)
    assert [outcomes[0], outcomes[2]] == [2, 2]
    assert isinstance(outcomes[1], Fenced)
    assert isinstance(outcomes[3], Fenced)
    assert [len(await store.log.read(job_id)) for job_id, _ in jobs] == [2, 1, 2]


async def test_an_append_that_postgresql_refuses_fails_alone(store: Store) -> None:
    jobs = [await add_claimed_job(store) for _ in range(4)]
    taken = decided(jobs[0][0])
    await store.log.append_fact(jobs[0][0], taken)
    bad = [
        Append(jobs[1][0], jobs[1][1], [decided(jobs[1][0], event_id="nul\0")]),
        Append(
            jobs[2][0],
            jobs[2][1],
            [decided(jobs[2][0])],
            JobSummary(job_pb2.JOB_STATE_RUNNING, spent_tokens=1 << 40),
        ),
    ]
    good = Append(jobs[3][0], jobs[3][1], [decided(jobs[3][0])])
    results = await asyncio.gather(
        *(store.log.append(append) for append in (*bad, good)), return_exceptions=True
    )
    for refused in results[:2]:
        assert isinstance(refused, HmaError)
        assert refused.reason == "APPEND_REFUSED"
    assert results[2] == 2
    assert await store.log.append(Append(jobs[3][0], jobs[3][1], [decided(jobs[3][0])])) == 3


async def test_a_defect_costs_one_append_and_not_the_appender(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bad, bad_epoch), (good, good_epoch) = [await add_claimed_job(store) for _ in range(2)]

    async def write(connection: Connection, batch: Sequence[Append]) -> list[Outcome]:
        if any(append.job_id == bad for append in batch):
            raise ZeroDivisionError("planted")
        return await write_batch(connection, batch)

    monkeypatch.setattr("services.meta_agent.store.appender.write_batch", write)
    refused, written = await asyncio.gather(
        store.log.append(Append(bad, bad_epoch, [decided(bad)])),
        store.log.append(Append(good, good_epoch, [decided(good)])),
        return_exceptions=True,
    )
    assert isinstance(refused, HmaError)
    assert refused.reason == "APPEND_REFUSED"
    assert written == 2

    async def find(*_: object) -> list[int | None]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("services.meta_agent.store.appender.write_batch", _lose_the_connection)
    monkeypatch.setattr("services.meta_agent.store.appender.find_written", find)
    with pytest.raises(Unavailable):
        await store.log.append(Append(good, good_epoch, [decided(good)]))
    monkeypatch.undo()
    assert await store.log.append(Append(good, good_epoch, [decided(good)])) == 3


async def _lose_the_connection(*_: object) -> list[Outcome]:
    raise ConnectionResetError


# Whoever holds a row in a test holds it until the test lets go, on a slow machine too.
_HOLDS = {"idle_in_transaction_session_timeout": "60000"}


@pytest.fixture
def patient_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements of replicas that are opened from now on wait for a row for a minute."""
    for name in ("lock_timeout", "statement_timeout"):
        monkeypatch.setitem(database._SERVER_SETTINGS, name, "60000")


async def test_a_locked_row_holds_up_its_own_job_only(
    open_replica: OpenStore, postgres_url: str
) -> None:
    tries = AppenderLimits(busy_tries=1000)
    store = await open_replica(options=StoreOptions(appender=tries))
    stuck, stuck_epoch = await add_claimed_job(store)
    free, free_epoch = await add_claimed_job(store)
    holder = await connect(postgres_url, name="holder", settings=_HOLDS)
    try:
        hold = holder.transaction()
        await hold.start()
        await holder.execute("SELECT FROM job WHERE id = $1 FOR UPDATE", stuck)
        waiting = asyncio.create_task(
            store.log.append(Append(stuck, stuck_epoch, [decided(stuck)]))
        )
        async with asyncio.timeout(30):
            for version in (2, 3):
                assert version == await store.log.append(Append(free, free_epoch, [decided(free)]))
        assert not waiting.done()
        await hold.rollback()
        assert await waiting == 2
    finally:
        holder.terminate()


async def test_a_row_that_stays_locked_ends_in_an_error(
    open_replica: OpenStore, postgres_url: str
) -> None:
    store = await open_replica(options=StoreOptions(appender=AppenderLimits(busy_tries=1)))
    job_id, epoch = await add_claimed_job(store)
    holder = await connect(postgres_url, name="holder", settings=_HOLDS)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM job WHERE id = $1 FOR UPDATE", job_id)
            with pytest.raises(Unavailable):
                await store.log.append(Append(job_id, epoch, [decided(job_id)]))
    finally:
        holder.terminate()
    assert await store.log.append(Append(job_id, epoch, [decided(job_id)])) == 2


async def test_a_fact_is_logged_once_however_often_it_is_sent(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    job_id = await add_job(here)
    first, second = fact(job_id, "interrupt-1"), fact(job_id, "interrupt-2")
    results = await asyncio.gather(
        *(
            replica.log.append_fact(job_id, event)
            for _ in range(10)
            for replica in (here, there)
            for event in (first, second)
        )
    )
    assert set(results) == {2, 3}
    assert sequences(await here.log.read(job_id)) == [1, 2, 3]


@pytest.mark.usefixtures("patient_locks")
async def test_facts_that_wait_for_the_row_are_idempotent_too(
    open_replica: OpenStore, postgres_url: str
) -> None:
    store = await open_replica()
    job_id = await add_job(store)
    event = fact(job_id)
    async with _row_held(postgres_url, job_id) as holder:
        waiting = [asyncio.create_task(store.log.append_fact(job_id, event)) for _ in range(3)]
        await _waiters_for_locks(holder, 3)
    assert await asyncio.gather(*waiting) == [2, 2, 2]
    assert sequences(await store.log.read(job_id)) == [1, 2]


@pytest.mark.usefixtures("patient_locks")
async def test_a_fact_that_waited_for_the_seal_is_refused(
    open_replica: OpenStore, postgres_url: str
) -> None:
    store = await open_replica()
    job_id = await add_job(store)
    async with _row_held(postgres_url, job_id) as holder:
        waiting = asyncio.create_task(store.log.append_fact(job_id, fact(job_id)))
        await _waiters_for_locks(holder, 1)
        await holder.execute("UPDATE job SET sealed = true WHERE id = $1", job_id)
    with pytest.raises(PreconditionFailed):
        await waiting
    assert sequences(await store.log.read(job_id)) == [1]


@pytest.mark.usefixtures("patient_locks")
async def test_an_append_that_waited_for_a_claim_is_fenced(
    open_replica: OpenStore, postgres_url: str
) -> None:
    store = await open_replica()
    job_id, epoch = await add_claimed_job(store)
    async with _row_held(postgres_url, job_id) as holder:
        waiting = asyncio.create_task(store.log.append(Append(job_id, epoch, [decided(job_id)])))
        await _waiters_for_locks(holder, 1)
        await holder.execute("UPDATE job SET epoch = epoch + 1 WHERE id = $1", job_id)
    with pytest.raises(Fenced):
        await waiting
    assert sequences(await store.log.read(job_id)) == [1]


async def test_a_fact_for_no_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.log.append_fact("job-none", fact("job-none"))


async def test_a_sealed_log_takes_nothing_more(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    early = fact(job_id)
    assert await store.log.append_fact(job_id, early) == 2
    assert await seal(store, job_id, epoch) == 3
    with pytest.raises(Fenced):
        await store.log.append(Append(job_id, epoch, [decided(job_id)]))
    with pytest.raises(PreconditionFailed):
        await store.log.append_fact(job_id, fact(job_id))
    # A retry of what was logged before is still answered.
    assert await store.log.append_fact(job_id, early) == 2
    row = await store.jobs.get(job_id)
    assert (row.sealed, row.driver, row.state) == (True, None, job_pb2.JOB_STATE_SUCCEEDED)
    assert row.end_time is not None
    assert sequences(await store.log.read(job_id)) == [1, 2, 3]


async def test_sealing_is_refused_when_a_fact_came_in_between(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.log.append_fact(job_id, fact(job_id))
    last = Append(job_id, epoch, [decided(job_id)], seal=True, expected_version=1)
    with pytest.raises(VersionMoved) as error:
        await store.log.append(last)
    assert error.value.version == 2
    assert len(await store.log.read(job_id)) == 2
    assert await seal(store, job_id, epoch) == 3


async def test_seal_and_facts_racing_lose_no_accepted_fact(open_replica: OpenStore) -> None:
    here, there = await open_replica("a"), await open_replica("b")
    for _ in range(10):
        job_id, epoch = await add_claimed_job(here)

        async def finish(job_id: str = job_id, epoch: int = epoch) -> int:
            while True:
                try:
                    return await seal(here, job_id, epoch)
                except VersionMoved:
                    continue

        sealed, *facts = await asyncio.gather(
            finish(),
            *(there.log.append_fact(job_id, fact(job_id)) for _ in range(5)),
            return_exceptions=True,
        )
        accepted = sorted(s for s in facts if isinstance(s, int))
        assert isinstance(sealed, int)
        assert accepted == list(range(2, sealed))
        assert all(isinstance(s, int | PreconditionFailed) for s in facts)
        assert sequences(await here.log.read(job_id)) == list(range(1, sealed + 1))


async def test_appends_of_one_job_keep_their_order(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    versions = await asyncio.gather(
        *(store.log.append(Append(job_id, epoch, [decided(job_id, str(i))])) for i in range(50))
    )
    assert versions == list(range(2, 52))
    notes = [e.state_changed.reason for e in (await store.log.read(job_id))[1:]]
    assert notes == [str(i) for i in range(50)]


async def test_the_same_append_again_is_written_once(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    append = Append(job_id, epoch, [decided(job_id), decided(job_id)])
    assert await store.log.append(append) == 3
    await store.log.append_fact(job_id, fact(job_id))
    assert await store.log.append(append) == 3
    assert sequences(await store.log.read(job_id)) == [1, 2, 3, 4]


async def test_an_append_nobody_waits_for_any_more_harms_none(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    dropped = asyncio.create_task(store.log.append(Append(job_id, epoch, [decided(job_id)])))
    await asyncio.sleep(0)
    dropped.cancel()
    after = await store.log.append(Append(job_id, epoch, [decided(job_id)]))
    assert sequences(await store.log.read(job_id)) == list(range(1, after + 1))


async def test_many_jobs_share_commits(store: Store) -> None:
    jobs = [await add_claimed_job(store) for _ in range(60)]
    before = await _commits(store)
    await asyncio.gather(
        *(store.log.append(Append(job_id, epoch, [decided(job_id)])) for job_id, epoch in jobs)
    )
    assert await _commits(store) - before < 30


async def test_a_replica_that_stops_refuses_appends_and_leaves_nobody_waiting(
    postgres_url: str,
) -> None:
    from services.meta_agent.store.store import open_store

    async with open_store(postgres_url, replica_id="a-1", address="x:1") as store:
        job_id, epoch = await add_claimed_job(store)
        last = asyncio.create_task(store.log.append(Append(job_id, epoch, [decided(job_id)])))
        await asyncio.sleep(0)
    assert await last == 2
    with pytest.raises(Unavailable):
        await store.log.append(Append(job_id, epoch, [decided(job_id)]))


@contextlib.asynccontextmanager
async def _row_held(url: str, job_id: str) -> AsyncIterator[Connection]:
    """Holds a job's row; whatever is done with the connection commits at the end."""
    holder = await connect(url, name="holder", settings=_HOLDS)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM job WHERE id = $1 FOR UPDATE", job_id)
            yield holder
    finally:
        holder.terminate()


async def _waiters_for_locks(holder: Connection, count: int) -> None:
    async def all_wait() -> bool:
        waiting = await holder.fetchval(
            "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
        )
        return bool(waiting == count)

    await until(all_wait, every=0.005)


async def _commits(store: Store) -> int:
    """Transactions that wrote, from the server's own count of transaction ids."""
    row = await store.database.fetchrow("SELECT pg_current_xact_id()::text::bigint AS x")
    assert row is not None
    return int(row["x"])


async def test_a_lot_holds_so_many_events_and_bytes_and_says_whether_there_is_more(
    store: Store,
) -> None:
    job_id = await add_job(store)
    for size in (10, 3000, 3000, 10):
        await store.log.append_fact(job_id, fact(job_id, reason="x" * size))

    async def lot(after: int, limit: int, max_bytes: int) -> tuple[list[int], bool]:
        events, more = await store.log.read_lot(job_id, after, limit, max_bytes)
        return [event.sequence for event in events], more

    assert await lot(0, 10, 1 << 20) == ([1, 2, 3, 4, 5], False)
    assert await lot(0, 5, 1 << 20) == ([1, 2, 3, 4, 5], True)
    assert await lot(0, 10, 3000) == ([1, 2, 3], True)
    assert await lot(2, 10, 1) == ([3], True)  # one that is too large comes alone
    assert await lot(4, 10, 1) == ([5], False)
    assert await lot(5, 10, 1) == ([], False)
