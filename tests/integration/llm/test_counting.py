from __future__ import annotations

import asyncio
import dataclasses

import httpx2
import pytest

from hma.llm import counting
from hma.llm.base import Message, Prompt, ToolCall, ToolSpec
from hma.llm.counting import byte_bound
from hma.llm.routes import load_routes
from hma.llm.settings import LlmSettings
from hma.settings import Seconds
from hma.v1 import attempt_pb2
from tests.integration.llm.attempts import Bench, GrantedAttempt
from tests.scripted_llm import ScriptedLLM

TOOL = ToolSpec(
    "search", "Finds é.", {"type": "object", "properties": {"query": {"type": "string"}}}
)
PROMPTS = [
    Prompt((Message("user", "hi"),)),
    Prompt((Message("system", "Be brief."), Message("user", "naïve café, 日本語!"))),
    Prompt((Message("user", "find it"),), tools=(TOOL,)),
    Prompt(
        (
            Message("user", "find it"),
            Message("assistant", "", (ToolCall("c1", "search", '{"query": "it"}'),)),
            Message("tool", "found", tool_call_id="c1"),
        ),
        tools=(TOOL,),
    ),
]


@pytest.mark.parametrize("style", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("number", range(len(PROMPTS)))
async def test_the_count_is_what_the_server_will_count(style: str, number: int) -> None:
    async with ScriptedLLM(style=style) as server, Bench(server) as bench:
        prompt = PROMPTS[number].normalized()
        count = await bench.llm.count_tokens(bench.routes.default, prompt, think=False)
        attempt = GrantedAttempt()
        await bench.budgeted(attempt).complete(
            prompt, purpose=attempt_pb2.CALL_PURPOSE_WORK, max_completion=50, min_completion=1
        )
        assert count.exact
        assert count.tokens == server.calls[0].prompt_tokens
        assert count.tokens <= byte_bound(prompt)


@pytest.mark.parametrize("style", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("status", [404, 500, 503])
async def test_the_bound_stands_when_the_server_cannot_count(style: str, status: int) -> None:
    async with ScriptedLLM(style=style) as server, Bench(server) as bench:
        server.fault["/tokenize"] = status
        count = await bench.llm.count_tokens(bench.routes.default, PROMPTS[0], think=False)
        assert (count.tokens, count.exact) == (byte_bound(PROMPTS[0]), False)


async def test_the_bound_stands_when_counting_takes_too_long() -> None:
    async with ScriptedLLM() as server, Bench(server, count_timeout=Seconds(0.2)) as bench:
        server.delay["/tokenize"] = 60
        async with asyncio.timeout(30):
            count = await bench.llm.count_tokens(bench.routes.default, PROMPTS[0], think=False)
        assert not count.exact


async def test_the_bound_stands_when_the_server_is_of_another_kind_than_its_profile() -> None:
    async with ScriptedLLM(style="llama.cpp") as server, Bench(server) as bench:
        route = bench.routes.default
        vllm = dataclasses.replace(
            route, profile=dataclasses.replace(route.profile, tokenizer="vllm")
        )
        assert not (await bench.llm.count_tokens(vllm, PROMPTS[0], think=False)).exact


async def test_a_route_without_a_tokenizer_asks_nobody() -> None:
    async with ScriptedLLM() as server, Bench(server) as bench:
        route = bench.routes.default
        hosted = dataclasses.replace(
            route, profile=dataclasses.replace(route.profile, tokenizer="none")
        )
        count = await bench.llm.count_tokens(hosted, PROMPTS[0], think=False)
        assert not count.exact
        assert server.requests == []


@pytest.mark.parametrize("answer", [{"count": 0}, {"count": "9"}, {"tokens": []}, [], "9", None])
async def test_an_answer_that_is_no_count_is_not_believed(answer: object) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=answer)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(respond)) as http:
        route = load_routes(LlmSettings(base_url="http://model/v1", model="m")).default
        count = await counting.count(http, route, "m", PROMPTS[0], think=False, timeout=30)
    assert (count.tokens, count.exact) == (byte_bound(PROMPTS[0]), False)
