"""Work that a stop ends at once."""

from __future__ import annotations

import asyncio

import pytest

from hma.stopping import unless


async def test_work_that_is_done_first_brings_its_result() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await unless(asyncio.Event(), work()) == "done"


async def test_a_stop_cancels_the_work() -> None:
    stop, ended = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    running = asyncio.create_task(unless(stop, work()))
    await asyncio.sleep(0)
    stop.set()
    assert await running is None
    assert ended.is_set()


async def test_after_a_stop_the_work_is_not_begun() -> None:
    stop = asyncio.Event()
    stop.set()

    async def work() -> str:
        raise AssertionError("begun")

    assert await unless(stop, work()) is None


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> str:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await unless(asyncio.Event(), work())


async def test_cancelling_the_waiting_cancels_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    running = asyncio.create_task(unless(asyncio.Event(), work()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
