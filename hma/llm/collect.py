"""Puts the chunks of a call together, and sees when it runs away."""

from __future__ import annotations

from hma.llm.base import Chunk, ToolCall
from hma.v1 import common_pb2

# Under a grammar white space is always allowed between tokens, and a weak model can
# take it to the end of its budget. Free text has reasons for longer runs (tables).
_RUN_UNDER_SCHEMA = 32
_RUN_IN_TEXT = 256


class Collector:
    """What a call has said so far.

    Attributes:
        reasoning: Thoughts.
        usage: The latest usage; None until there is one.
        finish_reason: As the server says it; empty until then.
        model: As the server names it.

    Args:
        constrained: Decoding follows a schema.
    """

    def __init__(self, *, constrained: bool) -> None:
        self.reasoning = ""
        self.usage: common_pb2.Usage | None = None
        self.finish_reason = ""
        self.model = ""
        self._parts: list[str] = []
        self._tools: dict[int, ToolCall] = {}
        self._logprob_sum = 0.0
        self._logprobs = 0
        self._thoughts = 0
        self._blank_run = 0
        self._longest_run = _RUN_UNDER_SCHEMA if constrained else _RUN_IN_TEXT

    @property
    def text(self) -> str:
        """The completion so far."""
        return "".join(self._parts)

    @property
    def empty(self) -> bool:
        """Nothing has been generated yet, as far as is known."""
        return not (self._parts or self.reasoning or self._tools)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls so far, in the model's order."""
        return tuple(self._tools[index] for index in sorted(self._tools))

    @property
    def answering(self) -> bool:
        """Something besides thoughts has come."""
        return bool(self._parts or self._tools)

    @property
    def thought_tokens(self) -> int:
        """Tokens of thoughts so far: as counted, or one for each piece of them at least."""
        counted = self.usage.reasoning_tokens if self.usage is not None else 0
        return max(counted, self._thoughts)

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the completion; 0 when not known."""
        return self._logprob_sum / self._logprobs if self._logprobs else 0.0

    @property
    def runaway(self) -> bool:
        """The text ends in more white space than an answer can want."""
        return self._blank_run >= self._longest_run

    def add(self, chunk: Chunk) -> None:
        """Takes the next chunk."""
        if chunk.text:
            self._parts.append(chunk.text)
            blank = len(chunk.text) - len(chunk.text.rstrip())
            whole = blank == len(chunk.text)
            self._blank_run = self._blank_run + blank if whole else blank
        self.reasoning += chunk.reasoning
        self._thoughts += bool(chunk.reasoning)
        self.usage = chunk.usage or self.usage
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.model = chunk.model or self.model
        self._logprob_sum += sum(chunk.logprobs)
        self._logprobs += len(chunk.logprobs)
        for index, part in chunk.tool_calls:
            known = self._tools.get(index, ToolCall("", "", ""))
            self._tools[index] = ToolCall(
                known.id or part.id,
                known.name or part.name,
                known.arguments + part.arguments,
            )
