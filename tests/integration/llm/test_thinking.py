"""Thoughts have a hard limit, with and without the server's help, and their end is paid for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hma.llm.base import Completion, Message, Prompt
from hma.llm.thinking import GRACE_TOKENS
from hma.v1 import attempt_pb2
from tests.integration.llm.attempts import (
    Bench,
    GrantedAttempt,
    all_that_is_asked,
    at_most,
    is_exact,
    profiled,
    total,
)
from tests.scripted_llm import Reply, ScriptedLLM, count

WORK = attempt_pb2.CALL_PURPOSE_WORK
PROMPT = Prompt((Message("system", "Answer."), Message("user", "Where does the fox live?")))
THOUGHTS = "hmm " * 400


@pytest.fixture
async def server() -> AsyncIterator[ScriptedLLM]:
    async with ScriptedLLM() as llm:
        yield llm


@pytest.fixture
async def bench(server: ScriptedLLM) -> AsyncIterator[Bench]:
    async with Bench(server) as bench:
        yield bench


async def ask(bench: Bench, attempt: GrantedAttempt, **options: Any) -> Completion:
    values = {
        "purpose": WORK,
        "max_completion": 60,
        "min_completion": 30,
        "think": True,
        "answer_tokens": 20,
        **options,
    }
    return await bench.budgeted(attempt).complete(PROMPT, **values)


async def test_thoughts_beyond_their_budget_are_cut_at_the_server_and_counted(
    bench: Bench,
) -> None:
    bench.server.script = [Reply(reasoning=THOUGHTS, text="42", token_delay=0.05)]
    attempt = GrantedAttempt(route="reasoning")
    completion = await ask(bench, attempt)
    await bench.server.wait_idle()

    call = bench.server.calls[0]
    assert completion.only_thoughts
    assert (completion.finish_reason, completion.text) == ("abort", "")
    assert call.state == "aborted"
    assert 40 < call.reasoning_tokens <= 43, "60 less 20 for the answer, and what was on its way"
    assert is_exact(completion.usage)
    assert attempt.exact == bench.server.total_tokens
    assert attempt.calls[0].usage.reasoning_tokens == call.reasoning_tokens


@pytest.mark.parametrize("chunk_usage", ["continuous", "final"])
async def test_the_grant_for_thoughts_pays_for_the_answer_without_them_too(
    bench: Bench, chunk_usage: str
) -> None:
    # Without usage on its chunks, the call that was cut is booked at its maximum.
    bench.routes = profiled(bench.routes, chunk_usage=chunk_usage)
    bench.server.script = [Reply(reasoning=THOUGHTS, text="42", token_delay=0.01)]

    def what_the_first_left(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call == 1:
            return all_that_is_asked(intent)
        left = attempt.granted[1] - total(intent.previous.usage)
        return at_most(left)(intent)

    attempt = GrantedAttempt(what_the_first_left, route="reasoning")
    llm = bench.budgeted(attempt)
    first = await llm.complete(
        PROMPT, purpose=WORK, max_completion=60, min_completion=30, think=True, answer_tokens=20
    )
    second = await llm.complete(PROMPT, purpose=WORK, max_completion=20, min_completion=20)
    assert first.only_thoughts
    assert second.finish_reason == "stop"
    assert bench.server.calls[1].max_tokens == 20
    assert bench.server.total_tokens <= attempt.most <= attempt.granted[1]


async def test_what_is_kept_for_the_answer_is_never_sent_as_max_tokens(bench: Bench) -> None:
    attempt = GrantedAttempt(route="reasoning")
    await ask(bench, attempt)
    call, intent = bench.server.calls[0], attempt.intents[0]
    assert call.max_tokens == 60
    assert intent.max_completion_tokens - 60 == intent.min_completion_tokens - 30
    assert intent.max_completion_tokens >= 60 + call.prompt_tokens + 20
    assert attempt.calls[0].max_tokens == call.prompt_tokens + 60


async def test_a_clamped_grant_shortens_the_thoughts_and_not_the_answer(bench: Bench) -> None:
    bench.server.script = [Reply(reasoning=THOUGHTS, text="42", token_delay=0.05)]

    def ten_less(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        grant = all_that_is_asked(intent)
        grant.tokens -= 10
        return grant

    await ask(bench, GrantedAttempt(ten_less, route="reasoning"))
    await bench.server.wait_idle()
    assert bench.server.calls[0].max_tokens == 50
    assert 30 < bench.server.calls[0].reasoning_tokens <= 33


async def test_thoughts_within_their_budget_are_left_alone(bench: Bench) -> None:
    thoughts = "hmm " * 30
    bench.server.script = [Reply(reasoning=thoughts, text="It lives in a den.")]
    completion = await ask(bench, GrantedAttempt(route="reasoning"), max_completion=200)
    assert completion.text == "It lives in a den."
    assert completion.usage.reasoning_tokens == count(thoughts)
    assert not completion.only_thoughts


async def test_a_server_that_ends_thoughts_itself_is_told_when_and_asks_for_no_more(
    bench: Bench,
) -> None:
    bench.routes = profiled(bench.routes, honours_think_budget=True)
    attempt = GrantedAttempt(route="reasoning")
    await ask(bench, attempt)
    assert bench.server.calls[0].body["thinking_token_budget"] == 40
    assert attempt.intents[0].max_completion_tokens == 60


async def test_a_server_that_ignores_the_budget_it_promised_to_keep_is_cut(bench: Bench) -> None:
    bench.routes = profiled(bench.routes, honours_think_budget=True)
    bench.server.script = [Reply(reasoning=THOUGHTS, text="42", token_delay=0.02)]
    attempt = GrantedAttempt(route="reasoning")
    completion = await ask(bench, attempt, max_completion=300)
    await bench.server.wait_idle()
    assert completion.only_thoughts
    budget = 280 + GRACE_TOKENS
    assert budget < bench.server.calls[0].reasoning_tokens <= budget + 5
    assert bench.server.total_tokens <= attempt.most


async def test_thoughts_are_counted_by_piece_when_usage_comes_only_at_the_end(
    bench: Bench,
) -> None:
    bench.routes = profiled(bench.routes, chunk_usage="final")
    bench.server.script = [Reply(reasoning=THOUGHTS, text="42", token_delay=0.02)]
    attempt = GrantedAttempt(route="reasoning")
    completion = await ask(bench, attempt)
    await bench.server.wait_idle()
    assert completion.only_thoughts
    assert 40 < bench.server.calls[0].reasoning_tokens <= 45
    assert not is_exact(completion.usage)
    assert bench.server.total_tokens <= attempt.most


async def test_without_thinking_nothing_is_kept_and_nothing_is_cut(bench: Bench) -> None:
    bench.server.script = [Reply(reasoning="hmm " * 50, text="42")]
    attempt = GrantedAttempt(route="reasoning")
    completion = await ask(bench, attempt, think=False, max_completion=100)
    assert completion.text == "42"
    assert attempt.intents[0].max_completion_tokens == 100
