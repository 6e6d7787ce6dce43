"""Work that ends at once when a stop is asked for, because losing it costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None when `stop` is set first, and then it is cancelled.

    Only for work that costs no tokens: a running LLM call has an end of its own, which
    brings back what it cost.

    Args:
        stop: Ends the work; set before, the work is not begun.
        work: Returns something else than None.
    """
    if stop.is_set():
        work.close()
        return None
    working = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopped.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)
