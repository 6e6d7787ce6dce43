"""Tokens per second: of prompts, and of completions; alone, and many at once.

What counts for prices is the rate at which the server is busy: measure with as many calls
at once as it gets in production.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from hma.llm.base import Message, Prompt
from hma.llm.probing.calling import Called, Caller, together
from hma.llm.probing.findings import Finding
from hma.llm.probing.questions import load_questions

_WRITE_TOKENS = 64
# Fewer tokens are too few to time.
_LEAST_WRITTEN = 8
_LONGEST_PROMPT = 2000
_SHARE_OF_BUDGET = 50
_CHARACTERS_PER_TOKEN = 4


async def prompt_rate(caller: Caller, at_once: int) -> Finding:
    """Prompt tokens per second, over fresh prompts of which one token is asked for.

    From the moment that the first is sent until the last has its token.
    """
    size = min(_LONGEST_PROMPT, caller.purse.budget // _SHARE_OF_BUDGET)
    size = min(size, caller.route.context_tokens // 2)
    called = await together(
        [caller.call("throughput", _long_prompt(size), most=1) for _ in range(at_once)]
    )
    name = f"prompt_tokens_per_second_at_{at_once}"
    if not all(each.exact and each.record.last for each in called):
        return Finding.missed(name, "the server does not say what it counts")
    tokens = sum(c.usage.prompt_tokens - c.usage.cached_prompt_tokens for c in called)
    # A server that hides the only token still says when it has ended.
    begin = min(each.record.sent for each in called)
    end = max(each.record.first or each.record.last for each in called)
    return _rate(name, tokens, end - begin, f"{tokens:,} prompt tokens")


async def completion_rate(caller: Caller, at_once: int) -> Finding:
    """Completion tokens per second, from the first token of the first call to the last."""
    called = await together(
        [caller.call("throughput", _story(), most=_WRITE_TOKENS) for _ in range(at_once)]
    )
    name = f"completion_tokens_per_second_at_{at_once}"
    if not all(each.exact for each in called):
        return Finding.missed(name, "the server does not say what it counts")
    # The first token of each comes at the end of its prompt's time.
    tokens = sum(each.usage.completion_tokens - 1 for each in called)
    if tokens < _LEAST_WRITTEN * at_once or not all(each.record.first for each in called):
        return Finding.missed(name, f"the model wrote {tokens + at_once} tokens only")
    seconds = max(_lasts(called)) - min(each.record.first for each in called)
    return _rate(name, tokens, seconds, f"{tokens:,} completion tokens")


def _lasts(called: Iterable[Called]) -> list[float]:
    return [each.record.last for each in called]


def _rate(name: str, tokens: int, seconds: float, what: str) -> Finding:
    if tokens <= 0 or seconds <= 0:
        return Finding.missed(name, "it was too quick to time")
    return Finding.measured(name, float(f"{tokens / seconds:.4g}"), f"{what} in {seconds:.2f} s")


def _long_prompt(tokens: int) -> Prompt:
    """About so many tokens that no cache can have: the first words are new."""
    text = " ".join(question.passage for question in load_questions())
    while len(text) < tokens * _CHARACTERS_PER_TOKEN:
        text += " " + text
    text = f"{uuid.uuid4()} {text}"[: tokens * _CHARACTERS_PER_TOKEN]
    return Prompt((Message("user", f"{text}\n\nSay yes."),))


def _story() -> Prompt:
    ask = f"{uuid.uuid4()}. Tell a long story about a lighthouse keeper, of 500 words at least."
    return Prompt((Message("user", ask),))
