"""Calls on routes with limits of their own: services ask the MetaAgent, and keep to its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import grpc
import pytest

from hma.errors import CallFailed
from hma.llm.budgeted import BudgetedLLM
from hma.llm.routes import Routes
from hma.rpc.channel import open_channel
from hma.rpc.route_windows import RouteWindows
from hma.v1 import attempt_pb2, meta_agent_pb2_grpc
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.edge.internal_servicer import InternalServicer
from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.store import Store, open_store
from tests.integration.llm.attempts import Bench, GrantedAttempt, total
from tests.integration.llm.test_budgeted import PROMPT
from tests.integration.rpc.support import until
from tests.integration.store.making import until as eventually
from tests.scripted_llm import ScriptedLLM

_LINE = "SELECT place FROM route_waiter ORDER BY turn, place"

WORK = attempt_pb2.CALL_PURPOSE_WORK


def limited(routes: Routes, **limits: int) -> Routes:
    return Routes(
        {name: replace(route, **limits) for name, route in routes.items()},  # type: ignore[arg-type]
        routes.default.name,
        routes.retry,
    )


@contextlib.asynccontextmanager
async def serving(store: Store, routes: Routes) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a MetaAgent that knows these routes."""
    server = grpc.aio.server()
    servicer = InternalServicer(store, Rules(routes=routes), ProgressBoard())
    meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    async with open_store(
        postgres_url, replica_id=new_replica_id("r"), address="127.0.0.1:1"
    ) as opened:
        yield opened


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with ScriptedLLM() as server, Bench(server) as made:
        yield made


async def test_a_call_takes_room_and_says_what_it_took(store: Store, bench: Bench) -> None:
    routes = limited(bench.routes, tokens_per_minute=100_000)
    async with serving(store, routes) as channel:
        attempt = GrantedAttempt()
        llm = BudgetedLLM(bench.llm, routes, attempt, RouteWindows(channel))
        await llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
    [row] = await store.database.fetch("SELECT route, tokens FROM route_call")
    assert (row["route"], row["tokens"]) == ("fast", total(attempt.calls[0].usage))


async def test_calls_wait_for_room_and_the_server_sees_no_more_than_the_limit(
    store: Store, bench: Bench
) -> None:
    routes = limited(bench.routes, requests_per_minute=2)
    async with serving(store, routes) as channel:
        windows = RouteWindows(channel)

        async def one() -> None:
            llm = BudgetedLLM(bench.llm, routes, GrantedAttempt(), windows)
            await llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(3)]
            await until(lambda: sum(task.done() for task in tasks) == 2)
            assert len(bench.server.calls) == 2
            next(task for task in tasks if not task.done()).cancel()


async def test_who_is_stopped_while_it_waits_has_spent_nothing(store: Store, bench: Bench) -> None:
    routes = limited(bench.routes, requests_per_minute=1)
    async with serving(store, routes) as channel:
        windows = RouteWindows(channel)
        first = BudgetedLLM(bench.llm, routes, GrantedAttempt(), windows)
        await first.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
        attempt = GrantedAttempt()
        second = BudgetedLLM(bench.llm, routes, attempt, windows)
        waiting = asyncio.create_task(
            second.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
        )
        await until(lambda: "waiting for the route's limit" in attempt.phases)
        attempt.stop.set()
        completion = await waiting
    assert (completion.text, completion.finish_reason) == ("", "abort")
    assert attempt.most == 0
    # Nor does anybody wait behind it any more.
    assert await store.database.fetch("SELECT * FROM route_waiter") == []
    assert len(bench.server.calls) == 1


async def test_a_call_stands_in_line_with_its_attempt_s_priority(
    store: Store, bench: Bench
) -> None:
    routes = limited(bench.routes, requests_per_minute=1)
    async with serving(store, routes) as channel, asyncio.TaskGroup() as group:
        windows = RouteWindows(channel)
        first = BudgetedLLM(bench.llm, routes, GrantedAttempt(), windows)
        await first.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
        attempts = [GrantedAttempt(priority=priority) for priority in (0, -2)]
        places: list[int] = []

        async def stand(number: int) -> bool:
            places[:] = [row["place"] for row in await store.database.fetch(_LINE)]
            return len(places) == number

        for number, attempt in enumerate(attempts):
            llm = BudgetedLLM(bench.llm, routes, attempt, windows)
            group.create_task(
                llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
            )
            await eventually(partial(stand, number + 1))
        assert places == sorted(places, reverse=True), "who came later stands before"
        for attempt in attempts:
            attempt.stop.set()


async def test_a_call_larger_than_the_limit_fails_at_once(store: Store, bench: Bench) -> None:
    routes = limited(bench.routes, tokens_per_minute=5)
    async with serving(store, routes) as channel:
        llm = BudgetedLLM(bench.llm, routes, GrantedAttempt(), RouteWindows(channel))
        with pytest.raises(CallFailed, match="has a limit that is less"):
            await llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
    assert bench.server.calls == []


async def test_routes_without_limits_ask_nobody(bench: Bench) -> None:
    async with open_channel("127.0.0.1:1") as nowhere:
        llm = BudgetedLLM(bench.llm, bench.routes, GrantedAttempt(), RouteWindows(nowhere))
        await llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
    assert len(bench.server.calls) == 1
