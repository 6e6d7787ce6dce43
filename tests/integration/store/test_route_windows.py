"""Routes with limits: exact over replicas, whoever asks."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from services.meta_agent.store.route_room import HEAD_START, SPAN, RouteLimits
from services.meta_agent.store.route_windows import ASK_AGAIN, KEPT, LEASE
from services.meta_agent.store.store import Store
from tests.integration.store.conftest import OpenStore

_AGE = """
WITH waiters AS (
    UPDATE route_waiter SET ask_time = ask_time - $1::float8 * interval '1 second',
                            turn = turn - $1::float8 * interval '1 second'
)
UPDATE route_call SET begin_time = begin_time - $1::float8 * interval '1 second'
"""
_USE = """
SELECT count(*) AS calls, coalesce(sum(tokens), 0) AS tokens FROM route_call
WHERE begin_time > clock_timestamp() - interval '60 seconds'
"""


async def test_a_full_window_says_when_enough_has_left_it(store: Store) -> None:
    limits = RouteLimits(requests=3, tokens=1000)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 600, limits)).granted
    await store.database.execute(_AGE, 40)
    assert (await windows.reserve("r", "b", 300, limits)).granted
    for age, earliest in ((0, ASK_AGAIN), (20 - ASK_AGAIN, ASK_AGAIN), (1, 1), (0.5, 0.5)):
        await store.database.execute(_AGE, age)
        full = await windows.reserve("r", "c", 200, limits)
        assert not full.granted
        assert full.retry_after is not None
        assert earliest - 0.4 < full.retry_after <= earliest + 0.1
    await store.database.execute(_AGE, 20.5)
    assert (await windows.reserve("r", "c", 200, limits)).granted


async def test_what_a_call_took_replaces_what_it_could_have_taken(store: Store) -> None:
    limits = RouteLimits(tokens=1000)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 900, limits)).granted
    assert not (await windows.reserve("r", "b", 200, limits)).granted
    await windows.settle("r", "a", 150)
    assert (await windows.reserve("r", "b", 850, limits)).granted
    assert not (await windows.reserve("r", "c", 1, limits)).granted


async def test_the_same_call_takes_room_once_and_routes_are_apart(store: Store) -> None:
    limits = RouteLimits(requests=1)
    windows = store.route_windows
    for _ in range(3):
        assert (await windows.reserve("r", "a", 5, limits)).granted
    assert not (await windows.reserve("r", "b", 5, limits)).granted
    assert (await windows.reserve("other", "b", 5, limits)).granted


async def test_a_call_that_no_window_can_hold_is_told_so(store: Store) -> None:
    room = await store.route_windows.reserve("r", "a", 11, RouteLimits(tokens=10))
    assert (room.granted, room.retry_after) == (False, None)


async def test_callers_at_three_replicas_never_exceed_a_route(open_replica: OpenStore) -> None:
    stores = [await open_replica(name) for name in ("a", "b", "c")]
    dice = random.Random(3)
    limits = RouteLimits(requests=25, tokens=5000)
    granted = 0

    async def call(number: int) -> None:
        nonlocal granted
        windows = dice.choice(stores).route_windows
        name, most = f"c{number}", dice.randint(1, 500)
        if (await windows.reserve("r", name, most, limits)).granted:
            granted += 1
            if dice.random() < 0.7:
                await windows.settle("r", name, dice.randint(0, most))
        use = await stores[0].database.fetchrow(_USE)
        assert use is not None
        assert use["calls"] <= 25
        assert use["tokens"] <= 5000

    await asyncio.gather(*(call(number) for number in range(120)))
    assert 10 < granted <= 25


async def test_of_callers_that_ask_at_the_same_moment_one_gets_the_last_place(
    open_replica: OpenStore,
) -> None:
    stores = [await open_replica(name) for name in ("a", "b", "c")]
    limits = RouteLimits(requests=1)
    for round_ in range(30):
        route = f"r{round_}"
        rooms = await asyncio.gather(
            *(
                store.route_windows.reserve(route, f"c{n}", 1, limits)
                for n, store in enumerate(stores)
            )
        )
        assert sum(room.granted for room in rooms) == 1


async def test_nobody_passes_a_large_call_that_waits_unless_both_have_room(store: Store) -> None:
    limits = RouteLimits(tokens=1000)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 500, limits)).granted
    assert not (await windows.reserve("r", "large", 700, limits)).granted
    assert not (await windows.reserve("r", "small", 100, limits)).granted
    await windows.settle("r", "a", 300)  # room for the large one, which asks later
    assert not (await windows.reserve("r", "small", 100, limits)).granted
    await windows.settle("r", "a", 200)
    assert (await windows.reserve("r", "small", 100, limits)).granted
    assert (await windows.reserve("r", "large", 700, limits)).granted


async def test_a_limit_of_requests_is_kept_for_who_came_first(store: Store) -> None:
    limits = RouteLimits(requests=2)
    windows = store.route_windows
    for name in ("a", "b"):
        assert (await windows.reserve("r", name, 1, limits)).granted
    for name in ("first", "second", "third"):
        assert not (await windows.reserve("r", name, 1, limits)).granted
    await store.database.execute("DELETE FROM route_call WHERE call_id = 'a'")
    granted = [
        name
        for name in ("new", "third", "second", "first")
        if (await windows.reserve("r", name, 1, limits)).granted
    ]
    assert granted == ["first"]


async def test_who_asks_no_more_keeps_nobody_waiting_and_comes_back_to_its_place(
    store: Store,
) -> None:
    limits = RouteLimits(tokens=1000)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 900, limits)).granted
    for name in ("dead", "slow", "small"):
        assert not (await windows.reserve("r", name, 1000, limits)).granted
    await store.database.execute(_AGE, LEASE)
    assert (await windows.reserve("r", "small", 100, limits)).granted
    # The window may be full, but the line is as it was.
    assert not (await windows.reserve("r", "slow", 1000, limits)).granted
    assert not (await windows.reserve("r", "small2", 0, limits)).granted
    await store.database.execute(_AGE, KEPT)
    assert (await windows.reserve("r", "small2", 0, limits)).granted
    rows = await store.database.fetch("SELECT call_id FROM route_waiter")
    assert rows == []


async def test_who_leaves_the_line_keeps_nobody_waiting(store: Store) -> None:
    limits = RouteLimits(tokens=1000)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 900, limits)).granted
    assert not (await windows.reserve("r", "large", 1000, limits)).granted
    assert not (await windows.reserve("r", "small", 100, limits)).granted
    await windows.settle("r", "large", 0)
    assert (await windows.reserve("r", "small", 100, limits)).granted


@pytest.mark.parametrize(
    ("waited", "first"), [(0, "answer"), (2 * HEAD_START - 5, "answer"), (2 * HEAD_START, "work")]
)
async def test_answers_go_before_work_that_has_not_waited_for_long(
    store: Store, waited: int, first: str
) -> None:
    limits = RouteLimits(requests=1)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 1, limits)).granted
    calls = (("plan", -1), ("work", 0), ("answer", -2))
    for name, priority in calls:
        assert not (await windows.reserve("r", name, 1, limits, priority)).granted
    await store.database.execute(
        "UPDATE route_waiter SET turn = turn - $1::int * interval '1 second' "
        "WHERE call_id = 'work'",
        waited,
    )
    await store.database.execute("DELETE FROM route_call")
    granted = [
        name
        for name, priority in calls
        if (await windows.reserve("r", name, 1, limits, priority)).granted
    ]
    assert granted == [first]


async def test_only_so_many_stand_in_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.meta_agent.store.route_windows.MOST_WAITING", 2)
    limits = RouteLimits(requests=1)
    for name in "abcde":
        await store.route_windows.reserve("r", name, 1, limits)
    rows = await store.database.fetch("SELECT call_id FROM route_waiter ORDER BY place")
    assert [row["call_id"] for row in rows] == ["b", "c"]


STEP = LEASE - 3.0
"""Seconds between two questions of a caller: slower than it should, in time all the same."""

MOST_CALLERS = 14


@dataclass
class Callers:
    """Small calls without end and some large ones, on several replicas, in a time of ours.

    Attributes:
        stores: Of the replicas.
        limits: Of the route.
        dice: Decides who asks where, in which order, how much, and who dies.
        waiting: Tokens of the calls that ask, by name.
        waited: Seconds for which the large ones have asked.
    """

    stores: list[Store]
    limits: RouteLimits
    dice: random.Random
    waiting: dict[str, int] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)
    granted: int = 0

    async def ask(self, name: str) -> None:
        windows, most = self.dice.choice(self.stores).route_windows, self.waiting[name]
        if (await windows.reserve("r", name, most, self.limits)).granted:
            del self.waiting[name]
            self.granted += 1
            if self.dice.random() < 0.5:
                await windows.settle("r", name, self.dice.randint(0, most))
        use = await self.stores[0].database.fetchrow(_USE)
        assert use is not None
        assert use["calls"] <= self.limits.requests
        assert use["tokens"] <= self.limits.tokens

    async def round(self, number: int) -> None:
        """A moment: more small calls come, all ask, some at once and one of them no more."""
        while len(self.waiting) < MOST_CALLERS:
            self.waiting[f"s{number}.{len(self.waiting)}"] = self.dice.randint(30, 120)
        names = list(self.waiting)
        self.dice.shuffle(names)
        await asyncio.gather(*(self.ask(name) for name in names[:4]))
        for name in names[4:]:
            await self.ask(name)
        small = [name for name in self.waiting if name.startswith("s")]
        if small and self.dice.random() < 0.3:
            del self.waiting[self.dice.choice(small)]
        for name in self.waiting:
            if name.startswith("large"):
                self.waited[name] = self.waited.get(name, 0.0) + STEP


@pytest.mark.parametrize("seed", [1, 2])
async def test_large_calls_get_through_a_stream_of_small_ones_within_a_window_each(
    open_replica: OpenStore, seed: int
) -> None:
    stores = [await open_replica(name) for name in ("a", "b", "c")]
    callers = Callers(stores, RouteLimits(requests=40, tokens=1000), random.Random(seed))
    for number in range(3):
        await callers.round(number)
        await stores[0].database.execute(_AGE, STEP)
    assert callers.waiting  # the window is full
    callers.waiting |= {"large1": 1000, "large2": 700}
    number = 3
    while any(name.startswith("large") for name in callers.waiting):
        await callers.round(number)
        await stores[0].database.execute(_AGE, STEP)
        number += 1
        assert all(waited <= 4 * SPAN for waited in callers.waited.values()), callers.waited
    before = callers.granted
    for more in range(number, number + int(SPAN / STEP) + 2):
        await callers.round(more)
        await stores[0].database.execute(_AGE, STEP)
    assert callers.granted > before  # and the small ones go on
