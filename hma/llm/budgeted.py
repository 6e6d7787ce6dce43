"""Calls that cannot exceed a grant: the only way services call a model.

Each call is counted, announced, granted, clamped, made and booked. What is booked is
either what the server counted (EXACT) or the most that the call can have cost
(UPPER_BOUND), never less. One grant pays for one call: a try that may have cost
tokens closes its call, and the next try asks again; a refusal costs nothing, so the
next try uses the same grant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from hma import stopping
from hma.errors import CallFailed
from hma.llm import booking, thinking
from hma.llm.base import (
    LLM,
    CallBroken,
    CallOptions,
    CallRefused,
    Chunk,
    Completion,
    Prompt,
    TokenCount,
)
from hma.llm.booking import Call
from hma.llm.collect import Collector
from hma.llm.counting import byte_bound
from hma.llm.cutter import Cutter
from hma.llm.failures import is_retryable
from hma.llm.protocols import Attempt, Windows
from hma.llm.retry import retrying
from hma.llm.routes import Routes
from hma.v1 import attempt_pb2, common_pb2

_TRANSIENT = common_pb2.FAILURE_CLASS_TRANSIENT


@dataclass(slots=True)
class _Request:
    """What `complete` was asked for, and the call that is open for it."""

    prompt: Prompt
    purpose: attempt_pb2.CallPurpose.ValueType
    max_completion: int
    min_completion: int
    on_text: Callable[[str], None] | None
    think: bool
    answer: int
    items: int
    calls_left: int
    open: Call | None = None

    def thoughts(self, call: Call) -> int:
        """Most tokens of thoughts: what the answer leaves."""
        return max(0, call.max_tokens - self.answer)

    def may_retry(self, failure: CallFailed) -> bool:
        # Text that was passed on cannot be taken back; the caller knows what of it is
        # good, and asks for the rest.
        passed_on = isinstance(failure, CallBroken) and failure.partial and self.on_text is not None
        return is_retryable(failure) and not passed_on


class BudgetedLLM:
    """Makes the calls of one attempt, one after another, each within its grant.

    Args:
        llm: The provider.
        routes: All routes; the attempt names one of them.
        attempt: Asks for grants, says when to stop, collects what calls cost.
        windows: Has room on routes with limits; without it they are not kept.

    Raises:
        hma.errors.CallFailed: INTERNAL: the attempt names a route that is not configured.
    """

    def __init__(
        self, llm: LLM, routes: Routes, attempt: Attempt, windows: Windows | None = None
    ) -> None:
        self._llm = llm
        self._windows = windows
        self._attempt = attempt
        self._policy = routes.retry
        self._turn = asyncio.Lock()
        self._number = 0
        try:
            self.route = routes.choose(attempt.route)
        except KeyError:
            raise CallFailed(
                f'The route "{attempt.route}" is not configured here; '
                f"there are: {', '.join(routes)}.",
                common_pb2.FAILURE_CLASS_INTERNAL,
            ) from None

    async def count(self, prompt: Prompt, *, think: bool = False) -> TokenCount:
        """The size of a prompt as `complete` would send it; costs no tokens."""
        return await self._llm.count_tokens(self.route, prompt.normalized(), think=think)

    async def complete(
        self,
        prompt: Prompt,
        *,
        purpose: attempt_pb2.CallPurpose.ValueType,
        max_completion: int,
        min_completion: int,
        on_text: Callable[[str], None] | None = None,
        think: bool = False,
        answer_tokens: int = 0,
        items: int = 0,
        calls_left: int = 0,
    ) -> Completion:
        """Makes one call; calls of the same attempt wait for each other.

        Every call that was granted adds one `CallUsage` to `attempt.calls`, whatever
        becomes of it.

        Args:
            prompt: What to say.
            purpose: The ledger's class of spending.
            max_completion: Most completion tokens worth having, reasoning included.
            min_completion: Fewest that are worth paying the prompt for.
            on_text: Gets the text as it comes. Without it the text goes to
                `attempt.progress`; usage goes there in any case.
            think: Let the model reason first, if the route does that. Its thoughts are
                limited to what the answer leaves of the completion; a call that thinks for
                longer is cut, without a text. Where the server knows no such limit, more
                is asked for than `max_completion`: the grant covers another call, for the
                answer alone, as well (`hma.llm.thinking`).
            answer_tokens: With `think`: completion tokens that the answer needs; 0:
                `min_completion`.
            items: Items of the task that the call is about; the same for each of its
                tries.
            calls_left: Calls that the attempt expects to make after it, re-asks not
                counted; what its task holds beyond them may be given to others.

        Returns:
            The completion. `finish_reason` is "abort", with what there is, when the
            attempt was stopped, its time ran out, the text ran into white space, or the
            thoughts exceeded their limit (`only_thoughts`).

        Raises:
            CallFailed: BUDGET when the grant is denied or too small; else why the
                server could not do it, after the retries that its class allows.
            CallBroken: It broke after it had begun; `partial` is what came. With
                `on_text` this is not retried once text was passed on.
            hma.rpc.attempt.AttemptStopped: The attempt was stopped before the call.
        """
        if not 0 < min_completion <= max_completion:
            raise ValueError("0 < min_completion <= max_completion must hold")
        request = _Request(
            prompt.normalized(),
            purpose,
            max_completion,
            min_completion,
            on_text,
            think and self.route.reasoning,
            answer_tokens or min_completion,
            items,
            calls_left,
        )
        async with self._turn:
            again = retrying(
                self._policy,
                stop=self._attempt.stop,
                time_left=self._attempt.time_left,
                may_retry=request.may_retry,
            )
            try:
                return await again(self._try, request)
            finally:
                if request.open is not None:  # never got past a refusal
                    self._book(request, request.open, booking.nothing(), "error", None)

    async def _try(self, request: _Request) -> Completion:
        call = request.open
        if call is None:
            call = request.open = await self._open(request)
        collector = Collector(constrained=request.prompt.schema is not None)
        try:
            usage, finish = await self._run(request, call, collector)
        except CallRefused:
            raise
        except CallFailed as failure:
            self._book(request, call, booking.most(call, collector), "error", collector)
            raise CallBroken.of(failure, collector.text) from failure
        except BaseException:
            self._book(request, call, booking.most(call, collector), "error", collector)
            raise
        self._book(request, call, usage, finish, collector)
        if finish not in booking.FINISHED:
            raise CallBroken.of(booking.unfinished(finish), collector.text)
        return booking.completion(call, self.route, usage, booking.FINISHED[finish], collector)

    async def _open(self, request: _Request) -> Call:
        """Counts, announces and clamps a call."""
        number = self._number + 1
        count = await self._count(request, number)
        room = self._room(request, count)
        kept = self._kept(request, count)
        self._number = number
        intent = attempt_pb2.CallIntent(
            call=number,
            prompt_tokens=count.tokens,
            max_completion_tokens=room + kept,
            min_completion_tokens=request.min_completion + kept,
            purpose=request.purpose,
            items=request.items,
            calls_left=request.calls_left,
        )
        if self._attempt.calls:
            intent.previous.CopyFrom(self._attempt.calls[-1])
        grant = await self._attempt.ask(intent)
        max_tokens = min(room, grant.tokens - count.tokens - kept)
        if grant.denied or max_tokens < request.min_completion:
            if count.away:
                # What was too dear was the bound of its bytes: no matter of tokens.
                raise CallRefused("The model server cannot be reached.", _TRANSIENT)
            reason = grant.reason or "The tokens that are left do not pay for another call."
            raise CallFailed(reason, common_pb2.FAILURE_CLASS_BUDGET)
        return Call(
            number=number,
            purpose=request.purpose,
            count=count,
            max_tokens=max_tokens,
            items=request.items,
        )

    async def _count(self, request: _Request, number: int) -> TokenCount:
        bound = byte_bound(request.prompt)
        count = TokenCount(bound, exact=False)
        most = bound + request.max_completion
        covered = most + self._kept(request, count) <= self._attempt.held(number)
        if covered and most <= self.route.context_tokens:
            return count
        # When the attempt is stopped meanwhile, asking for a grant says so.
        counting = self._llm.count_tokens(self.route, request.prompt, think=request.think)
        return await stopping.unless(self._attempt.stop, counting) or count

    def _kept(self, request: _Request, count: TokenCount) -> int:
        """What of a grant is not for this call but for the answer after its thoughts."""
        if not request.think:
            return 0
        return thinking.kept_for_the_answer(self.route, count.tokens, request.answer)

    def _room(self, request: _Request, count: TokenCount) -> int:
        """Most completion tokens that the context has room for."""
        room = self.route.context_tokens - count.tokens
        if room >= request.min_completion:
            return min(room, request.max_completion)
        if count.exact:
            raise CallFailed(
                f"The prompt has {count.tokens} tokens, too many for the route's context of "
                f"{self.route.context_tokens}.",
                common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW,
            )
        # A bound proves nothing: the server knows whether it fits.
        return request.min_completion

    async def _run(
        self, request: _Request, call: Call, collector: Collector
    ) -> tuple[common_pb2.Usage, str]:
        """Runs a call to its end, once its route has room; its cost and why it ended."""
        windows, attempt, route = self._windows, self._attempt, self.route
        if windows is None or not route.limited:
            return await self._make(request, call, collector)
        attempt.progress(call=call.number, phase="waiting for the route's limit")
        most = call.count.tokens + call.max_tokens
        room = await windows.reserve(
            route.name, most, attempt.stop, attempt.time_left(), attempt.priority
        )
        if room is None:
            return booking.nothing(), "abort"
        used: int | None = None  # not known: it counts with the most that it can have taken
        try:
            usage, finish = await self._make(request, call, collector)
            used = usage.prompt_tokens + usage.completion_tokens
        except CallRefused:
            used = 0
            raise
        finally:
            if used is not None:
                await windows.settle(route.name, room, used)
        return usage, finish

    async def _make(
        self, request: _Request, call: Call, collector: Collector
    ) -> tuple[common_pb2.Usage, str]:
        self._report(request, call, collector, Chunk())
        async with Cutter(self._attempt.stop, self._attempt.time_left()) as cutter:
            stream = await cutter.open(
                self._llm.stream(self.route, request.prompt, self._options(request, call))
            )
            if stream is None:
                sent = booking.most(call, collector)
                return (sent if cutter.sent else booking.nothing()), "abort"
            try:
                async for chunk in stream:
                    collector.add(chunk)
                    self._report(request, call, collector, chunk)
                    if collector.runaway or self._overthinks(request, call, collector):
                        cutter.cut()
            except CallFailed:
                if not cutter.fired:
                    raise
            usage = booking.cost(call, collector, settled=stream.settled)
            cut = cutter.fired and not collector.finish_reason
        # vLLM's own "abort" is not ours.
        finish = "error" if collector.finish_reason == "abort" else collector.finish_reason
        return usage, "abort" if cut else finish

    def _overthinks(self, request: _Request, call: Call, collector: Collector) -> bool:
        return request.think and thinking.exceeds(self.route, collector, request.thoughts(call))

    def _options(self, request: _Request, call: Call) -> CallOptions:
        ref = self._attempt.ref
        return CallOptions(
            max_tokens=call.max_tokens,
            think=request.think,
            priority=self._attempt.priority,
            think_tokens=request.thoughts(call),
            headers={
                "x-hma-job": ref.job_id,
                "x-hma-call": f"{ref.task_uid}/{ref.attempt}/{call.number}",
                "x-hma-purpose": attempt_pb2.CallPurpose.Name(request.purpose).removeprefix(
                    "CALL_PURPOSE_"
                ),
            },
        )

    def _book(
        self,
        request: _Request,
        call: Call,
        usage: common_pb2.Usage,
        finish: str,
        collector: Collector | None,
    ) -> None:
        """Closes a call; each one is booked once, whatever became of it."""
        request.open = None
        self._attempt.calls.append(booking.row(call, self.route, usage, finish, collector))

    def _report(self, request: _Request, call: Call, collector: Collector, chunk: Chunk) -> None:
        """Passes on what is new: text, usage of the attempt so far, the phase."""
        phase = "waiting for the model"
        if not collector.empty:
            call.first_token = call.first_token or time.monotonic() - call.begin
            phase = "thinking" if chunk.reasoning else "writing"
        if request.on_text is not None and chunk.text:
            request.on_text(chunk.text)
        self._attempt.progress(
            call=call.number,
            usage=booking.so_far(call, collector, self._attempt.calls),
            text="" if request.on_text is not None else chunk.text,
            phase="" if phase == call.phase else phase,
        )
        call.phase = phase
