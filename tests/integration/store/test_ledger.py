"""The ledger beside the log: each call once, in the same commit, for ever."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from hma.errors import Fenced, PreconditionFailed
from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.apply import fold_events
from services.meta_agent.store.append import Append, write_batch
from services.meta_agent.store.store import Store
from tests.integration.store.conftest import OpenStore
from tests.integration.store.ledgers import (
    Attempt,
    call_usage,
    event,
    folded_calls,
    ledger_calls,
    ledger_rows,
    random_attempt,
    settled,
)
from tests.integration.store.making import add_claimed_job, add_job, decided, fact, seal
from tests.integration.store.proxy import Moment, Proxy
from tests.integration.store.quota_checks import check_buckets

MOMENTS: tuple[Moment, ...] = ("before", "inside", "after")


async def test_a_settled_call_is_booked_with_all_that_is_known_of_it(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    before = datetime.now(UTC) - timedelta(minutes=1)
    call = call_usage(3, 120, 40, cached=64, reasoning=30, exact=False, route="deep", model="q\0")
    await store.log.append(
        Append(job_id, epoch, [settled(job_id, call, task_uid="r.1", attempt=2, cost=0.5)])
    )
    [row] = await ledger_rows(store, job_id)
    settle_time = row.pop("settle_time")
    assert isinstance(settle_time, datetime)
    assert before < settle_time < datetime.now(UTC) + timedelta(minutes=1)
    assert row == {
        "job_id": job_id,
        "task_uid": "r.1",
        "attempt": 2,
        "call": 3,
        "tenant": "acme",
        "role": common_pb2.ROLE_REDUCER,
        "route": "deep",
        "model": "q",
        "purpose": attempt_pb2.CALL_PURPOSE_WORK,
        "prompt_tokens": 120,
        "cached_prompt_tokens": 64,
        "completion_tokens": 40,
        "reasoning_tokens": 30,
        "exact": False,
        "cost": 0.5,
    }


async def test_other_events_and_refused_calls_book_nothing(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.log.append(
        Append(job_id, epoch, [decided(job_id), settled(job_id, call_usage(1, 0, 0))])
    )
    await store.log.append_fact(job_id, fact(job_id))
    assert await ledger_rows(store, job_id) == []


async def test_the_first_truth_of_a_call_stays(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    first, second = call_usage(1, 100, 10), call_usage(1, 999, 99)
    # In one append, in a later one, and in a report.
    await store.log.append(Append(job_id, epoch, [settled(job_id, first), settled(job_id, second)]))
    await store.log.append(Append(job_id, epoch, [settled(job_id, second)]))
    report = Attempt(job_id, "1.1", 1, [second, call_usage(2, 50, 5)], costs=[9.0, 0.25]).report()
    await store.log.append_fact(job_id, report)
    rows = await ledger_rows(store, job_id)
    assert [(r["call"], r["prompt_tokens"], r["cost"]) for r in rows] == [
        (1, 100, 0.0),
        (2, 50, 0.25),
    ]


async def test_a_fenced_append_books_nothing_and_harms_no_other(store: Store) -> None:
    jobs = [await add_claimed_job(store) for _ in range(2)]
    batch = [
        Append(jobs[0][0], jobs[0][1] + 1, [settled(jobs[0][0], call_usage())]),
        Append(jobs[1][0], jobs[1][1], [settled(jobs[1][0], call_usage())]),
    ]
    async with store.database.connection() as connection:
        outcomes = await write_batch(connection, batch)
    assert isinstance(outcomes[0], Fenced)
    assert outcomes[1] == 2
    assert await ledger_rows(store, jobs[0][0]) == []
    assert len(await ledger_rows(store, jobs[1][0])) == 1


async def test_a_report_after_the_seal_books_nothing(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await seal(store, job_id, epoch)
    with pytest.raises(PreconditionFailed):
        await store.log.append_fact(
            job_id, Attempt(job_id, "1.1", 1, [call_usage()], costs=[0]).report()
        )
    assert await ledger_rows(store, job_id) == []


async def test_the_ledger_outlives_its_job(store: Store) -> None:
    job_id, epoch = await add_claimed_job(store)
    await store.log.append(Append(job_id, epoch, [settled(job_id, call_usage())]))
    await seal(store, job_id, epoch)
    await store.jobs.delete(job_id)
    assert len(await ledger_rows(store, job_id)) == 1


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_booking_whose_reply_is_lost_is_made_once(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store = await open_replica(url=proxy.url)
    job_id, epoch = await add_claimed_job(store)
    await store.log.append(Append(job_id, epoch, [decided(job_id)]))
    proxy.cut(moment)
    await store.log.append(Append(job_id, epoch, [settled(job_id, call_usage())]))
    assert proxy.cuts_made == 1
    assert len(await ledger_rows(store, job_id)) == 1

    report = Attempt(job_id, "1.2", 1, [call_usage(), call_usage(2)], costs=[0, 0]).report()
    proxy.cut(moment, "hma-meta-agent")
    await store.log.append_fact(job_id, report)
    assert proxy.cuts_made == 2
    assert len(await ledger_rows(store, job_id)) == 3


@pytest.mark.parametrize("seed", range(8))
async def test_the_ledger_is_what_the_log_folds_to(
    open_replica: OpenStore, proxy: Proxy, seed: int
) -> None:
    """Drivers settle, finish and lose attempts, services report them again and again, replies
    get lost: whatever happens, ledger and fold agree to the token and the row."""
    rng = random.Random(seed)
    store, outside = await open_replica("a", url=proxy.url), await open_replica("b")
    jobs = [await add_claimed_job(store) for _ in range(3)]

    async def drive(job_id: str, epoch: int) -> None:
        uids = ["p.1", "1.1", "1.2", "r.1"]
        attempts = [random_attempt(rng, job_id, uid, n) for uid in uids for n in (1, 2)]
        await store.log.append(Append(job_id, epoch, [a.started() for a in attempts]))
        reports = [group.create_task(report(a)) for a in attempts if rng.random() < 0.6]
        while open_ := [a for a in attempts if not a.finished]:
            some = rng.sample(open_, min(len(open_), rng.randint(1, 3)))
            append = Append(job_id, epoch, [a.next(rng) for a in some])
            await store.log.append(append)
            if rng.random() < 0.2:
                await store.log.append(append)  # its caller was not sure that it was written
            await asyncio.sleep(rng.random() * 0.005)
        await asyncio.gather(*reports)
        # Most of what is lost is reported late: only then is it known what it cost.
        await asyncio.gather(*(report(a) for a in attempts if a.lost and rng.random() < 0.8))

    async def report(attempt: Attempt) -> None:
        for _ in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.random() * 0.05)
            await outside.log.append_fact(attempt.job_id, attempt.report())

    async def break_things() -> None:
        for _ in range(4):
            proxy.cut(rng.choice(MOMENTS))
            await asyncio.sleep(rng.random() * 0.1)

    async with asyncio.TaskGroup() as group:
        group.create_task(break_things())
        for job_id, epoch in jobs:
            group.create_task(drive(job_id, epoch))

    for job_id, _ in jobs:
        fold = fold_events(await outside.log.read(job_id))
        rows = await ledger_rows(outside, job_id)
        assert ledger_calls(rows) == folded_calls(fold)
        spent = [int(str(r["prompt_tokens"])) + int(str(r["completion_tokens"])) for r in rows]
        assert sum(spent) == fold.spent > 0
        assert sum(float(str(r["cost"])) for r in rows) == pytest.approx(fold.cost)
    await check_buckets(outside)


async def test_calls_of_a_job_without_an_attempt_are_booked_under_its_tenant(
    store: Store,
) -> None:
    job_id = await add_job(store)
    finished = job_pb2.AttemptReported(
        ref=attempt_pb2.AttemptRef(job_id=job_id, task_uid="p.1", attempt=1),
        result=attempt_pb2.AttemptResult(calls=[call_usage()]),
    )
    await store.log.append_fact(job_id, event(job_id, attempt_reported=finished))
    [row] = await ledger_rows(store, job_id)
    assert (row["tenant"], row["cost"], row["role"]) == ("acme", 0.0, common_pb2.ROLE_ANALYST)
