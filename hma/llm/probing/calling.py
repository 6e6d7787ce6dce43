"""Calls within the probe's budget, and how their streams looked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hma.errors import CallFailed
from hma.llm.base import (
    LLM,
    CallOptions,
    CallRefused,
    Chunk,
    ChunkStream,
    Completion,
    Prompt,
    Readiness,
    TokenCount,
)
from hma.llm.budgeted import BudgetedLLM
from hma.llm.probing.purse import ProbeAttempt, Purse
from hma.llm.routes import Route, Routes
from hma.llm.settings import RetryPolicy
from hma.v1 import attempt_pb2, common_pb2

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Record:
    """How a call's stream looked.

    Attributes:
        sent: When it was sent, by the monotonic clock.
        first: When its first token came; 0: none did.
        last: When its last chunk came.
        chunks: All of it.
    """

    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Called:
    """A call that has ended well.

    Attributes:
        completion: What it gave.
        record: How its stream looked.
    """

    completion: Completion
    record: Record

    @property
    def usage(self) -> common_pb2.Usage:
        """What it cost."""
        return self.completion.usage

    @property
    def exact(self) -> bool:
        """Whether the server said what it cost."""
        return self.usage.accuracy == common_pb2.ACCURACY_EXACT


class _RecordedStream:
    def __init__(self, stream: ChunkStream, record: Record) -> None:
        self._stream, self._record = stream, record

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for chunk in self._stream:
            self._record.last = time.monotonic()
            if chunk.text or chunk.reasoning or chunk.tool_calls:
                self._record.first = self._record.first or self._record.last
            self._record.chunks.append(chunk)
            yield chunk

    def cut(self) -> None:
        self._stream.cut()

    @property
    def settled(self) -> bool:
        return self._stream.settled


class _Recorder:
    """A provider that remembers the stream of its last try."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self.record = Record()

    async def count_tokens(self, route: Route, prompt: Prompt, *, think: bool) -> TokenCount:
        return await self._llm.count_tokens(route, prompt, think=think)

    @asynccontextmanager
    async def stream(
        self, route: Route, prompt: Prompt, options: CallOptions
    ) -> AsyncIterator[ChunkStream]:
        self.record = Record(sent=time.monotonic())
        async with self._llm.stream(route, prompt, options) as stream:
            yield _RecordedStream(stream, self.record)

    async def readiness(self, route: Route) -> Readiness:
        return await self._llm.readiness(route)


class Caller:
    """Makes the probe's calls.

    Attributes:
        route: The route, with what has been found of its profile so far.
        purse: Pays.
        concurrency: Most calls at once.
        model: As the server names it; empty until it has said so.

    Args:
        llm: The provider.
        route: As it is configured.
        purse: Pays.
        retry: How failed calls are tried again.
        concurrency: Most calls at once.
    """

    def __init__(
        self, llm: LLM, route: Route, purse: Purse, retry: RetryPolicy, concurrency: int
    ) -> None:
        self.route = route
        self.purse = purse
        self.concurrency = concurrency
        self.model = ""
        self._llm = llm
        self._retry = retry

    def learn(self, **profile: Any) -> None:
        """Notes what was found of the profile; later calls go by it."""
        self.route = self.variant(**profile)

    def variant(self, *, reasoning: bool | None = None, **profile: Any) -> Route:
        """The route with other fields of its profile, or told to reason."""
        route = replace(self.route, profile=replace(self.route.profile, **profile))
        return route if reasoning is None else replace(route, reasoning=reasoning)

    async def count(self, prompt: Prompt, route: Route, *, think: bool = False) -> TokenCount:
        """The size of a prompt; costs no tokens."""
        return await self._llm.count_tokens(route, prompt.normalized(), think=think)

    async def call(
        self,
        name: str,
        prompt: Prompt,
        *,
        most: int,
        least: int = 0,
        think: bool = False,
        route: Route | None = None,
    ) -> Called:
        """Makes one call.

        Args:
            name: For the server's log.
            prompt: What to say.
            most: Most completion tokens.
            least: Fewest that are worth it; 0: no fewer than `most`.
            think: Let the model reason first.
            route: Other than what has been found so far.

        Raises:
            CallFailed: BUDGET when the purse cannot pay or the time is over; else why the
                server could not do it.
        """
        route = route or self.route
        attempt = ProbeAttempt(self.purse, name)
        recorder = _Recorder(self._llm)
        routes = Routes({route.name: route}, route.name, self._retry)
        try:
            completion = await BudgetedLLM(recorder, routes, attempt).complete(
                prompt,
                purpose=attempt_pb2.CALL_PURPOSE_WORK,
                max_completion=most,
                min_completion=least or most,
                think=think,
            )
        finally:
            attempt.settle()
        if completion.finish_reason == "abort" and self.purse.time_left() <= 0:
            raise CallFailed(self.purse.refusal(0), common_pb2.FAILURE_CLASS_BUDGET)
        self.model = completion.model or self.model
        return Called(completion, recorder.record)

    async def each(
        self, things: Iterable[T], work: Callable[[T], Awaitable[R]]
    ) -> tuple[list[R], CallFailed | None]:
        """Does a piece of work for each thing, several at a time, in order.

        Returns:
            What was done, and why it was not done for the rest; None: all was done.
        """
        waiting = list(enumerate(things))[::-1]
        done: dict[int, R] = {}
        failures: list[CallFailed] = []

        async def take() -> None:
            while waiting and not failures:
                number, thing = waiting.pop()
                try:
                    done[number] = await work(thing)
                except CallFailed as failure:
                    failures.append(failure)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(take())
        return [done[number] for number in sorted(done)], failures[0] if failures else None


async def together(calls: Sequence[Awaitable[Called]]) -> list[Called]:
    """Makes calls at the same time; the first failure is raised when all have ended.

    Raises:
        CallFailed: One of them failed.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Called)]


def is_declined(failure: CallFailed) -> bool:
    """Whether the server does not know what the request asked for (HTTP 400, 422 ...)."""
    return (
        isinstance(failure, CallRefused)
        and failure.failure_class == common_pb2.FAILURE_CLASS_INTERNAL
    )
