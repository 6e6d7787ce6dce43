"""What a provider of models takes and gives back.

`OpenAICompatible` implements it for vLLM and llama.cpp. Another provider implements
`LLM` and passes the same tests; nothing above this module knows who it is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from hma.errors import CallFailed
from hma.llm.routes import Route
from hma.text.inert import untemplated
from hma.text.unseen import normalized
from hma.v1 import common_pb2


class CallRefused(CallFailed):
    """The server declined a call before it generated anything: it cost nothing."""


class CallBroken(CallFailed):
    """A call broke after it was sent; its cost is booked.

    Attributes:
        partial: The text that came before; may be empty.
    """

    partial = ""

    @classmethod
    def of(cls, failure: CallFailed, partial: str) -> CallBroken:
        """The same failure, with what came before it."""
        broken = cls(failure.message, failure.failure_class, retry_after=failure.retry_after)
        broken.partial = partial
        return broken


FinishReason = Literal["stop", "length", "tool_calls", "abort"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called.

    Attributes:
        id: Ties the tool's answer to the call.
        name: The tool.
        arguments: JSON text as the model wrote it; may be cut off.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: The text.
        tool_calls: Of an assistant message that called tools.
        tool_call_id: Of a tool message: which call it answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call.

    Attributes:
        name: Letters, digits, underscores.
        description: For the model.
        parameters: JSON schema of its arguments.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that decides what the model writes, except how much.

    Attributes:
        messages: The chat, oldest first. Put what many calls share at the front:
            servers cache the longest common prefix.
        schema: JSON schema that decoding is constrained to; None: free text.
        tools: Tools that may be called. Not together with a schema.
        temperature: 0 is greedy.
        stop: Texts that end the completion; not part of it.

    Raises:
        ValueError: Both a schema and tools: servers honour only one of them.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    tools: tuple[ToolSpec, ...] = ()
    temperature: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.schema is not None and self.tools:
            raise ValueError("a prompt has a schema or tools, not both")

    def normalized(self) -> Prompt:
        """The same prompt in Unicode's NFC, with nothing of a chat template in its texts.

        Some tokenizers normalise first, and NFC can lengthen a text; so it is
        done before counting, and what is counted is what is sent. Every prompt passes
        here, so no text can end the turn that it stands in.
        """
        messages = tuple(
            replace(
                message,
                content=untemplated(normalized(message.content)),
                tool_calls=tuple(
                    replace(call, arguments=normalized(call.arguments))
                    for call in message.tool_calls
                ),
            )
            for message in self.messages
        )
        tools = tuple(
            ToolSpec(
                tool.name,
                normalized(tool.description),
                json.loads(normalized(json.dumps(tool.parameters, ensure_ascii=False))),
            )
            for tool in self.tools
        )
        return replace(self, messages=messages, tools=tools)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The size of a prompt.

    Attributes:
        tokens: Template, tools and all; what the server will count, or more.
        exact: The server counted it; else an upper bound.
        away: Nothing answered at the server: no call can succeed now, either.
    """

    tokens: int
    exact: bool
    away: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """When a call ran.

    Attributes:
        start: When it was granted, seconds since the epoch, this machine's clock.
        duration: Seconds until it ended or its stop was confirmed; waits after
            refusals included.
        time_to_first_token: Seconds from `start` to the first token; 0: none came.
    """

    start: float
    duration: float
    time_to_first_token: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call gave.

    Attributes:
        text: What was written, reasoning excluded; partial after "length" and "abort".
        tool_calls: The tools that the model wants called.
        finish_reason: "stop", "length", "tool_calls"; "abort" when the attempt was
            stopped, or the call ran into whitespace or thought for too long.
        usage: What the call cost.
        mean_logprob: Mean log-probability of the completion; 0 when not known.
        model: The model as the server names it.
        timings: When it ran.
        reasoning: The thoughts, where the server tells them apart.
        max_tokens: Most completion tokens that it was given.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: common_pb2.Usage
    mean_logprob: float
    model: str
    timings: Timings
    reasoning: str = ""
    max_tokens: int = 0

    @property
    def only_thoughts(self) -> bool:
        """It was cut, or ran out of tokens, while the model was still thinking."""
        thought = bool(self.reasoning or self.usage.reasoning_tokens)
        return thought and not self.text and self.finish_reason in ("length", "abort")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How a prompt is to be run.

    Attributes:
        max_tokens: Most completion tokens, reasoning included.
        think: Whether the model may reason first.
        priority: For the server's queue; lower runs earlier.
        think_tokens: Most tokens of reasoning, where the server can be told; 0: any.
        headers: Sent along, for logs and for routing by job.
    """

    max_tokens: int
    think: bool = False
    priority: int = 0
    think_tokens: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed completion.

    Attributes:
        text: New text.
        reasoning: New thoughts.
        usage: Tokens of the call so far, as the server counts them; None when this
            chunk does not say.
        logprobs: Log-probabilities of the tokens of this chunk, as far as known.
        tool_calls: What is new of tool calls, each with its index.
        finish_reason: Set on the chunk that ends the completion.
        model: The model as the server names it.
    """

    text: str = ""
    reasoning: str = ""
    usage: common_pb2.Usage | None = None
    logprobs: tuple[float, ...] = ()
    tool_calls: tuple[tuple[int, ToolCall], ...] = ()
    finish_reason: str = ""
    model: str = ""


class ChunkStream(Protocol):
    """A running call."""

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """The chunks, until the completion or the server's stop.

        A stream that ends without a `finish_reason` and was not cut has broken.

        Raises:
            hma.errors.CallFailed: The call broke.
        """
        ...

    def cut(self) -> None:
        """Asks the server to stop; safe from another task, and more than once.

        The iteration goes on until the server has stopped or was given up, so that
        the tokens that it still sends are counted.
        """
        ...

    @property
    def settled(self) -> bool:
        """Whether the last usage that was seen is what the server counted.

        True after the final usage, or after a cut that the server confirmed if the
        usage on its chunks leaves nothing out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a route can be called now.

    Attributes:
        ready: It can.
        detail: One sentence for users: what is wrong and what to do.
    """

    ready: bool
    detail: str


class SaysReadiness(Protocol):
    """Knows how model servers are."""

    async def readiness(self, route: Route) -> Readiness:
        """Whether the route can be called, in a second or two."""
        ...


class LLM(SaysReadiness, Protocol):
    """A provider of models."""

    async def count_tokens(self, route: Route, prompt: Prompt, *, think: bool) -> TokenCount:
        """The size of a normalized prompt; an upper bound when it cannot be counted."""
        ...

    def stream(
        self, route: Route, prompt: Prompt, options: CallOptions
    ) -> AbstractAsyncContextManager[ChunkStream]:
        """Runs a normalized prompt; leaving the context closes the call.

        Raises:
            CallRefused: On entering: the server refused or is not there.
            hma.errors.CallFailed: On entering: it broke and may have cost tokens.
        """
        ...
