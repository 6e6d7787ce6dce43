"""Keys in memory: how old, how many, and how often the database is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from hma.errors import Unavailable
from services.meta_agent.access.key_cache import LIFETIME, KeyCache
from services.meta_agent.store.keys import KeyRow
from tests.unit.access.test_credentials import ROW


class Table:
    """A table of keys that says when it was asked, and answers when it is let."""

    def __init__(self) -> None:
        self.rows: dict[str, KeyRow] = {"a": replace(ROW, key_id="a")}
        self.asked: list[list[str]] = []
        self.now = 100.0
        self.open = asyncio.Event()
        self.open.set()
        self.away = False

    async def read(self, key_ids: Sequence[str]) -> Mapping[str, KeyRow]:
        self.asked.append(list(key_ids))
        found = {key_id: self.rows[key_id] for key_id in key_ids if key_id in self.rows}
        await self.open.wait()
        if self.away:
            raise Unavailable("away")
        return found

    def clock(self) -> float:
        return self.now


async def until_asked(table: Table, times: int) -> None:
    async with asyncio.timeout(30):
        while len(table.asked) < times:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_key_is_read_once_for_its_lifetime() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        for _ in range(3):
            assert await cache.find("a") == table.rows["a"]
            assert await cache.find("nobody") is None
        assert table.asked == [["a"], ["nobody"]]
        table.now += LIFETIME
        table.rows.clear()
        assert await cache.find("a") is None


async def test_nothing_older_than_its_lifetime_counts_while_the_database_is_away() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        await cache.find("a")
        table.away = True
        table.now += LIFETIME - 0.01
        assert await cache.find("a") == table.rows["a"]
        table.now += 0.02
        with pytest.raises(Unavailable):
            await cache.find("a")
        table.away = False
        assert await cache.find("a") == table.rows["a"]


async def test_the_lifetime_counts_from_the_question_not_from_the_answer() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        table.open.clear()
        first = asyncio.create_task(cache.find("a"))
        await until_asked(table, 1)
        table.now += LIFETIME
        table.open.set()
        await first
        await cache.find("a")
        assert table.asked == [["a"], ["a"]]


async def test_a_key_in_use_is_renewed_before_it_is_too_old() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        await cache.find("a")
        table.now += 1.5
        assert await cache.find("a") == table.rows["a"]
        await until_asked(table, 2)
        await asyncio.sleep(0)
        table.now += 1.5
        assert await cache.find("a") == table.rows["a"]


async def test_a_change_counts_at_once() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        await cache.find("a")
        await cache.find("new")
        table.rows["a"] = replace(ROW, key_id="a", note="changed")
        table.rows["new"] = replace(ROW, key_id="new")
        cache.forget("a")
        cache.forget("new")
        assert await cache.find("a") == table.rows["a"]
        assert await cache.find("new") == table.rows["new"]


async def test_an_answer_from_before_a_change_is_not_kept() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        table.open.clear()
        asking = [asyncio.create_task(cache.find("a")) for _ in range(2)]
        await until_asked(table, 1)
        table.rows["a"] = replace(ROW, key_id="a", note="changed")
        cache.forget("a")
        later = asyncio.create_task(cache.find("a"))
        await asyncio.sleep(0)
        table.open.set()
        found = await asyncio.wait_for(asyncio.gather(*asking, later), 30)
        assert {row.note if row else None for row in found} == {"changed"}
        assert table.asked == [["a"], ["a"]]


async def test_a_flood_of_unknown_keys_is_a_few_statements() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock, most=50) as cache:
        await cache.find("a")
        table.open.clear()
        flood = [asyncio.create_task(cache.find(f"n{i % 300}")) for i in range(900)]
        await until_asked(table, 2)
        table.open.set()
        assert set(await asyncio.wait_for(asyncio.gather(*flood), 30)) == {None}
        assert len(table.asked) <= 4
        # It has not driven out what is a key.
        asked = len(table.asked)
        assert await cache.find("a") is not None
        assert len(table.asked) == asked


async def test_what_waits_is_bounded() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock, most_waiting=5) as cache:
        table.open.clear()
        first = asyncio.create_task(cache.find("n0"))
        await until_asked(table, 1)
        waiting = [asyncio.create_task(cache.find(f"n{i}")) for i in range(1, 6)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as full:
            await cache.find("one more")
        assert full.value.reason == "TOO_MANY_KEYS"
        table.open.set()
        await asyncio.wait_for(asyncio.gather(first, *waiting), 30)


async def test_who_stops_waiting_takes_nothing_from_the_others() -> None:
    table = Table()
    async with KeyCache(table.read, clock=table.clock) as cache:
        table.open.clear()
        leaving, staying = (asyncio.create_task(cache.find("a")) for _ in range(2))
        await until_asked(table, 1)
        leaving.cancel()
        await asyncio.sleep(0)
        table.open.set()
        assert await asyncio.wait_for(staying, 30) == table.rows["a"]


async def test_a_defect_in_reading_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    failing = True

    async def read(key_ids: Sequence[str]) -> Mapping[str, KeyRow]:
        if failing:
            raise RuntimeError("a defect")
        return await table.read(key_ids)

    async with KeyCache(read, clock=table.clock) as cache:
        with pytest.raises(Unavailable):
            await cache.find("a")
        failing = False
        assert await cache.find("a") == table.rows["a"]
    assert "keys could not be read" in caplog.text
