"""Jobs driven for real, on a real PostgreSQL, under their tenant's limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hma.errors import QuotaExceeded
from hma.rpc.attempt import Attempt
from hma.v1 import admin_pb2, attempt_pb2, job_pb2, worker_pb2
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.store import Store
from tests.integration.meta_agent.replica import (
    Scripts,
    answer_task,
    open_replica,
    serve_scripts,
)
from tests.integration.store.quota_checks import Recorder, check_buckets
from tests.unit.meta_agent.simulation import make_created

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


async def set_limits(store: Store, tenant: str = "default", **limits: int) -> None:
    request = admin_pb2.SetQuotaRequest(tenant=tenant, preset="unlimited")
    request.limits.CopyFrom(admin_pb2.QuotaLimits(**limits))
    await store.quotas.set(request)


async def test_a_job_spends_what_it_has_drawn_and_draws_more_as_it_needs_it(
    postgres_url: str,
) -> None:
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel, quota=QuotaRules(tranche=300)) as replica,
    ):
        await set_limits(replica.store, tokens_per_minute=100_000)
        job_id = await replica.create(make_created(items=8))
        fold = await replica.ended(job_id)
        row = await replica.store.database.fetchrow(
            "SELECT quota_drawn, settled_tokens, min_reader FROM job WHERE id = $1", job_id
        )
        await check_buckets(replica.store)
        [use] = (await replica.store.quotas.get("default")).uses
    assert fold.state == SUCCEEDED
    assert row is not None
    assert row["settled_tokens"] == fold.spent == use.used == 8 * 55
    assert use.held == 0
    assert fold.drawn == row["quota_drawn"] >= fold.spent
    assert row["min_reader"] == 3


async def test_a_job_waits_for_what_others_hold_and_then_goes_on(postgres_url: str) -> None:
    holding, let_go = asyncio.Event(), asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.attempt.ref.job_id == first:
            holding.set()
            await let_go.wait()
        return await answer_task(start, attempt)

    first = ""
    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, quota=QuotaRules(tranche=1)) as replica,
    ):
        await set_limits(replica.store, tokens_per_hour=400)
        first = await replica.create(make_created(items=1, budget=900))
        await holding.wait()
        quota = await replica.store.quotas.get("default")
        assert quota.uses[0].held > 200
        second = await replica.create(make_created(items=1, budget=2000))
        waits = await replica.until(second, lambda fold: fold.reason.startswith("waits for quota"))
        assert waits.reason.startswith("waits for quota: tokens_per_hour")
        assert waits.drawn == waits.spent
        let_go.set()
        assert (await replica.ended(first)).state == SUCCEEDED
        done = await replica.ended(second)
    assert done.state == SUCCEEDED
    assert done.spent <= (done.drawn or 0)


async def test_a_call_that_asks_for_more_than_is_drawn_waits_in_its_stream(
    postgres_url: str,
) -> None:
    holding, let_go = asyncio.Event(), asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.attempt.ref.job_id == first:
            holding.set()
            await let_go.wait()
            return await answer_task(start, attempt)
        intent = attempt_pb2.CallIntent(
            call=1, prompt_tokens=200, max_completion_tokens=400, min_completion_tokens=400
        )
        grant = await attempt.ask(intent)
        assert grant.tokens == 600
        return await answer_task(start, attempt)

    first = ""
    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, quota=QuotaRules(tranche=1)) as replica,
    ):
        await set_limits(replica.store, tokens_per_hour=800)
        first = await replica.create(make_created(items=1, budget=900))
        await holding.wait()
        second = await replica.create(make_created(items=1, budget=2000))
        waits = await replica.until(
            second, lambda fold: any(a.deferred for a in fold.attempts.values())
        )
        assert waits.outstanding == 0
        let_go.set()
        assert (await replica.ended(first)).state == SUCCEEDED
        assert (await replica.ended(second)).state == SUCCEEDED
        granted = [e for e in await replica.events(second) if e.HasField("call_granted")]
    assert [e.call_granted.grant.denied for e in granted] == [False]


async def test_a_job_that_may_wait_is_let_in_when_another_has_ended(postgres_url: str) -> None:
    let_go = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await let_go.wait()
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        await set_limits(replica.store, concurrent_jobs=1)
        first = await replica.create(make_created(items=1))
        with pytest.raises(QuotaExceeded) as refused:
            await replica.create(make_created(items=1))
        assert refused.value.subject == "tenant:default/concurrent_jobs"
        second = await replica.create(make_created(items=1), waits=True)
        fold = await replica.fold(second)
        assert (fold.state, fold.reason) == (
            job_pb2.JOB_STATE_QUEUED,
            "waits for quota: concurrent_jobs has no room",
        )
        let_go.set()
        assert (await replica.ended(first)).state == SUCCEEDED
        assert (await replica.ended(second)).state == SUCCEEDED


async def test_a_job_that_waits_to_be_let_in_can_be_cancelled(postgres_url: str) -> None:
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        await set_limits(replica.store, tokens_per_minute=10)
        job_id = await replica.create(make_created(items=1), waits=True, least_tokens=5000)
        cancel = job_pb2.JobEvent(
            job_id=job_id, event_id="c", cancel_requested=job_pb2.CancelRequested(reason="no")
        )
        await replica.store.log.append_fact(job_id, cancel)
        fold = await replica.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_CANCELLED
    assert (fold.spent, fold.drawn) == (0, 0)


async def test_a_job_that_waits_until_its_deadline_ends_without_any_work(
    postgres_url: str,
) -> None:
    let_go = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await let_go.wait()
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        await set_limits(replica.store, concurrent_jobs=1)
        first = await replica.create(make_created(items=1))
        second = await replica.create(make_created(items=1), 3.0, waits=True)
        fold = await replica.ended(second)
        let_go.set()
        await replica.ended(first)
        [use] = (await replica.store.quotas.get("default")).uses
    assert fold.interrupted == "its tenant's quota had no room for it in its time"
    assert not fold.tasks
    assert not any(attempt.grant.tokens for attempt in fold.attempts.values())
    assert fold.spent == 0
    assert use.used == 0


async def test_concurrent_tasks_are_exact_over_replicas(postgres_url: str) -> None:
    running = most = 0

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.05)  # the task's own duration, not a wait for a state
            return await answer_task(start, attempt)
        finally:
            running -= 1

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, max_jobs=2) as one,
        open_replica(postgres_url, channel, max_jobs=2) as other,
    ):
        await set_limits(one.store, concurrent_tasks=3)
        jobs = [await one.create(make_created(items=8, budget=20_000)) for _ in range(4)]
        folds = [await one.ended(job_id, 40) for job_id in jobs]
        assert {fold.replica for fold in folds} == {one.drivers._replica, other.drivers._replica}
        left = await one.store.quotas.get("default")
    assert [fold.state for fold in folds] == [SUCCEEDED] * 4
    assert most == 3
    assert left.uses[0].used == 0


async def test_a_job_that_lacks_places_leaves_the_replica_to_others(postgres_url: str) -> None:
    holding, let_go = asyncio.Event(), asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        holding.set()
        await let_go.wait()
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        await set_limits(replica.store, concurrent_tasks=1)
        job_id = await replica.create(make_created(items=8, budget=20_000))
        await holding.wait()
        clock = asyncio.get_running_loop().time
        begin = clock()
        for _ in range(20):
            await asyncio.sleep(0.01)  # as any other work of the replica does
        took = clock() - begin
        let_go.set()
        fold = await replica.ended(job_id, 40)
    assert fold.state == SUCCEEDED
    assert took < 3.0


async def test_a_takeover_goes_on_with_what_was_drawn_and_no_window_is_exceeded(
    postgres_url: str,
) -> None:
    begun = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        begun.set()
        await asyncio.sleep(0.2)  # the task's own duration, not a wait for a state
        return await answer_task(start, attempt)

    async with serve_scripts(Scripts(execute=work)) as channel:
        rules = QuotaRules(tranche=500)
        async with open_replica(postgres_url, channel, quota=rules) as first:
            await set_limits(first.store, tokens_per_hour=3000, concurrent_tasks=2)
            jobs = [await first.create(make_created(items=3, budget=2500)) for _ in range(2)]
            await begun.wait()
        # Its drivers were cancelled in the midst of their work: nothing was given back.
        async with (
            open_replica(postgres_url, channel, quota=rules) as second,
            Recorder(second.store).watching(),
        ):
            folds = [await second.ended(job_id, 40) for job_id in jobs]
            await check_buckets(second.store)
            left = await second.store.quotas.get("default")
    assert all(fold.takeovers or fold.epoch > 1 for fold in folds)
    assert all(fold.spent + fold.unknown <= (fold.drawn or 0) for fold in folds)
    assert [use.held for use in left.uses if use.name == "tokens_per_hour"] == [0]


async def test_a_job_that_is_left_alone_keeps_no_places_from_others(postgres_url: str) -> None:
    begun, held = asyncio.Event(), ""

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.attempt.ref.job_id == held:
            begun.set()
            await attempt.stop.wait()
        return await answer_task(start, attempt)

    async with serve_scripts(Scripts(execute=work)) as channel:
        async with open_replica(postgres_url, channel) as first:
            await set_limits(first.store, concurrent_tasks=1)
            held = await first.create(make_created(items=2))
            await begun.wait()
        async with open_replica(postgres_url, channel) as second:
            # As if it were the job that its drivers are lost by: it is left alone for 16 s.
            await second.store.database.execute(
                "UPDATE job SET driver = 'dead', lost_drivers = 5, claim_after = NULL, "
                "claim_time = clock_timestamp() WHERE id = $1",
                held,
            )
            other = await second.create(make_created(items=2))
            fold = await second.ended(other, 10)
            row = await second.store.database.fetchrow(
                "SELECT driver, claim_after > clock_timestamp() AS alone, quota_tasks FROM job "
                "WHERE id = $1",
                held,
            )
    assert fold.state == SUCCEEDED
    assert row is not None
    assert tuple(row) == (None, True, 0)
