from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hma.errors import CallFailed
from hma.llm.base import CallBroken, Completion, Message, Prompt, ToolSpec
from hma.settings import Seconds
from hma.v1 import attempt_pb2, common_pb2
from tests.integration.llm.attempts import Bench, GrantedAttempt, at_most, is_exact, total
from tests.scripted_llm import Reply, Rule, ScriptedLLM, count, refuse, say

WORK = attempt_pb2.CALL_PURPOSE_WORK
PROMPT = Prompt((Message("system", "Answer."), Message("user", "Where does the fox live?")))
LONG = "word " * 200


@pytest.fixture
async def server() -> AsyncIterator[ScriptedLLM]:
    async with ScriptedLLM() as llm:
        yield llm


@pytest.fixture
async def bench(server: ScriptedLLM) -> AsyncIterator[Bench]:
    async with Bench(server) as bench:
        yield bench


async def ask(
    bench: Bench, attempt: GrantedAttempt, prompt: Prompt = PROMPT, **options: Any
) -> Completion:
    options = {"purpose": WORK, "max_completion": 50, "min_completion": 5, **options}
    return await bench.budgeted(attempt).complete(prompt, **options)


async def fails(bench: Bench, attempt: GrantedAttempt, **options: Any) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await ask(bench, attempt, **options)
    return caught.value


async def test_a_call_is_counted_granted_and_booked_exactly(bench: Bench) -> None:
    attempt = GrantedAttempt()
    completion = await ask(bench, attempt)

    call, row = bench.server.calls[0], attempt.calls[0]
    assert completion.text == call.text
    assert completion.finish_reason == "stop"
    assert attempt.intents[0].prompt_tokens == call.prompt_tokens
    assert (row.call, row.finish_reason, row.route, row.model) == (1, "stop", "fast", "scripted")
    assert is_exact(row.usage)
    assert total(row.usage) == bench.server.total_tokens
    assert row.max_tokens == call.prompt_tokens + call.max_tokens
    assert row.mean_logprob == pytest.approx(-0.25)
    assert row.duration.ToNanoseconds() >= row.time_to_first_token.ToNanoseconds() > 0


async def test_text_and_usage_reach_progress(bench: Bench) -> None:
    attempt = GrantedAttempt()
    llm = bench.budgeted(attempt)
    for _ in range(2):
        await llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)

    assert attempt.text == "".join(call.text for call in bench.server.calls)
    assert total(attempt.usage) == bench.server.total_tokens
    assert attempt.phases == ["waiting for the model", "writing"] * 2


async def test_with_on_text_the_text_goes_there_only(bench: Bench) -> None:
    attempt, pieces = GrantedAttempt(), list[str]()
    completion = await ask(bench, attempt, on_text=pieces.append)
    assert "".join(pieces) == completion.text
    assert len(pieces) > 3
    assert attempt.text == ""


async def test_max_tokens_is_clamped_to_the_grant(bench: Bench) -> None:
    bench.server.script = [say(LONG)]
    size = (await bench.budgeted(GrantedAttempt()).count(PROMPT)).tokens
    attempt = GrantedAttempt(at_most(size + 7))
    completion = await ask(bench, attempt)
    assert completion.finish_reason == "length"
    assert bench.server.calls[0].max_tokens == 7
    assert bench.server.total_tokens == size + 7 == attempt.exact


async def test_a_denied_grant_makes_no_call(bench: Bench) -> None:
    attempt = GrantedAttempt(at_most(10))
    failure = await fails(bench, attempt)
    assert failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert failure.message == "no tokens"
    assert bench.server.calls == []
    assert attempt.calls == []


async def test_a_prompt_that_cannot_fit_the_context_is_not_even_announced(
    server: ScriptedLLM,
) -> None:
    async with Bench(server, context_tokens=300) as bench:
        attempt = GrantedAttempt()
        failure = await fails(bench, attempt, prompt=Prompt((Message("user", LONG * 2),)))
        assert failure.failure_class == common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW
        assert attempt.intents == []


async def test_a_held_grant_that_covers_the_byte_bound_saves_the_count(bench: Bench) -> None:
    attempt = GrantedAttempt(first_grant=2000)
    await ask(bench, attempt)
    assert bench.server.requests == []
    assert attempt.intents[0].prompt_tokens > bench.server.prompt_tokens
    assert attempt.exact == bench.server.total_tokens


async def test_what_is_counted_is_what_is_sent_when_nfc_changes_the_text(bench: Bench) -> None:
    prompt = Prompt((Message("user", "cafe\u0301 \u0344 x"),))
    await ask(bench, GrantedAttempt(), prompt=prompt)
    sent = bench.server.calls[0].body["messages"]
    assert sent == bench.server.requests[0][1]["messages"]
    assert sent[0]["content"].startswith("caf\u00e9 ")


# -- stopping ---------------------------------------------------------------------------


async def test_a_stopped_call_keeps_its_text_and_is_booked_as_the_server_counted(
    bench: Bench,
) -> None:
    bench.server.script = [say(LONG, token_delay=0.05)]
    attempt = GrantedAttempt()
    calling = asyncio.create_task(ask(bench, attempt, max_completion=200))
    await bench.server.wait_until(lambda s: s.completion_tokens >= 10)
    attempt.stop.set()
    completion = await calling
    await bench.server.wait_idle()

    call = bench.server.calls[0]
    assert completion.finish_reason == "abort"
    assert completion.text == call.text
    assert 10 <= call.completion_tokens < 100
    assert call.state == "aborted"
    assert is_exact(completion.usage)
    assert attempt.exact == bench.server.total_tokens


async def test_a_stop_without_usage_on_chunks_is_an_upper_bound() -> None:
    async with (
        ScriptedLLM([say(LONG, token_delay=0.05)], style="llama.cpp") as server,
        Bench(server) as bench,
    ):
        attempt = GrantedAttempt()
        calling = asyncio.create_task(ask(bench, attempt, max_completion=200))
        await server.wait_until(lambda s: s.completion_tokens >= 10)
        attempt.stop.set()
        completion = await calling
        await server.wait_idle()
        assert completion.finish_reason == "abort"
        assert completion.text
        assert not is_exact(completion.usage)
        assert attempt.exact < server.total_tokens <= attempt.most
        assert total(completion.usage) == attempt.calls[0].max_tokens


async def test_a_stop_before_the_first_token_is_an_upper_bound(bench: Bench) -> None:
    bench.server.script = [Reply(hang_after=0)]
    attempt = GrantedAttempt()
    calling = asyncio.create_task(ask(bench, attempt))
    await bench.server.wait_until(lambda s: s.running == 1)
    attempt.stop.set()
    completion = await calling
    assert completion.finish_reason == "abort"
    assert total(completion.usage) == attempt.calls[0].max_tokens
    assert not is_exact(completion.usage)
    await bench.server.wait_idle()


async def test_a_stop_before_anything_was_sent_costs_nothing(bench: Bench) -> None:
    attempt = GrantedAttempt()
    attempt.stop.set()
    completion = await ask(bench, attempt)
    assert completion.finish_reason == "abort"
    assert bench.server.calls == []
    assert is_exact(attempt.calls[0].usage)
    assert attempt.most == 0


async def test_a_call_ends_with_its_attempts_time(bench: Bench) -> None:
    bench.server.script = [say(LONG, token_delay=0.5)]
    attempt = GrantedAttempt(seconds=1.5)
    completion = await ask(bench, attempt, max_completion=200)
    await bench.server.wait_idle()
    assert completion.finish_reason == "abort"
    assert attempt.exact == bench.server.total_tokens


async def test_cancelling_books_the_upper_bound_and_stops_the_server(bench: Bench) -> None:
    bench.server.script = [say(LONG, token_delay=0.05)]
    attempt = GrantedAttempt()
    calling = asyncio.create_task(ask(bench, attempt, max_completion=200))
    await bench.server.wait_until(lambda s: s.completion_tokens >= 3)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await bench.server.wait_idle()
    assert bench.server.calls[0].state == "aborted"
    assert bench.server.total_tokens <= attempt.most == attempt.calls[0].max_tokens


async def test_white_space_without_end_is_cut_under_a_schema(bench: Bench) -> None:
    bench.server.script = [Reply(text='{"a": 1', whitespace=4, token_delay=0.01, chunk_tokens=4)]
    attempt = GrantedAttempt()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    prompt = Prompt(PROMPT.messages, schema=schema)
    completion = await ask(bench, attempt, prompt=prompt, max_completion=2000)
    await bench.server.wait_idle()
    assert completion.finish_reason == "abort"
    assert completion.text.startswith('{"a"')
    assert bench.server.completion_tokens < 100
    assert attempt.exact == bench.server.total_tokens


# -- failing and retrying -----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_refusal_is_retried_on_the_same_grant_and_costs_nothing(
    bench: Bench, status: int
) -> None:
    bench.server.script = [refuse(status), refuse(status)]
    attempt = GrantedAttempt()
    completion = await ask(bench, attempt)
    assert completion.finish_reason == "stop"
    assert [call.status for call in bench.server.calls] == [status, status, 200]
    assert len(attempt.intents) == len(attempt.calls) == 1
    assert attempt.exact == bench.server.total_tokens


async def test_retry_after_is_honoured(bench: Bench) -> None:
    bench.server.script = [refuse(429, retry_after=0.4)]
    await ask(bench, GrantedAttempt())
    first, second = bench.server.calls
    assert second.start - first.start >= 0.4


async def test_a_retry_after_beyond_the_deadline_fails_at_once_and_says_when(
    bench: Bench,
) -> None:
    bench.server.script = [refuse(429, retry_after=3600)]
    attempt = GrantedAttempt(seconds=1800)
    async with asyncio.timeout(30):
        failure = await fails(bench, attempt)
    assert failure.failure_class == common_pb2.FAILURE_CLASS_RATE_LIMITED
    assert failure.retry_after == 3600
    assert len(bench.server.calls) == 1
    assert is_exact(attempt.calls[0].usage)
    assert attempt.most == 0


async def test_three_tries_and_no_more(bench: Bench) -> None:
    bench.server.script = [Rule(refuse(503))]
    attempt = GrantedAttempt()
    failure = await fails(bench, attempt)
    assert failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert len(bench.server.calls) == 3
    assert [row.finish_reason for row in attempt.calls] == ["error"]
    assert attempt.most == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, common_pb2.FAILURE_CLASS_INTERNAL),
        (401, common_pb2.FAILURE_CLASS_AUTH),
        (404, common_pb2.FAILURE_CLASS_INTERNAL),
        (422, common_pb2.FAILURE_CLASS_INTERNAL),
    ],
)
async def test_what_a_retry_cannot_help_is_not_retried(
    bench: Bench, status: int, expected: int
) -> None:
    bench.server.script = [Rule(refuse(status))]
    assert (await fails(bench, GrantedAttempt())).failure_class == expected
    assert len(bench.server.calls) == 1


async def test_a_server_that_is_not_there_is_no_matter_of_tokens(server: ScriptedLLM) -> None:
    async with Bench(server, model="scripted") as bench:
        size = (await bench.budgeted(GrantedAttempt()).count(PROMPT)).tokens
        await server.close()
        # Enough for the call, but not for the bound of its bytes, which stands uncounted.
        failure = await fails(bench, GrantedAttempt(at_most(size + 20)))
    assert failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT


async def test_a_server_that_is_not_there_costs_nothing(server: ScriptedLLM) -> None:
    async with Bench(server, model="scripted") as bench:
        await server.close()
        attempt = GrantedAttempt()
        failure = await fails(bench, attempt)
        assert failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
        assert attempt.most == 0


@pytest.mark.parametrize(
    "fault",
    [
        Reply(text=LONG, disconnect_after=5),
        Reply(text=LONG, broken_chunk_after=5),
        Reply(text=LONG, error_after=5),
        Reply(text=LONG, finish_reason="abort", cut_at=0.1),
    ],
    ids=["disconnect", "malformed", "error chunk", "server abort"],
)
async def test_a_broken_call_is_booked_and_asked_for_again(bench: Bench, fault: Reply) -> None:
    bench.server.script = [fault]
    attempt = GrantedAttempt()
    completion = await ask(bench, attempt)
    assert completion.finish_reason == "stop"
    assert [row.call for row in attempt.calls] == [1, 2]
    assert attempt.calls[0].finish_reason == "error"
    assert attempt.intents[1].previous == attempt.calls[0]
    assert attempt.exact <= bench.server.total_tokens <= attempt.most


async def test_a_call_says_what_it_is_about_on_every_try_and_in_the_ledger(bench: Bench) -> None:
    bench.server.script = [Reply(text=LONG, disconnect_after=5), refuse(503)]
    attempt = GrantedAttempt()
    await ask(bench, attempt, items=3, calls_left=2)
    assert [(intent.items, intent.calls_left) for intent in attempt.intents] == [(3, 2)] * 2
    assert [row.items for row in attempt.calls] == [3, 3]
    assert [call.status for call in bench.server.calls] == [200, 503, 200]


async def test_a_stop_while_the_prompt_is_counted_ends_the_waiting(bench: Bench) -> None:
    bench.server.delay["/tokenize"] = 60.0
    attempt = GrantedAttempt(at_most(0))
    calling = asyncio.create_task(fails(bench, attempt))
    await asyncio.sleep(0.1)  # the count is on its way, and nothing tells
    attempt.stop.set()
    async with asyncio.timeout(30):
        await calling
    assert bench.server.calls == []


async def test_a_broken_call_is_not_retried_without_a_grant_for_it(bench: Bench) -> None:
    bench.server.script = [Reply(text=LONG, disconnect_after=5)]

    def only_the_first(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        return at_most(1000 if intent.call == 1 else 0)(intent)

    attempt = GrantedAttempt(only_the_first)
    assert (await fails(bench, attempt)).failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert len(bench.server.calls) == 1


async def test_text_that_was_passed_on_is_not_generated_again(bench: Bench) -> None:
    bench.server.script = [Reply(text=LONG, disconnect_after=5)]
    attempt, pieces = GrantedAttempt(), list[str]()
    with pytest.raises(CallBroken) as caught:
        await ask(bench, attempt, on_text=pieces.append)
    assert caught.value.partial == "".join(pieces) == "word word word word word"
    assert caught.value.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert len(bench.server.calls) == 1


async def test_a_call_that_hangs_times_out_at_its_upper_bound(server: ScriptedLLM) -> None:
    server.script = [Reply(text=LONG, hang_after=5)]
    async with Bench(server, stall_timeout=Seconds(0.3)) as bench:
        attempt = GrantedAttempt()
        failure = await fails(bench, attempt)
        assert failure.failure_class == common_pb2.FAILURE_CLASS_TIMEOUT
        assert server.total_tokens <= attempt.most == attempt.calls[0].max_tokens


async def test_declined_content_is_refused_and_paid_for(bench: Bench) -> None:
    bench.server.script = [Reply(text="I", finish_reason="content_filter")]
    attempt = GrantedAttempt()
    failure = await fails(bench, attempt)
    assert failure.failure_class == common_pb2.FAILURE_CLASS_REFUSED
    assert attempt.exact == bench.server.total_tokens > 0


async def test_a_server_that_counts_more_than_announced_is_believed_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.server.script = [Reply(text="yes", usage="wrong")]
    attempt = GrantedAttempt()
    await ask(bench, attempt)
    announced = attempt.intents[0].prompt_tokens
    assert attempt.calls[0].usage.prompt_tokens == announced + 7
    assert "counted more prompt tokens" in caplog.text


async def test_a_call_without_usage_is_booked_at_its_maximum(bench: Bench) -> None:
    bench.server.script = [Reply(text="yes", usage="none")]
    attempt = GrantedAttempt()
    completion = await ask(bench, attempt)
    assert completion.text == "yes"
    assert not is_exact(completion.usage)
    assert bench.server.total_tokens <= attempt.most == attempt.calls[0].max_tokens


# -- what is sent ---------------------------------------------------------------------------


async def test_a_schema_constrains_the_answer(bench: Bench) -> None:
    ids = {"type": "string", "enum": ["q1", "q2"]}
    item = {"type": "object", "properties": {"id": ids, "answer": {"type": "string"}}}
    schema = {"type": "object", "properties": {"items": {"type": "array", "items": item}}}
    completion = await ask(
        bench, GrantedAttempt(), prompt=Prompt(PROMPT.messages, schema=schema), max_completion=200
    )
    assert '"id": "q2"' in completion.text
    assert bench.server.calls[0].body["response_format"]["json_schema"]["schema"] == schema


async def test_tool_calls_come_back_whole_and_exactly_counted(bench: Bench) -> None:
    bench.server.script = [Reply(tool_calls=(("search", {"query": "fox den"}),))]
    tool = ToolSpec("search", "Searches.", {"type": "object", "properties": {}})
    attempt = GrantedAttempt()
    completion = await ask(bench, attempt, prompt=Prompt(PROMPT.messages, tools=(tool,)))
    assert completion.finish_reason == "tool_calls"
    assert [(c.name, c.arguments) for c in completion.tool_calls] == [
        ("search", '{"query": "fox den"}')
    ]
    assert attempt.intents[0].prompt_tokens == bench.server.prompt_tokens
    assert attempt.exact == bench.server.total_tokens


@pytest.mark.parametrize(
    ("route", "think", "expected"),
    [("fast", True, False), ("reasoning", True, True), ("reasoning", False, False)],
)
async def test_thinking_needs_both_the_route_and_the_caller(
    bench: Bench, route: str, think: bool, expected: bool
) -> None:
    await ask(bench, GrantedAttempt(route=route), think=think)
    sent = [bench.server.requests[0][1], bench.server.calls[0].body]
    assert [body["chat_template_kwargs"] for body in sent] == [{"enable_thinking": expected}] * 2


async def test_thoughts_are_kept_apart_and_counted(bench: Bench) -> None:
    bench.server.script = [Reply(reasoning="let me think", text="42")]
    completion = await ask(bench, GrantedAttempt(route="reasoning"), think=True)
    assert (completion.reasoning, completion.text) == ("let me think", "42")
    assert completion.usage.reasoning_tokens == count("let me think")


async def test_priority_is_sent_only_to_servers_that_take_it(server: ScriptedLLM) -> None:
    for wanted in (True, False):
        async with Bench(server, priority=wanted) as bench:
            await ask(bench, GrantedAttempt(priority=3))
    assert [call.body.get("priority") for call in server.calls] == [3, None]


async def test_the_server_is_told_job_call_and_purpose(bench: Bench) -> None:
    await ask(bench, GrantedAttempt())
    headers = bench.server.calls[0].headers
    assert headers["x-hma-job"] == "job"
    assert headers["x-hma-call"] == "1.1/1/1"
    assert headers["x-hma-purpose"] == "WORK"


async def test_calls_of_one_attempt_run_one_after_another(bench: Bench) -> None:
    attempt = GrantedAttempt()
    llm = bench.budgeted(attempt)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(
                llm.complete(PROMPT, purpose=WORK, max_completion=50, min_completion=5)
            )
    assert bench.server.max_concurrency == 1
    assert [row.call for row in attempt.calls] == [1, 2, 3]


async def test_an_unknown_route_is_named(bench: Bench) -> None:
    with pytest.raises(CallFailed, match=r'"slow" is not configured here; there are: fast, reas'):
        bench.budgeted(GrantedAttempt(route="slow"))
