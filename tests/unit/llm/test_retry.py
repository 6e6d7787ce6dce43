from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.errors import CallFailed
from hma.llm.retry import retrying
from hma.llm.settings import RetryPolicy
from hma.v1 import common_pb2

TRANSIENT = common_pb2.FAILURE_CLASS_TRANSIENT


def waits(policy: RetryPolicy, failures: list[CallFailed], seconds: float = 1e9) -> list[float]:
    """The waits between tries of a call that fails with these failures in turn."""
    taken: list[float] = []
    script = iter(failures)

    async def call() -> None:
        raise next(script)

    async def sleep(wait: float) -> None:
        taken.append(wait)

    async def run() -> None:
        again = retrying(policy, stop=asyncio.Event(), time_left=lambda: seconds - sum(taken))
        with pytest.raises(CallFailed):
            await again.copy(sleep=sleep)(call)

    asyncio.run(run())
    return taken


def transient(retry_after: float | None = None) -> CallFailed:
    return CallFailed("", TRANSIENT, retry_after=retry_after)


@given(
    backoff=st.sampled_from(["exponential", "linear"]),
    initial=st.floats(0, 5),
    longest=st.floats(0, 20),
    tries=st.integers(1, 6),
    named=st.lists(st.none() | st.floats(0, 100), min_size=6, max_size=6),
    seconds=st.floats(0, 200),
)
def test_waits_are_bounded_and_never_shorter_than_named(
    backoff: str,
    initial: float,
    longest: float,
    tries: int,
    named: list[float | None],
    seconds: float,
) -> None:
    policy = RetryPolicy(tries, backoff, initial, longest)
    taken = waits(policy, [transient(wait) for wait in named], seconds)
    assert len(taken) < tries
    assert sum(taken) <= seconds
    for wait, asked in zip(taken, named, strict=False):
        assert wait >= (asked or 0)
        assert wait <= max(longest, (asked or 0) + initial)


@pytest.mark.parametrize(
    ("backoff", "expected"), [("exponential", [1, 2, 4, 8, 10]), ("linear", [1, 2, 3, 4, 5])]
)
def test_waits_grow_as_set_and_are_jittered(backoff: str, expected: list[float]) -> None:
    policy = RetryPolicy(6, backoff, 1.0, 10.0)
    taken = waits(policy, [transient() for _ in range(6)])
    for wait, least in zip(taken, expected, strict=True):
        assert least <= wait <= least + 1
    assert taken != waits(policy, [transient() for _ in range(6)])


@pytest.mark.parametrize(
    "failure_class",
    [
        number
        for number in common_pb2.FailureClass.values()
        if number not in (TRANSIENT, common_pb2.FAILURE_CLASS_RATE_LIMITED)
    ],
)
def test_other_classes_are_not_tried_again(
    failure_class: common_pb2.FailureClass.ValueType,
) -> None:
    assert waits(RetryPolicy(), [CallFailed("", failure_class)]) == []


async def test_a_stop_ends_the_wait() -> None:
    stop = asyncio.Event()
    policy = RetryPolicy(2, "exponential", 3600.0, 3600.0)
    tries = 0

    async def call() -> None:
        nonlocal tries
        tries += 1
        stop.set()
        raise transient()

    async with asyncio.timeout(30):
        with pytest.raises(CallFailed):
            await retrying(policy, stop=stop, time_left=lambda: 10_000.0)(call)
    assert tries == 2
