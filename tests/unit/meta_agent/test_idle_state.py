"""What nobody asks about is dropped after a while, and the count is logged."""

from __future__ import annotations

import asyncio
import logging

import pytest

from services.meta_agent.upkeep.idle import IdleState


class Memory:
    """Says how many it dropped, as a cache does."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []
        self.often = asyncio.Event()

    def forget_idle(self, idle: float) -> int:
        self.asked.append(idle)
        if len(self.asked) == 3:
            self.often.set()
        return self.answers.pop(0) if self.answers else 0


async def test_every_memory_is_asked_again_and_again() -> None:
    one, other = Memory(), Memory()
    state = IdleState({"one": one.forget_idle, "other": other.forget_idle}, idle=0.02)
    running = asyncio.create_task(state.run())
    await asyncio.wait_for(other.often.wait(), 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert set(one.asked) == {0.02}


def test_what_was_dropped_is_logged_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(3, 0)
    state = IdleState({"jobs_read": memory.forget_idle}, idle=60)
    with caplog.at_level(logging.INFO):
        assert state.drop() == {"jobs_read": 3}
        assert state.drop() == {"jobs_read": 0}
    [record] = caplog.records
    assert record.__dict__["jobs_read"] == 3
