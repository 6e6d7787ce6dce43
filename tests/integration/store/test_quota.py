"""Tenants' limits in the store: refused or waited for, and never exceeded, by any replica."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.errors import Fenced, HmaError, InvalidRequest, QuotaExceeded, Unavailable
from hma.v1 import admin_pb2, job_pb2
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.quota_draws import Draw
from services.meta_agent.store.quota_limits import PRESETS
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.store import Store, StoreOptions, open_store
from tests.integration.store.conftest import OpenStore
from tests.integration.store.ledgers import call_usage, settled
from tests.integration.store.making import created, decided, new_job, seal
from tests.integration.store.proxy import Moment, Proxy
from tests.integration.store.quota_checks import Recorder, check_buckets, check_windows

MOMENTS: tuple[Moment, ...] = ("before", "inside", "after")

_SHIFT = "UPDATE quota_bucket SET start = start - interval '30 seconds' WHERE width = 1"


async def limit(store: Store, tenant: str = "acme", preset: str = "", **limits: float) -> None:
    request = admin_pb2.SetQuotaRequest(tenant=tenant, preset=preset)
    for name, value in limits.items():
        setattr(request.limits, name, value)
    await store.quotas.set(request)


def job_of(tenant: str = "acme", **changes: object) -> NewJob:
    return replace(new_job(tenant=tenant), **changes)  # type: ignore[arg-type]


async def make(store: Store, job: NewJob | None = None) -> NewJob:
    job = job or job_of()
    assert (await store.jobs.create(job, created(job))).made
    return job


async def claim(store: Store, job: NewJob) -> int:
    mine = await store.database.fetch("SELECT id FROM job WHERE driver = $1", store.replica_id)
    for claimed in await store.claims.claim(
        store.replica_id, 500, driving={row["id"] for row in mine}
    ):
        if claimed.job_id == job.job_id:
            return claimed.epoch
    raise AssertionError("the job was not to be had")


async def used(store: Store, tenant: str = "acme") -> dict[str, tuple[float, float]]:
    quota = await store.quotas.get(tenant)
    return {use.name: (use.used, use.held) for use in quota.uses}


def draw_of(job: NewJob, epoch: int, least: int, **changes: object) -> Draw:
    draw = Draw(
        job_id=job.job_id,
        tenant=job.tenant,
        epoch=epoch,
        least=least,
        wanted=least,
        ceiling=job.budget_tokens,
        spare=0,
        price=job.token_price,
    )
    return replace(draw, **changes)  # type: ignore[arg-type]


async def test_a_full_window_refuses_and_says_which_and_until_when(store: Store) -> None:
    await limit(store, requests_per_minute=2)
    await make(store)
    await make(store)
    with pytest.raises(QuotaExceeded) as refused:
        await make(store)
    assert refused.value.subject == "tenant:acme/requests_per_minute"
    assert (refused.value.limit, refused.value.remaining) == (2, 0)
    assert refused.value.retry_after is not None
    assert 58 < refused.value.retry_after <= 61
    quota = await store.quotas.get("acme")
    free = quota.uses[0].next_free_time.ToMicroseconds() - quota.time.ToMicroseconds()
    assert free / 1e6 == pytest.approx(refused.value.retry_after, abs=2)


async def test_a_window_frees_as_time_goes_by(store: Store) -> None:
    await limit(store, requests_per_minute=1)
    await make(store)
    await store.database.execute(_SHIFT)
    with pytest.raises(QuotaExceeded) as refused:
        await make(store)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after < 32
    await store.database.execute(_SHIFT)
    await store.database.execute(_SHIFT)
    await make(store)


async def test_a_repeated_request_is_answered_though_the_window_is_full_and_counts_once(
    store: Store,
) -> None:
    await limit(store, requests_per_hour=1, tokens_per_hour=50_000)
    job = await make(store, job_of(request_id="same"))
    before = await used(store)
    again = replace(job_of(request_id="same"), fingerprint=job.fingerprint)
    found = await store.jobs.create(again, created(again))
    assert (found.made, found.job_id) == (False, job.job_id)
    assert await used(store) == before


async def test_one_request_sent_at_once_to_all_replicas_counts_once(
    open_replica: OpenStore,
) -> None:
    stores = [await open_replica(name) for name in ("a", "b", "c")]
    await limit(stores[0], requests_per_hour=1)
    jobs = [job_of(request_id="same") for _ in range(9)]
    made = await asyncio.gather(
        *(stores[n % 3].jobs.create(job, created(job)) for n, job in enumerate(jobs))
    )
    assert sum(each.made for each in made) == 1
    assert len({each.job_id for each in made}) == 1
    assert await used(stores[0]) == {"requests_per_hour": (1, 0)}
    await check_buckets(stores[0])


async def test_a_job_draws_its_first_tranche_when_it_is_accepted(open_replica: OpenStore) -> None:
    store = await open_replica(options=StoreOptions(quota=QuotaRules(tranche=2000)))
    await limit(store, tokens_per_minute=3000)
    first = await make(store)
    second = await make(store, job_of(least_tokens=900))
    events = [await store.log.read(job.job_id) for job in (first, second)]
    assert [log[1].quota_drawn.total_tokens for log in events] == [2000, 1000]
    assert all(log[0].job_created.draws_quota for log in events)
    with pytest.raises(QuotaExceeded) as refused:
        await make(store)
    assert refused.value.subject == "tenant:acme/tokens_per_minute"
    assert await used(store) == {"tokens_per_minute": (3000, 3000)}


async def test_what_a_limit_can_never_pay_for_is_refused_without_a_time(store: Store) -> None:
    await limit(store, tokens_per_day=100)
    with pytest.raises(QuotaExceeded) as refused:
        await make(store, job_of(least_tokens=101))
    assert refused.value.retry_after is None


async def test_spending_keeps_the_use_and_the_end_frees_what_was_held(store: Store) -> None:
    await limit(store, tokens_per_minute=8000)
    job = await make(store)
    epoch = await claim(store, job)
    assert await used(store) == {"tokens_per_minute": (5000, 5000)}
    await store.log.append(Append(job.job_id, epoch, [settled(job.job_id, call_usage())]))
    assert await used(store) == {"tokens_per_minute": (5000, 4890)}
    row = await store.jobs.get(job.job_id)
    end = Append(
        job.job_id,
        epoch,
        [decided(job.job_id)],
        JobSummary(job_pb2.JOB_STATE_SUCCEEDED),
        seal=True,
        expected_version=row.version,
        lost_tokens=40,
    )
    await store.log.append(end)
    assert await used(store) == {"tokens_per_minute": (150, 0)}
    await store.jobs.delete(job.job_id)
    assert await used(store) == {"tokens_per_minute": (150, 0)}


async def test_money_is_held_at_the_dearest_price_and_counted_at_what_was_paid(
    store: Store,
) -> None:
    await limit(store, cost_per_month=1.0)
    job = await make(store, job_of(token_price=0.0001))
    assert (await used(store))["cost_per_month"] == pytest.approx((0.5, 0.5))
    epoch = await claim(store, job)
    call = settled(job.job_id, call_usage(1, 900, 100), cost=0.02)
    await store.log.append(Append(job.job_id, epoch, [call]))
    assert (await used(store))["cost_per_month"] == pytest.approx((0.42, 0.4))
    await make(store, job_of(token_price=0.0001))
    with pytest.raises(QuotaExceeded) as refused:
        await make(store, job_of(token_price=0.0001, least_tokens=1000))
    assert refused.value.subject == "tenant:acme/cost_per_month"
    await check_windows(store)


async def test_draws_are_fenced_and_say_what_is_in_the_way(open_replica: OpenStore) -> None:
    store = await open_replica(options=StoreOptions(quota=QuotaRules(tranche=1)))
    await limit(store, tokens_per_minute=1000)
    job = await make(store, job_of(least_tokens=400))
    epoch = await claim(store, job)
    drawn = await store.quotas.draws.draw(draw_of(job, epoch, 500))
    assert drawn.event is not None
    assert (drawn.event.quota_drawn.total_tokens, drawn.event.sequence) == (900, 3)
    assert drawn.most == 1000
    full = await store.quotas.draws.draw(draw_of(job, epoch, 200, spare=300))
    assert full.event is not None
    assert (full.event.quota_drawn.tokens, full.event.quota_drawn.total_tokens) == (-300, 600)
    assert full.event.quota_drawn.limit == "tokens_per_minute"
    assert full.retry_after > 0
    again = draw_of(job, epoch, 2000, known_limit="tokens_per_minute")
    assert (await store.quotas.draws.draw(again)).event is None
    with pytest.raises(Fenced):
        await store.quotas.draws.draw(draw_of(job, epoch - 1, 1))
    await seal(store, job.job_id, epoch)
    with pytest.raises(Fenced):
        await store.quotas.draws.draw(draw_of(job, epoch, 1))


async def test_what_is_settled_is_not_to_be_had_again_in_the_time_of_a_job(
    open_replica: OpenStore,
) -> None:
    store = await open_replica(options=StoreOptions(quota=QuotaRules(tranche=1)))
    await limit(store, tokens_per_minute=1000, tokens_per_hour=1100)
    job = await make(store, job_of(least_tokens=300))
    epoch = await claim(store, job)
    await store.log.append(
        Append(job.job_id, epoch, [settled(job.job_id, call_usage(1, prompt=200))])
    )
    spent = (await used(store))["tokens_per_hour"][0] - (await used(store))["tokens_per_hour"][1]
    assert spent >= 200
    drawn = await store.quotas.draws.draw(draw_of(job, epoch, 2000, patience=120.0))
    assert drawn.most == 1100 - spent
    drawn = await store.quotas.draws.draw(draw_of(job, epoch, 2000, patience=7200.0))
    assert drawn.most == 1000


async def test_jobs_that_wait_come_in_by_priority_and_age_when_there_is_room(
    store: Store,
) -> None:
    await limit(store, concurrent_jobs=1)
    running = await make(store)
    epoch = await claim(store, running)
    waiting = [await make(store, job_of(waits=True, priority=priority)) for priority in (0, 50, 50)]
    assert await store.quotas.queue.let_in() == 0
    assert await used(store) == {"concurrent_jobs": (1, 1)}
    order = []
    for _ in waiting:
        await seal(store, running.job_id, epoch)
        assert await store.quotas.queue.let_in() == 1
        [row] = await store.database.fetch(
            "SELECT id FROM job WHERE NOT sealed AND quota_state = 0"
        )
        running = next(job for job in waiting if job.job_id == row["id"])
        order.append(waiting.index(running))
        epoch = await claim(store, running)
    assert order == [1, 2, 0]
    await check_buckets(store)


async def test_a_job_that_no_limit_can_hold_does_not_stand_in_the_way_of_others(
    store: Store,
) -> None:
    await limit(store, concurrent_jobs=1, tokens_per_minute=9000, cost_per_month=2.0)
    running = await make(store)
    epoch = await claim(store, running)
    await make(store, job_of(waits=True, least_tokens=50_000, budget_tokens=60_000))
    await make(store, job_of(waits=True, least_tokens=5000, token_price=0.001))
    behind = await make(store, job_of(waits=True))
    await seal(store, running.job_id, epoch)
    assert await store.quotas.queue.let_in() == 1
    assert await claim(store, behind)
    await check_windows(store)


async def test_whoever_comes_later_stands_behind_those_who_wait(store: Store) -> None:
    await limit(store, concurrent_jobs=1)
    running = await make(store)
    epoch = await claim(store, running)
    waiting = await make(store, job_of(waits=True))
    await seal(store, running.job_id, epoch)
    with pytest.raises(QuotaExceeded):
        await make(store)
    later = await make(store, job_of(waits=True))
    urgent = await make(store, job_of(waits=True, priority=100))
    rows = await store.database.fetch(
        "SELECT id FROM job WHERE quota_state = 0 AND NOT sealed ORDER BY id"
    )
    assert [row["id"] for row in rows] == [waiting.job_id]
    for job in (urgent, later):
        await seal(store, waiting.job_id, await claim(store, waiting))
        await store.quotas.queue.let_in()
        waiting = job
        assert await claim(store, waiting) == 1
        await store.database.execute("UPDATE job SET driver = NULL, epoch = 0 WHERE NOT sealed")
    await check_buckets(store)


async def test_a_job_that_draws_nothing_is_let_in_with_its_whole_budget_or_not_at_all(
    store: Store,
) -> None:
    await limit(store, concurrent_jobs=1)
    running = await make(store)
    epoch = await claim(store, running)
    await make(store, job_of(waits=True, budget_tokens=5000))
    await limit(store, tokens_per_minute=4000)
    await seal(store, running.job_id, epoch)
    assert await store.quotas.queue.let_in() == 0
    await check_windows(store)
    await limit(store, tokens_per_minute=5000)
    assert await store.quotas.queue.let_in() == 1
    await check_windows(store)


async def test_a_tenant_whose_row_stays_locked_does_not_keep_the_others_out(
    store: Store,
) -> None:
    names = ("a", "b", "c", "d")
    for name in names:
        await limit(store, name, concurrent_jobs=1)
        running = await make(store, job_of(name))
        await make(store, job_of(name, waits=True))
        await seal(store, running.job_id, await claim(store, running))
    async with store.database.connection() as connection, connection.transaction():
        await connection.execute("SELECT FROM tenant_quota WHERE tenant = 'a' FOR UPDATE")
        with contextlib.suppress(Unavailable):
            await store.quotas.queue.let_in()
    rows = await store.database.fetch("SELECT tenant FROM job WHERE quota_state = 1")
    assert [row["tenant"] for row in rows] == ["a"]


async def test_a_price_that_has_risen_holds_for_what_was_drawn_before(
    open_replica: OpenStore,
) -> None:
    store = await open_replica(options=StoreOptions(quota=QuotaRules(tranche=1000)))
    await limit(store, cost_per_month=1.0)
    job = await make(store, job_of(token_price=0.0005))
    epoch = await claim(store, job)
    drawn = await store.quotas.draws.draw(draw_of(job, epoch, 100, price=0.001))
    assert drawn.retry_after > 0
    await check_windows(store)


async def test_a_job_that_waits_is_not_claimed_and_counts_nowhere(store: Store) -> None:
    await limit(store, requests_per_minute=1, tokens_per_minute=9000)
    await make(store)
    before = await used(store)
    await make(store, job_of(waits=True))
    assert await used(store) == before
    claimed = await store.claims.claim(store.replica_id, driving=())
    assert len(claimed) == 1


async def test_only_so_many_jobs_of_a_tenant_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.meta_agent.store.creation.MOST_WAITING", 2)
    await limit(store, concurrent_jobs=1)
    await make(store)
    for _ in range(2):
        await make(store, job_of(waits=True))
    with pytest.raises(QuotaExceeded):
        await make(store, job_of(waits=True))
    # What waits for its own tenant is not in the way of the others.
    assert sum((await store.jobs.queued(100)).values()) == 1


async def test_limits_that_are_set_later_are_right_at_once(store: Store) -> None:
    job = await make(store)
    epoch = await claim(store, job)
    await store.log.append(Append(job.job_id, epoch, [settled(job.job_id, call_usage())]))
    await limit(store, tokens_per_minute=10_000, requests_per_day=5, concurrent_jobs=3)
    assert await used(store) == {
        "tokens_per_minute": (5000, 4890),
        "requests_per_day": (1, 0),
        "concurrent_jobs": (1, 1),
    }


async def test_presets_and_changes_of_single_limits(store: Store) -> None:
    await limit(store, preset="small", tokens_per_minute=100_000)
    quota = await store.quotas.get("acme")
    assert (quota.limits.requests_per_minute, quota.limits.concurrent_tasks) == (60, 10)
    assert quota.limits.tokens_per_minute == 100_000
    request = admin_pb2.SetQuotaRequest(tenant="acme", update=["tokens_per_minute"])
    now = await store.quotas.set(request)
    assert (now.tokens_per_minute, now.concurrent_jobs) == (0, 10)
    for wrong in (
        admin_pb2.SetQuotaRequest(tenant="acme", preset="huge"),
        admin_pb2.SetQuotaRequest(tenant="acme", update=["tokens"]),
        admin_pb2.SetQuotaRequest(
            tenant="acme", limits=admin_pb2.QuotaLimits(tokens_per_minute=-1), update=[]
        ),
    ):
        with pytest.raises(InvalidRequest):
            await store.quotas.set(wrong)


async def test_the_default_holds_for_tenants_without_limits_of_their_own(
    open_replica: OpenStore,
) -> None:
    rules = QuotaRules(default={"concurrent_jobs": 1})
    store = await open_replica(options=StoreOptions(quota=rules))
    await make(store)
    with pytest.raises(QuotaExceeded):
        await make(store)
    await make(store, job_of("other"))
    await limit(store, preset="unlimited")
    await make(store)
    assert PRESETS["unlimited"] == {}


async def test_tenants_without_limits_have_no_row_to_lock(store: Store) -> None:
    await make(store)
    assert await store.database.fetch("SELECT * FROM tenant_quota") == []


@dataclass
class Crowd:
    """Random work of several replicas for several tenants, each job by one driver."""

    stores: list[Store]
    dice: random.Random
    tenants: list[str]
    accepted: int = 0
    refused: int = 0

    async def job(self, tenant: str) -> None:
        """One job's life: accepted or not, drawn, spent, perhaps taken over, ended."""
        dice, store = self.dice, self.dice.choice(self.stores)
        job = job_of(
            tenant,
            token_price=1e-6,
            least_tokens=dice.randint(1, 300),
            budget_tokens=dice.randint(300, 3000),
            waits=dice.random() < 0.2,
        )
        try:
            await store.jobs.create(job, created(job))
        except QuotaExceeded:
            self.refused += 1
            return
        self.accepted += 1
        row = await store.database.fetchrow(
            "UPDATE job SET driver = $2, epoch = epoch + 1 WHERE id = $1 AND quota_state = 0 "
            "RETURNING epoch, quota_drawn",
            job.job_id,
            store.replica_id,
        )
        if row is None:
            await self._let_in(store, job)
            return
        await self._drive(store, job, row["epoch"], row["quota_drawn"])

    async def _let_in(self, store: Store, job: NewJob) -> None:
        """It waits: perhaps somebody lets it in, perhaps nobody ever does."""
        await store.quotas.queue.let_in()

    async def _drive(self, store: Store, job: NewJob, epoch: int, drawn: int) -> None:
        dice, spent, call = self.dice, 0, 0
        for _ in range(dice.randint(1, 6)):
            if dice.random() < 0.3:
                more = draw_of(job, epoch, dice.randint(1, 400), spare=drawn - spent)
                more = replace(more, ceiling=job.budget_tokens - drawn)
                if more.least <= more.ceiling:
                    result = await store.quotas.draws.draw(more)
                    if result.event is not None:
                        drawn = result.event.quota_drawn.total_tokens
            if dice.random() < 0.3:
                places = await store.quotas.draws.take_places(
                    job.job_id, job.tenant, epoch, dice.randint(1, 4)
                )
                await store.quotas.draws.keep_places(job.job_id, epoch, dice.randint(0, places))
            tokens = dice.randint(0, drawn - spent)
            if tokens:
                call, spent = call + 1, spent + tokens
                usage = call_usage(call, tokens, 0)
                event = settled(job.job_id, usage, cost=tokens * dice.random() * 1e-6)
                await store.log.append(Append(job.job_id, epoch, [event]))
        version = (await store.jobs.get(job.job_id)).version
        lost = dice.randint(0, drawn - spent) if dice.random() < 0.3 else 0
        end = Append(
            job.job_id,
            epoch,
            [decided(job.job_id)],
            JobSummary(job_pb2.JOB_STATE_SUCCEEDED),
            seal=True,
            expected_version=version,
            lost_tokens=lost,
            lost_cost=lost * 1e-6,
        )
        await store.log.append(end)
        if dice.random() < 0.3:
            await store.jobs.delete(job.job_id)


async def test_five_tenants_on_three_replicas_never_exceed_a_window(
    open_replica: OpenStore,
) -> None:
    options = StoreOptions(quota=QuotaRules(tranche=700))
    stores = [await open_replica(name, options=options) for name in ("a", "b", "c")]
    crowd = Crowd(stores, random.Random(7), [f"t{n}" for n in range(5)])
    for tenant in crowd.tenants:
        await limit(
            stores[0],
            tenant,
            tokens_per_minute=6000,
            tokens_per_hour=20_000,
            requests_per_minute=30,
            concurrent_jobs=4,
            concurrent_tasks=5,
            cost_per_month=0.01,
        )

    async def client(tenant: str) -> None:
        for _ in range(6):
            with contextlib.suppress(Unavailable, Fenced):
                await crowd.job(tenant)

    async with Recorder(stores[1]).watching() as recorder, asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(client(crowd.tenants[number % 5]))
    assert recorder.looks > 10
    assert crowd.refused > 20
    accepted = await stores[0].database.fetch(
        "SELECT tenant, sum(requests) AS jobs, sum(tokens) AS tokens FROM quota_bucket "
        "WHERE width = 86400 GROUP BY tenant"
    )
    # None starves: each has got in and spent.
    assert len(accepted) == 5
    assert all(row["jobs"] >= 3 and row["tokens"] > 1000 for row in accepted)
    for store in stores:
        await check_windows(store)


async def test_any_order_of_admissions_draws_settlements_and_ends_keeps_every_window(
    postgres_url: str,
) -> None:
    """Interleavings that a seed decides, on one database, each with a tenant of its own."""
    options = StoreOptions(quota=QuotaRules(tranche=300))
    async with (
        open_store(
            postgres_url, replica_id=new_replica_id("a"), address="a:1", options=options
        ) as one,
        open_store(
            postgres_url, replica_id=new_replica_id("b"), address="b:1", options=options
        ) as other,
    ):
        loop = asyncio.get_running_loop()

        async def history(seed: int, tokens: int, jobs: int) -> None:
            tenant = f"h{seed}-{time.monotonic_ns()}"
            await limit(one, tenant, tokens_per_minute=tokens, concurrent_jobs=jobs)
            crowd = Crowd([one, other], random.Random(seed), [tenant])
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(_quietly(crowd.job(tenant)))
                for _ in range(5):
                    await check_windows(one)
            await check_windows(other)

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(seed=st.integers(0, 2**31), tokens=st.integers(1, 6000), jobs=st.integers(1, 6))
        def any_history(seed: int, tokens: int, jobs: int) -> None:
            asyncio.run_coroutine_threadsafe(history(seed, tokens, jobs), loop).result(60)

        await asyncio.to_thread(any_history)


async def _quietly(work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except (Unavailable, Fenced):
        pass
    except HmaError as error:
        raise AssertionError(error.message) from error


@pytest.mark.parametrize("moment", MOMENTS)
async def test_what_is_drawn_is_in_the_log_or_nowhere_when_the_reply_is_lost(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    options = StoreOptions(quota=QuotaRules(tranche=1))
    store, outside = await open_replica("a", url=proxy.url, options=options), await open_replica()
    await limit(outside, tokens_per_minute=5000)
    job = await make(outside, job_of(least_tokens=100))
    epoch = await claim(outside, job)
    proxy.cut(moment, "hma-meta-agent")
    with contextlib.suppress(Unavailable):
        await store.quotas.draws.draw(draw_of(job, epoch, 500))
    assert proxy.cuts_made == 1
    log = await outside.log.read(job.job_id)
    total = log[-1].quota_drawn.total_tokens if log[-1].HasField("quota_drawn") else 100
    row = await outside.database.fetchrow("SELECT quota_drawn, version FROM job")
    assert row is not None
    assert (row["quota_drawn"], row["version"]) == (total, len(log))
    assert await used(outside) == {"tokens_per_minute": (total, total)}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_job_whose_reply_is_lost_counts_once(
    open_replica: OpenStore, proxy: Proxy, moment: Moment
) -> None:
    store, outside = await open_replica("a", url=proxy.url), await open_replica("b")
    await limit(outside, requests_per_hour=1, concurrent_jobs=1)
    job = job_of(request_id="same")
    proxy.cut(moment, "hma-meta-agent")
    found = await store.jobs.create(job, created(job))
    assert proxy.cuts_made == 1
    assert found.job_id == job.job_id
    assert await used(outside) == {"requests_per_hour": (1, 0), "concurrent_jobs": (1, 1)}
    await check_buckets(outside)
