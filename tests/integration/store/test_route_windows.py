"""Routes with limits: exact over replicas, whoever asks."""

from __future__ import annotations

import asyncio
import random

from services.meta_agent.store.route_windows import SPAN, RouteLimits
from services.meta_agent.store.store import Store
from tests.integration.store.conftest import OpenStore

_AGE = "UPDATE route_call SET begin_time = begin_time - $1::int * interval '1 second'"
_USE = """
SELECT count(*) AS calls, coalesce(sum(tokens), 0) AS tokens FROM route_call
WHERE begin_time > clock_timestamp() - interval '60 seconds'
"""


async def test_a_full_window_says_when_enough_has_left_it(store: Store) -> None:
    limits = RouteLimits(requests=3, tokens=1000)
    windows = store.route_windows
    assert (await windows.reserve("r", "a", 600, limits)).granted
    await store.database.execute(_AGE, 20)
    assert (await windows.reserve("r", "b", 300, limits)).granted
    full = await windows.reserve("r", "c", 200, limits)
    assert not full.granted
    assert full.retry_after is not None
    assert SPAN - 22 < full.retry_after <= SPAN - 20 + 0.1
    both = await windows.reserve("r", "c", 750, limits)
    assert both.retry_after is not None
    assert both.retry_after > SPAN - 5
    await store.database.execute(_AGE, 41)
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
