"""When a failed call is tried again: a policy as data, tenacity does the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_incrementing, wait_random

from hma.errors import CallFailed
from hma.llm.failures import is_retryable
from hma.llm.settings import RetryPolicy


def retrying(
    policy: RetryPolicy,
    *,
    stop: asyncio.Event,
    time_left: Callable[[], float],
    may_retry: Callable[[CallFailed], bool] = is_retryable,
) -> AsyncRetrying:
    """Tenacity, set up for the calls of one attempt.

    Only transient and rate-limited failures are tried again, never before the moment
    that the server named, and never when the wait would outlast the attempt: then
    the failure is raised at once, with its `retry_after`.

    Args:
        policy: How often and how fast.
        stop: Ends a wait early.
        time_left: Seconds until the attempt must have ended.
        may_retry: Whether a failure is worth another try.
    """
    backoff = _backoff(policy)
    jitter = wait_random(0, policy.initial)

    def wait(state: RetryCallState) -> float:
        named = _failure(state).retry_after
        own = min(backoff(state) + jitter(state), policy.longest)
        return own if named is None else max(own, named + jitter(state))

    def enough(state: RetryCallState) -> bool:
        if stop_after_attempt(policy.tries)(state):
            return True
        return state.upcoming_sleep >= time_left()

    async def sleep(seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return

    return AsyncRetrying(
        sleep=sleep,
        stop=enough,
        wait=wait,
        retry=retry_if_exception(lambda error: isinstance(error, CallFailed) and may_retry(error)),
        reraise=True,
    )


def _backoff(policy: RetryPolicy) -> Callable[[RetryCallState], float]:
    if policy.backoff == "linear":
        return wait_incrementing(policy.initial, policy.initial, policy.longest)
    return wait_exponential(multiplier=policy.initial, max=policy.longest)


def _failure(state: RetryCallState) -> CallFailed:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, CallFailed):
        raise TypeError("only failed calls are waited for")
    return error
