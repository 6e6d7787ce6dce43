"""What a route's server can do. Costs a few hundred tokens, on a route that reasons more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, get_args

from hma.errors import CallFailed
from hma.llm.base import Message, Prompt, ToolSpec
from hma.llm.probing.calling import Called, Caller, is_declined
from hma.llm.probing.findings import Finding
from hma.llm.profiles import ChunkUsage, Tokenizer
from hma.llm.routes import Route

_COUNT = Prompt((Message("user", "Count from one to twelve in words."),))
_COUNT_TOKENS = 24
_HELLO = Prompt(
    (Message("user", "Say hello in one short sentence, in plain words, without any braces."),),
    schema={
        "type": "object",
        "properties": {
            "light": {"type": "string", "enum": ["ultraviolet", "infrared"]},
            "sure": {"type": "boolean"},
        },
        "required": ["light", "sure"],
        "additionalProperties": False,
    },
)
_HELLO_TOKENS = 48
_TOOL = ToolSpec(
    "water_level",
    "Says how high the water of a river stands now, in centimetres.",
    {"type": "object", "properties": {"river": {"type": "string"}}, "required": ["river"]},
)
_RIVER = Prompt(
    (Message("user", "How high is the river Ame now? Use the tool to find out."),), tools=(_TOOL,)
)
_RIVER_TOKENS = 96
_PUZZLES = (
    "A shelf has red, green and blue books. There are twice as many red as green ones and three "
    "more blue than red ones. There are 43 books. How many are blue?",
    "Lea is older than Omar, Omar is older than Pia, and Quentin is younger than Pia. Rosa is "
    "younger than Lea but older than Omar. Who is the third oldest?",
    "A tank fills in 6 hours through one pipe and in 4 through another; a leak empties it in 12. "
    "How long does it take with all of them open?",
)
_PUZZLE_TOKENS = 1024
_ANSWER_TOKENS = 192
# Shorter thoughts are not worth limiting, and a limit on them proves nothing.
_WORTH_LIMITING = 64
# A server may close the thoughts with a few tokens of its own.
_SLACK = 16


async def tokenizer(caller: Caller) -> Finding:
    """How the server counts prompts, and whether that is what it charges."""
    tried = []
    for kind in _first(caller.route.profile.tokenizer, get_args(Tokenizer)):
        route = caller.variant(tokenizer=kind)
        count = await caller.count(_COUNT, route)
        if kind == "none" or not count.exact:
            continue
        called = await _plain_call(caller, "tokenizer", route)
        if called.exact and called.usage.prompt_tokens == count.tokens:
            return Finding.measured(
                "tokenizer", kind, f"counted {count.tokens}, charged {called.usage.prompt_tokens}"
            )
        charged = f"{called.usage.prompt_tokens}" if called.exact else "nobody knows what"
        tried.append(f"as {kind} it counted {count.tokens} and charged {charged}")
    why = "; ".join(tried) or "the server counts neither as vLLM nor as llama.cpp does"
    return Finding.measured("tokenizer", "none", why)


async def chunk_usage(caller: Caller) -> Finding:
    """Which usage a stream carries; decides how exactly an aborted call is booked."""
    for kind in _first(caller.route.profile.chunk_usage, get_args(ChunkUsage)):
        if kind == "final":
            continue
        try:
            called = await _plain_call(caller, "chunk_usage", caller.variant(chunk_usage=kind))
        except CallFailed as failure:
            if not is_declined(failure):
                raise
            continue
        if _says_usage_all_along(called):
            return Finding.measured("chunk_usage", kind, "every chunk says what was spent")
    return Finding.measured("chunk_usage", "final", "only the end says what was spent")


async def logprobs(caller: Caller) -> Finding:
    """Whether the server says how likely its tokens were."""
    try:
        called = await caller.call(
            "logprobs", _COUNT, most=_COUNT_TOKENS, route=caller.variant(logprobs=True)
        )
    except CallFailed as failure:
        if not is_declined(failure):
            raise
        return Finding.measured("logprobs", False, "the server declines to give them")
    found = sum(len(chunk.logprobs) for chunk in called.record.chunks)
    return Finding.measured("logprobs", found > 0, f"{found} for {_tokens(called)}")


async def thinking_switch(caller: Caller) -> Finding:
    """Whether the chat template knows `enable_thinking`: then it writes another prompt."""
    route = caller.variant(thinking_switch=True, reasoning=True)
    sizes: list[int] = []
    for think in (False, True):
        count = await caller.count(_COUNT, route, think=think)
        if not count.exact:
            try:
                called = await caller.call(
                    "thinking_switch", _COUNT, most=1, think=think, route=route
                )
            except CallFailed as failure:
                if not is_declined(failure):
                    raise
                return Finding.measured("thinking_switch", False, "the server declines it")
            if not called.exact:
                return Finding.missed("thinking_switch", "the server does not say what it counts")
            sizes.append(called.usage.prompt_tokens)
        else:
            sizes.append(count.tokens)
    differ = sizes[0] != sizes[1]
    note = f"the prompt has {sizes[0]} tokens without thinking, {sizes[1]} with it"
    return Finding.measured("thinking_switch", differ, note)


async def think_tokens(caller: Caller) -> Finding:
    """How long the model thinks; 0: not at all."""
    if not caller.route.reasoning:
        return Finding.void("think_tokens", "the route does not reason")
    most = min(_PUZZLE_TOKENS + _ANSWER_TOKENS, caller.route.context_tokens // 2)
    lengths, in_text, cut = [], False, 0
    for puzzle in _PUZZLES:
        called = await caller.call("think_tokens", _ask(puzzle), most=most, least=64, think=True)
        in_text = in_text or "</think>" in called.completion.text
        cut += called.completion.finish_reason == "length"
        if called.completion.reasoning and not called.usage.reasoning_tokens:
            return Finding.missed("think_tokens", "the server does not say how many they are")
        lengths.append(called.usage.reasoning_tokens)
    if in_text:
        return Finding.missed(
            "think_tokens", "thoughts come as text: start vLLM with --reasoning-parser"
        )
    note = f"{', '.join(map(str, lengths))} on {len(lengths)} puzzles"
    if cut:
        note += f"; {cut} cut at {most}"
    return Finding.measured("think_tokens", round(median(lengths)), note)


async def honours_think_budget(caller: Caller, typical: Any) -> Finding:
    """Whether the server ends thoughts when their budget is spent, and answers then.

    Args:
        caller: Makes the calls.
        typical: What `think_tokens` found; None: nothing.
    """
    key = "honours_think_budget"
    if not caller.route.reasoning:
        return Finding.void(key, "the route does not reason")
    if typical is None:
        return Finding.missed(key, "it is not known how long the model thinks")
    if typical < _WORTH_LIMITING:
        return Finding.void(key, f"thoughts of {typical} tokens need no limit")
    limit = max(16, typical // 4)
    try:
        # BudgetedLLM lets thoughts have what `most` leaves beside `least`.
        called = await caller.call(
            key,
            _ask(_PUZZLES[0]),
            most=limit + _ANSWER_TOKENS,
            least=_ANSWER_TOKENS,
            think=True,
            route=caller.variant(honours_think_budget=True),
        )
    except CallFailed as failure:
        if not is_declined(failure):
            raise
        return Finding.measured(key, False, "the server declines it")
    thought = called.usage.reasoning_tokens
    kept = 0 < thought <= limit + _SLACK and bool(called.completion.text.strip())
    return Finding.measured(key, kept, f"told {limit}, thought {thought} tokens")


async def constrains_json(caller: Caller) -> Finding:
    """Whether decoding follows a schema that the request speaks against."""
    try:
        called = await caller.call("json", _HELLO, most=_HELLO_TOKENS)
    except CallFailed as failure:
        if not is_declined(failure):
            raise
        return Finding.measured("constrains_json", False, "the server declines schemas")
    try:
        value = json.loads(called.completion.text)
        kept = (
            set(value) == {"light", "sure"}
            and value["light"] in ("ultraviolet", "infrared")
            and isinstance(value["sure"], bool)
        )
    except (ValueError, TypeError):
        kept = False
    said = " ".join(called.completion.text.split())
    return Finding.measured("constrains_json", kept, f"it wrote: {said[:60]}")


async def tools(caller: Caller) -> Finding:
    """Whether the model calls a tool, with arguments that can be read."""
    try:
        called = await caller.call("tools", _RIVER, most=_RIVER_TOKENS)
    except CallFailed as failure:
        if not is_declined(failure):
            raise
        return Finding.measured("tools", False, "the server declines tools")
    if not called.completion.tool_calls:
        return Finding.measured("tools", False, "it did not call the tool that it was told to")
    wanted = called.completion.tool_calls[0]
    try:
        good = wanted.name == _TOOL.name and bool(json.loads(wanted.arguments)["river"])
    except (ValueError, TypeError, KeyError):
        good = False
    shown = f"{wanted.name}({wanted.arguments})"
    return Finding.measured("tools", good, f"it called {shown[:60]}")


async def _plain_call(caller: Caller, name: str, route: Route) -> Called:
    return await caller.call(name, _COUNT, most=_COUNT_TOKENS, route=route)


def _ask(question: str) -> Prompt:
    return Prompt((Message("user", f"{question} End with the answer in one short sentence."),))


def _says_usage_all_along(called: Called) -> bool:
    """Whether each chunk with text says how many tokens there are by then."""
    texts = [chunk for chunk in called.record.chunks if chunk.text and not chunk.finish_reason]
    counts = [chunk.usage.completion_tokens for chunk in texts if chunk.usage is not None]
    return bool(texts) and len(counts) == len(texts) and counts == sorted(counts) and counts[0] > 0


def _first(known: str, all_of: Sequence[str]) -> Iterator[Any]:
    """All of them, the known one first."""
    yield known
    yield from (each for each in all_of if each != known)


def _tokens(called: Called) -> str:
    return f"{called.usage.completion_tokens} tokens"
