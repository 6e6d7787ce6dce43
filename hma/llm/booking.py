"""What a call cost and how it is written down: exact, or the most it can have been."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hma.errors import CallFailed
from hma.llm.base import Completion, FinishReason, Timings, TokenCount
from hma.llm.collect import Collector
from hma.llm.routes import Route
from hma.v1 import attempt_pb2, common_pb2

_log = logging.getLogger(__name__)

FINISHED: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "abort": "abort",
}


@dataclass(slots=True, kw_only=True)
class Call:
    """A granted call that is not booked yet.

    Attributes:
        number: Within the attempt, from 1.
        purpose: What it is for.
        count: The size of its prompt.
        max_tokens: Most completion tokens; prompt and completion are within the grant.
        items: Items of the task that it is about.
        start: When it was granted, seconds since the epoch.
        begin: The same moment by the monotonic clock.
        first_token: Seconds from `begin` to the first token; 0 before it.
        phase: What was last said about it.
    """

    number: int
    purpose: attempt_pb2.CallPurpose.ValueType
    count: TokenCount
    max_tokens: int
    items: int = 0
    start: float = field(default_factory=time.time)
    begin: float = field(default_factory=time.monotonic)
    first_token: float = 0.0
    phase: str = ""


def nothing() -> common_pb2.Usage:
    """The cost of a call that the server refused or that was never sent."""
    return common_pb2.Usage(accuracy=common_pb2.ACCURACY_EXACT)


def most(call: Call, collector: Collector) -> common_pb2.Usage:
    """The most that a call can have cost: its prompt and all of its max_tokens."""
    seen = collector.usage
    return common_pb2.Usage(
        prompt_tokens=seen.prompt_tokens if seen else call.count.tokens,
        completion_tokens=max(call.max_tokens, seen.completion_tokens if seen else 0),
        accuracy=common_pb2.ACCURACY_UPPER_BOUND,
    )


def cost(call: Call, collector: Collector, *, settled: bool) -> common_pb2.Usage:
    """What a call that has ended cost.

    Args:
        call: The call.
        collector: What it said.
        settled: Whether the last usage is the server's last word.
    """
    if not settled or collector.usage is None:
        return most(call, collector)
    usage = common_pb2.Usage()
    usage.CopyFrom(collector.usage)
    usage.accuracy = common_pb2.ACCURACY_EXACT
    return usage


def so_far(
    call: Call, collector: Collector, booked: list[attempt_pb2.CallUsage]
) -> common_pb2.Usage:
    """Tokens of an attempt: what is booked, and the running call as far as known."""
    total = common_pb2.Usage(prompt_tokens=call.count.tokens)
    if collector.usage is not None:
        total.CopyFrom(collector.usage)
    for row in booked:
        total.prompt_tokens += row.usage.prompt_tokens
        total.cached_prompt_tokens += row.usage.cached_prompt_tokens
        total.completion_tokens += row.usage.completion_tokens
        total.reasoning_tokens += row.usage.reasoning_tokens
    return total


def row(
    call: Call, route: Route, usage: common_pb2.Usage, finish: str, collector: Collector | None
) -> attempt_pb2.CallUsage:
    """The ledger's row for a call.

    Args:
        call: The call.
        route: Its route.
        usage: Its cost.
        finish: "stop", "length", "tool_calls", "abort" or "error".
        collector: What it said; None when the server refused it.
    """
    if usage.prompt_tokens > call.count.tokens:
        # Written down as it is: the grant is exceeded by the difference.
        _log.error(
            "the server counted more prompt tokens than were announced",
            extra={
                "route": route.name,
                "announced": call.count.tokens,
                "counted": usage.prompt_tokens,
            },
        )
    written = attempt_pb2.CallUsage(
        call=call.number,
        purpose=call.purpose,
        route=route.name,
        model=(collector.model if collector else "") or route.model,
        usage=usage,
        finish_reason=finish if finish in FINISHED else "error",
        mean_logprob=collector.mean_logprob if collector else 0.0,
        max_tokens=call.count.tokens + call.max_tokens,
        items=call.items,
    )
    written.start.FromNanoseconds(int(call.start * 1e9))
    written.duration.FromNanoseconds(int((time.monotonic() - call.begin) * 1e9))
    written.time_to_first_token.FromNanoseconds(int(call.first_token * 1e9))
    return written


def completion(
    call: Call, route: Route, usage: common_pb2.Usage, finish: FinishReason, collector: Collector
) -> Completion:
    """What the caller gets for a call."""
    return Completion(
        text=collector.text,
        tool_calls=collector.tool_calls,
        finish_reason=finish,
        usage=usage,
        mean_logprob=collector.mean_logprob,
        model=collector.model or route.model,
        timings=Timings(call.start, time.monotonic() - call.begin, call.first_token),
        reasoning=collector.reasoning,
        max_tokens=call.max_tokens,
    )


def unfinished(finish: str) -> CallFailed:
    """The failure behind a finish reason that is no answer."""
    if finish == "content_filter":
        return CallFailed(
            "The model server declined the content.", common_pb2.FAILURE_CLASS_REFUSED
        )
    # vLLM says "abort" or "error" when it ends a request on its own account.
    return CallFailed("The model server gave up the call.", common_pb2.FAILURE_CLASS_TRANSIENT)
