"""When keys were used: seldom written, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from hma.errors import Unavailable
from services.meta_agent.access.last_use import LastUse

NOW = datetime(2026, 11, 25, tzinfo=UTC)


class Written:
    def __init__(self) -> None:
        self.lots: list[dict[str, datetime]] = []
        self.away = False
        self.tries = 0

    async def write(self, times: Mapping[str, datetime]) -> None:
        self.tries += 1
        if self.away:
            raise Unavailable("away")
        self.lots.append(dict(times))

    async def until(self, lots: int) -> None:
        async with asyncio.timeout(30):
            while len(self.lots) < lots:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_many_uses_are_one_row_of_one_statement() -> None:
    written = Written()
    uses = LastUse(written.write, first=0.02, interval=60)
    for second in range(100):
        uses.note("a", NOW + timedelta(seconds=second))
        uses.note("b", NOW)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(uses.run())
        await written.until(1)
        uses.note("a", NOW + timedelta(hours=1))
        uses.note("c", NOW)
        await written.until(2)
        task.cancel()
    assert written.lots == [{"a": NOW + timedelta(seconds=99), "b": NOW}, {"c": NOW}]


async def test_a_key_is_written_again_after_the_interval() -> None:
    written = Written()
    uses = LastUse(written.write, first=0.01, interval=0.05)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(uses.run())
        uses.note("a", NOW)
        await written.until(1)
        uses.note("a", NOW + timedelta(seconds=1))
        await written.until(2)
        task.cancel()


async def test_what_could_not_be_written_is_tried_again() -> None:
    written = Written()
    written.away = True
    uses = LastUse(written.write, first=0.01)
    uses.note("a", NOW)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(uses.run())
        async with asyncio.timeout(30):
            while written.tries < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        written.away = False
        await written.until(1)
        task.cancel()
    assert written.lots == [{"a": NOW}]


async def test_no_more_keys_are_remembered_than_it_may() -> None:
    written = Written()
    uses = LastUse(written.write, first=0.01, most=3)
    for name in "abcde":
        uses.note(name, NOW)
    uses.note("a", NOW + timedelta(seconds=1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(uses.run())
        await written.until(1)
        task.cancel()
    assert written.lots == [{"a": NOW + timedelta(seconds=1), "b": NOW, "c": NOW}]
