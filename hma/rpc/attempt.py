"""The service side of an attempt, as a role's work function sees it.

    async def work(start: ExecuteStart, attempt: Attempt) -> AttemptResult: ...

`hma.rpc.attempt_server.serve_attempt` runs it; see there for the whole protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hma import stopping
from hma.rpc.outbox import Outbox
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2

StopReason = attempt_pb2.StopReason
T = TypeVar("T")


class AttemptStopped(Exception):
    """The attempt was asked to end, or nobody listens to it any more.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: StopReason.ValueType) -> None:
        super().__init__(StopReason.Name(reason))
        self.reason = reason


class Attempt:
    """One attempt, handed to the work function.

    Attributes:
        ref: Which attempt this is.
        route: The route to use.
        priority: Scheduling priority at the inference server; lower runs earlier.
        calls: Every LLM call so far; the LLM layer appends, the result carries them.
        stop: Set when the attempt has to end: abort the running call, start no
            other, return what there is.
        stop_reason: Why; UNSPECIFIED while `stop` is not set.
    """

    def __init__(
        self,
        start: attempt_pb2.AttemptStart,
        outbox: Outbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ref = start.ref
        self.route = start.route
        self.priority = start.priority
        self.calls: list[attempt_pb2.CallUsage] = []
        self.stop = asyncio.Event()
        self.stop_reason: StopReason.ValueType = attempt_pb2.STOP_REASON_UNSPECIFIED
        self._outbox = outbox
        self._clock = clock
        self._end = clock() + start.time_left.ToTimedelta().total_seconds()
        self._grants: dict[int, attempt_pb2.Grant] = {}
        self._news = asyncio.Event()
        self._heard = False
        if start.HasField("grant"):
            first = attempt_pb2.Grant()
            first.CopyFrom(start.grant)
            first.call = first.call or 1
            self._grants[first.call] = first

    def time_left(self) -> float:
        """Seconds until the attempt must have ended; 0 when that has passed."""
        return max(0.0, self._end - self._clock())

    def held(self, call: int) -> int:
        """Tokens of the grant that is already held for a call; 0 when there is none."""
        grant = self._grants.get(call)
        return 0 if grant is None or grant.denied else grant.tokens

    async def ask(self, intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        """Announces a call and returns the grant it has to stay within.

        The intent is always sent. When a grant for `intent.call` is held and covers
        prompt_tokens + max_completion_tokens, it is returned at once and the
        MetaAgent, which computes the same, sends nothing. Otherwise this waits for
        a grant that is denied or covers prompt_tokens + min_completion_tokens.

        It never returns before the driver has been heard of after the start frame. A
        driver beats only once it has seen that the attempt was admitted, so an
        attempt that no driver saw admitted has certainly spent nothing.

        Raises:
            AttemptStopped: The attempt was stopped first; the call must not start.
        """
        self._raise_if_stopped()
        if self.calls and not intent.HasField("previous"):
            intent.previous.CopyFrom(self.calls[-1])
        for call in [call for call in self._grants if call < intent.call]:
            del self._grants[call]
        held = self._grants.pop(intent.call, None)
        await self._outbox.put(attempt_pb2.AttemptReport(intent=intent))
        self._raise_if_stopped()
        while not self._heard:
            self._news.clear()
            await self._news.wait()
            self._raise_if_stopped()
        if held is not None and covers(held, intent):
            return held
        least = intent.prompt_tokens + intent.min_completion_tokens
        while True:
            grant = self._grants.get(intent.call)
            if grant is not None and (grant.denied or grant.tokens >= least):
                return grant
            self._news.clear()
            await self._news.wait()
            self._raise_if_stopped()

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Does work that costs no tokens; see `hma.stopping.unless`.

        Raises:
            AttemptStopped: The attempt was stopped first; the work was cancelled.
        """
        done = await stopping.unless(self.stop, work)
        if done is None:
            raise AttemptStopped(self.stop_reason)
        return done

    def progress(
        self,
        *,
        call: int = 0,
        usage: common_pb2.Usage | None = None,
        text: str = "",
        phase: str = "",
    ) -> None:
        """Says how far the attempt is; coalesced to at most four reports a second.

        Args:
            call: The call that is running; 0 when none is.
            usage: Tokens of this attempt so far, the running call included.
            text: Output since the last time; appended.
            phase: A few words; empty keeps the phase before.
        """
        self._outbox.progress(call=call, usage=usage, text=text, phase=phase)

    async def emit(self, fragment: analyst_pb2.PlanFragment) -> None:
        """Sends a piece of the plan (Analyst only).

        Raises:
            AttemptStopped: Nobody listens any more.
        """
        if not await self._outbox.put(fragment):
            raise AttemptStopped(self.stop_reason)

    def hear_driver(self) -> None:
        """The driver has said something since the start (for the session)."""
        if not self._heard:
            self._heard = True
            self._news.set()

    def receive_grant(self, grant: attempt_pb2.Grant) -> None:
        """Takes a grant from the driver (for the session)."""
        self._grants[grant.call] = grant
        self._news.set()

    def end(self, reason: StopReason.ValueType) -> None:
        """Sets `stop`; the first reason stands (for the session)."""
        if not self.stop.is_set():
            self.stop_reason = reason or attempt_pb2.STOP_REASON_CANCEL
            self.stop.set()
            self._news.set()

    def _raise_if_stopped(self) -> None:
        if self.stop.is_set():
            raise AttemptStopped(self.stop_reason)


def covers(grant: attempt_pb2.Grant, intent: attempt_pb2.CallIntent) -> bool:
    """Whether a grant pays for all that an intent may cost. Both sides compute it."""
    return (
        not grant.denied
        and grant.call == intent.call
        and grant.tokens >= intent.prompt_tokens + intent.max_completion_tokens
    )
