"""Tokens that a tenant's jobs wait for: by turn, and small jobs do not take a large one's."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from hma.errors import QuotaExceeded
from hma.v1 import job_pb2
from services.meta_agent.store.append import Append, JobSummary
from services.meta_agent.store.new_job import NewJob
from services.meta_agent.store.quota_draws import Drawn
from services.meta_agent.store.quota_line import HOLD, LEASE
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.store import Store, StoreOptions
from tests.integration.store.conftest import OpenStore
from tests.integration.store.ledgers import call_usage, settled
from tests.integration.store.making import created, decided, seal
from tests.integration.store.quota_checks import check_windows
from tests.integration.store.test_quota import claim, draw_of, job_of, limit, make

ONE_BY_ONE = StoreOptions(quota=QuotaRules(tranche=1))

_AGE = """
WITH ledger AS (
    UPDATE ledger_entry SET settle_time = settle_time - $1::float8 * interval '1 second'
), taken AS (
    DELETE FROM quota_bucket WHERE width = 1 RETURNING *
), buckets AS (
    INSERT INTO quota_bucket
    SELECT tenant, width, start - $1::float8 * interval '1 second', shard, sum(requests),
           sum(tokens), sum(cost)
    FROM taken GROUP BY 1, 2, 3, 4
)
UPDATE job SET create_time = create_time - $1::float8 * interval '1 second',
               quota_turn = quota_turn - $1::float8 * interval '1 second',
               quota_look_time = quota_look_time - $1::float8 * interval '1 second',
               quota_kept_time = quota_kept_time - $1::float8 * interval '1 second'
"""


@dataclass
class Driven:
    """A job, its epoch and what it has drawn and spent; each with one driver."""

    store: Store
    job: NewJob
    epoch: int
    drawn: int
    spent: int = 0
    calls: int = 0

    @classmethod
    async def begin(cls, store: Store, **changes: object) -> Driven:
        job = await make(store, job_of(**{"least_tokens": 1, **changes}))  # type: ignore[arg-type]
        epoch = await claim(store, job)
        events = await store.log.read(job.job_id)
        return cls(store, job, epoch, events[-1].quota_drawn.total_tokens)

    async def draw(self, least: int, **changes: object) -> Drawn:
        draw = draw_of(self.job, self.epoch, least, spare=self.drawn - self.spent)
        drawn = await self.store.quotas.draws.draw(replace(draw, **changes))  # type: ignore[arg-type]
        if drawn.event is not None:
            self.drawn = drawn.event.quota_drawn.total_tokens
        return drawn

    async def gets(self, least: int) -> bool:
        """Whether it draws so many."""
        return not (await self.draw(least)).retry_after

    async def spend(self, tokens: int) -> None:
        self.calls, self.spent = self.calls + 1, self.spent + tokens
        event = settled(self.job.job_id, call_usage(self.calls, tokens, 0))
        await self.store.log.append(Append(self.job.job_id, self.epoch, [event]))

    async def end(self) -> None:
        await seal(self.store, self.job.job_id, self.epoch)


@pytest.fixture
async def store(open_replica: OpenStore) -> Store:
    opened = await open_replica(options=ONE_BY_ONE)
    await limit(opened, tokens_per_minute=1000)
    return opened


async def test_small_jobs_do_not_take_what_a_large_one_waits_for(store: Store) -> None:
    busy = await Driven.begin(store, least_tokens=600)
    large = await Driven.begin(store)
    small = await Driven.begin(store)
    assert not await large.gets(700)
    assert not await small.gets(100), "there is room, and it is kept"
    with pytest.raises(QuotaExceeded) as refused:
        await make(store, job_of(least_tokens=300))
    # Both have given back their first token, and the large one needs its own again.
    assert "is 1,000, and 600 of it are used" in refused.value.message
    assert "a job that came before waits for 701" in refused.value.message
    await busy.end()
    assert not await small.gets(400)
    assert await small.gets(200), "besides what is kept there is room"
    assert await large.gets(700)
    assert await small.gets(50)
    await check_windows(store)


async def test_who_is_earlier_in_turn_is_not_held_up(store: Store) -> None:
    before = await Driven.begin(store)
    urgent_to_be = job_of(least_tokens=100, priority=100)
    busy = await Driven.begin(store, least_tokens=600)
    large = await Driven.begin(store)
    assert not await large.gets(700)
    assert await before.gets(100)
    assert (await store.jobs.create(urgent_to_be, created(urgent_to_be))).made
    await busy.end()
    assert await large.gets(700)


async def test_a_job_that_waits_to_be_accepted_does_not_take_what_is_kept(store: Store) -> None:
    busy = await Driven.begin(store, least_tokens=600)
    large = await Driven.begin(store)
    await make(store, job_of(least_tokens=500, waits=True))
    assert not await large.gets(700)
    await busy.end()
    assert await store.quotas.queue.let_in() == 0
    assert await large.gets(700)
    await large.end()
    assert await store.quotas.queue.let_in() == 1


async def test_nobody_waits_for_a_job_that_looks_no_more(store: Store) -> None:
    await Driven.begin(store, least_tokens=600)
    large, small = await Driven.begin(store), await Driven.begin(store)
    assert not await large.gets(700)
    await store.database.execute(_AGE, LEASE - 1)
    assert not await small.gets(100)
    await store.database.execute(_AGE, 1)
    assert await small.gets(100)


async def test_nobody_waits_for_what_the_limits_cannot_hold_in_its_time(store: Store) -> None:
    await limit(store, tokens_per_hour=1500)
    busy = await Driven.begin(store, least_tokens=600)
    await busy.spend(600)
    large, small = await Driven.begin(store), await Driven.begin(store)
    assert not await large.gets(1001)
    assert await small.gets(10), "more than a minute's limit"
    assert (await large.draw(950, patience=120.0)).retry_after
    assert await small.gets(10), "more than leaves the hour's window in its time"
    await limit(store, tokens_per_minute=10_000)
    assert (await large.draw(950)).retry_after
    assert await small.gets(10), "it will be there, but only in an hour"
    await limit(store, tokens_per_minute=1000)
    assert not await large.gets(850)
    assert not await small.gets(390), "what a minute frees is waited for"


async def test_whoever_has_held_room_for_long_lets_others_go_first(store: Store) -> None:
    busy = await Driven.begin(store, least_tokens=600)
    large, second = await Driven.begin(store), await Driven.begin(store)
    for _ in range(int(HOLD / 5) + 1):
        assert not await large.gets(700)
        assert not await second.gets(800)
        await store.database.execute(_AGE, 5)
    # Its time is over: it stands behind those who wait by now.
    assert not await second.gets(800)
    await busy.end()
    assert not await large.gets(700)
    assert await second.gets(800)
    await second.end()
    assert await large.gets(700)


async def test_a_job_that_has_what_it_needs_stands_in_nobody_s_way(store: Store) -> None:
    busy = await Driven.begin(store, least_tokens=600)
    large, small = await Driven.begin(store), await Driven.begin(store)
    assert not await large.gets(700)
    await busy.end()
    assert await large.gets(700)
    assert await small.gets(200)
    rows = await store.database.fetch("SELECT FROM job WHERE quota_lacks IS NOT NULL")
    assert rows == []


async def test_urgent_jobs_without_end_do_not_keep_an_old_one_out(store: Store) -> None:
    await limit(store, preset="unlimited", concurrent_jobs=1)
    running = await Driven.begin(store)
    now = datetime.now(UTC)
    ages = {"old": (500, -100), "urgent": (0, 100), "older": (470, -100)}
    waiting = {}
    for name, (age, priority) in ages.items():
        when = now - timedelta(seconds=age)
        job = job_of(waits=True, priority=priority, create_time=when)
        waiting[(await make(store, job)).job_id] = name
    order = []
    for _ in ages:
        await running.end()
        assert await store.quotas.queue.let_in() == 1
        [row] = await store.database.fetch(
            "SELECT id FROM job WHERE NOT sealed AND quota_state = 0"
        )
        order.append(waiting[row["id"]])
        job = replace(running.job, job_id=row["id"])
        running = Driven(store, job, await claim(store, job), 0)
    assert order == ["old", "urgent", "older"]


@dataclass
class Stream:
    """Small jobs without end beside large ones, of one tenant, in a time of ours."""

    stores: list[Store]
    dice: random.Random
    small: list[Driven] = field(default_factory=list)
    large: dict[int, Driven] = field(default_factory=dict)
    waited: dict[int, int] = field(default_factory=dict)
    served: int = 0

    async def come(self) -> None:
        """Another small one, if it is let in."""
        try:
            self.small.append(await Driven.begin(self.dice.choice(self.stores)))
        except QuotaExceeded:
            return

    async def go(self, job: Driven) -> None:
        """It draws, spends, and ends."""
        if not await job.gets(self.dice.randint(20, 200)):
            return
        await job.spend(self.dice.randint(0, job.drawn))
        await self._end(job)
        self.small.remove(job)
        self.served += 1

    async def look(self, most: int) -> None:
        """The large ones look; whoever gets it spends it all."""
        for lacks, job in list(self.large.items()):
            if await job.gets(lacks):
                await job.spend(job.drawn)
                await self._end(job)
                del self.large[lacks]
            else:
                self.waited[lacks] = self.waited.get(lacks, 0) + 5
                assert self.waited[lacks] <= most

    async def _end(self, job: Driven) -> None:
        end = Append(
            job.job.job_id,
            job.epoch,
            [decided(job.job.job_id)],
            JobSummary(job_pb2.JOB_STATE_SUCCEEDED),
            seal=True,
            expected_version=(await job.store.jobs.get(job.job.job_id)).version,
        )
        await job.store.log.append(end)


@pytest.mark.parametrize("seed", [1, 2])
async def test_large_jobs_get_through_a_stream_of_small_ones_within_a_window_each(
    open_replica: OpenStore, seed: int
) -> None:
    stores = [await open_replica(name, options=ONE_BY_ONE) for name in ("a", "b")]
    await limit(stores[0], tokens_per_minute=1000, concurrent_jobs=12)
    stream = Stream(stores, random.Random(seed))
    for lacks in (900, 600):
        stream.large[lacks] = await Driven.begin(stream.dice.choice(stores))
    step = 0
    while stream.large or step < 30:
        for _ in range(4):
            await stream.come()
        for job in stream.dice.sample(stream.small, len(stream.small)):
            await stream.go(job)
        await check_windows(stores[0])
        if step >= 3:  # the window is full by now
            await stream.look(most=180)
        await stores[0].database.execute(_AGE, 5.0)
        step += 1
    assert stream.served > 8
    await check_windows(stores[1])


async def test_a_large_job_that_waits_alone_does_not_keep_newcomers_out_for_ever(
    store: Store,
) -> None:
    await Driven.begin(store, least_tokens=600)  # and it does not end
    large = await Driven.begin(store)
    let_in = 0
    for _ in range(int(3 * HOLD / 5)):
        assert not await large.gets(700)
        newcomer = job_of(least_tokens=100)
        try:
            await store.jobs.create(newcomer, created(newcomer))
        except QuotaExceeded:
            pass
        else:
            let_in += 1
            await seal(store, newcomer.job_id, await claim(store, newcomer))
        await store.database.execute(_AGE, 5)
    assert let_in > HOLD / 10, "for as long as room is kept, it is not kept"


async def test_a_job_for_which_no_room_was_kept_meanwhile_has_all_its_time(store: Store) -> None:
    busy = await Driven.begin(store, least_tokens=600)
    large, second = await Driven.begin(store), await Driven.begin(store)
    assert not await large.gets(700)
    await store.database.execute(_AGE, HOLD)  # its own calls gave it what it needed
    assert not await second.gets(800)
    assert not await large.gets(700)
    await busy.end()
    assert not await second.gets(800)
    assert await large.gets(700)
