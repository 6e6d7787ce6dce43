"""What the scripted server is told to say, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """How the server answers one request.

    Attributes:
        text: The completion; None: made from the request's schema, or a short text.
        json: A value to write as JSON; wins over `text`.
        tool_calls: (name, arguments) pairs; wins over both.
        reasoning: Thoughts that come before the completion and count as its tokens.
        finish_reason: Overrides the natural one.
        status: An HTTP error to answer with instead; nothing is generated.
        retry_after: Seconds (or a text) for the Retry-After header of that error.
        message: Text of that error.
        first_delay: Seconds before the first token.
        token_delay: Seconds per token; None: the server's.
        slow_from: Tokens before this one come without that delay.
        chunk_tokens: Tokens per chunk; None: the server's.
        disconnect_after: Break the connection after this many tokens.
        hang_after: Send nothing more after this many tokens, for ever; 0: not even
            headers.
        error_after: After this many tokens send an error inside the stream.
        cut_at: Keep only this share of the text's characters (truncated output).
        whitespace: After this many tokens write spaces until max_tokens.
        broken_chunk_after: After this many tokens send a chunk that is no JSON.
        usage: "normal"; "none" leaves usage out; "wrong" reports 7 prompt tokens more.
        logprob: Of every token.
    """

    text: str | None = None
    json: Any = None
    tool_calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    reasoning: str = ""
    finish_reason: str = ""
    status: int = 200
    retry_after: float | str | None = None
    message: str = "scripted"
    first_delay: float = 0.0
    token_delay: float | None = None
    slow_from: int = 0
    chunk_tokens: int | None = None
    disconnect_after: int | None = None
    hang_after: int | None = None
    error_after: int | None = None
    cut_at: float | None = None
    whitespace: int | None = None
    broken_chunk_after: int | None = None
    usage: str = "normal"
    logprob: float = -0.25


@dataclass
class Rule:
    """Gives `reply` to the requests it matches. All conditions must hold.

    Attributes:
        reply: The answer, or a function of the call that makes one.
        contains: A text that the rendered prompt must contain.
        purpose: The `x-hma-purpose` header must be this ("WORK", "PLAN", ...).
        when: A predicate over the call.
        nth: Only the nth request (from 1) that meets the other conditions.
        times: At most this many times.
    """

    reply: Reply | Callable[[Any], Reply]
    contains: str = ""
    purpose: str = ""
    when: Callable[[Any], bool] | None = None
    nth: int | None = None
    times: int | None = None
    _seen: int = field(default=0, init=False, repr=False)
    _used: int = field(default=0, init=False, repr=False)

    def answer(self, call: Any) -> Reply | None:
        """The reply for a call, or None when the rule does not apply."""
        if self.contains and self.contains not in call.prompt:
            return None
        if self.purpose and call.purpose != self.purpose:
            return None
        if self.when is not None and not self.when(call):
            return None
        self._seen += 1
        if self.nth is not None and self._seen != self.nth:
            return None
        if self.times is not None and self._used >= self.times:
            return None
        self._used += 1
        return self.reply(call) if callable(self.reply) else self.reply


Script = Sequence["Rule | Reply"] | Callable[[Any], "Reply | None"]


def rules_of(described: Iterable[Mapping[str, Any]]) -> list[Rule | Reply]:
    """Rules from JSON: the fields of `Rule`, with those of its `Reply` as "reply"."""
    rules: list[Rule | Reply] = []
    for each in described:
        fields = dict(each)
        reply = Reply(**fields.pop("reply", {}))
        rules.append(Rule(reply, **fields))
    return rules


def refuse(
    status: int, *, retry_after: float | str | None = None, message: str = "scripted"
) -> Reply:
    """An HTTP error before anything is generated."""
    return Reply(status=status, retry_after=retry_after, message=message)


def say(text: str, **more: Any) -> Reply:
    """A fixed text."""
    return Reply(text=text, **more)
