"""How work grows with its input, told without a limit in seconds."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_TIMES = 8
_SLACK = 3
_TRIES = 3


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Fails when eight times the input is far more than eight times the work.

    The CPU time of both is compared, never held against a limit: a slow machine is slow at
    both. Work by the square would be 64 times as much, 24 times is let pass. What else
    happens on the machine only adds, so the least of some tries counts.

    Args:
        work: Called with a size; does what is asked about, and nothing else.
        size: So large that a call takes milliseconds, not its fixed costs.
    """
    work(size)  # fills caches
    small, large = float("inf"), float("inf")
    for _ in range(_TRIES):
        small = min(small, _cpu_time(work, size))
        large = min(large, _cpu_time(work, _TIMES * size))
        if large <= _SLACK * _TIMES * small:
            return
    raise AssertionError(f"{_TIMES} times the input was {large / small:.0f} times the work")


def _cpu_time(work: Callable[[int], object], size: int) -> float:
    # A collection goes through all that other tests have left behind.
    gc.collect()
    gc.disable()
    try:
        begin = time.thread_time()
        work(size)
        return time.thread_time() - begin
    finally:
        gc.enable()


def count_calls(work: Callable[[], object], most: int) -> int:
    """Calls of functions that `work` makes: the same number on every machine.

    Raises:
        AssertionError: There are more than `most`; the work is not done to its end.
    """
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1
            if calls > most:
                raise AssertionError(f"more than {most} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
