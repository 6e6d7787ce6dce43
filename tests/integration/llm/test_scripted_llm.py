"""The scripted server is what other tests trust; so it is tested too."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import jsonschema
import pytest

from tests.scripted_llm import Reply, Rule, ScriptedLLM, count, refuse, say

MESSAGES = [{"role": "user", "content": "Where does the fox live?"}]


async def post(server: ScriptedLLM, **body: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": server.model, "messages": MESSAGES, **body}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.base_url}/chat/completions", json=body) as response,
    ):
        return response.status, await response.json()


async def events(server: ScriptedLLM, **body: Any) -> list[dict[str, Any]]:
    body = {"model": server.model, "messages": MESSAGES, "stream": True, **body}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.base_url}/chat/completions", json=body) as response,
    ):
        lines = (await response.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def get_text(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def test_usage_equals_the_count_the_calls_and_the_metrics() -> None:
    async with ScriptedLLM([say("one two three")]) as server:
        _, answer = await post(server)
        call = server.calls[0]
        assert answer["usage"]["prompt_tokens"] == count(call.prompt) == call.prompt_tokens
        assert answer["usage"]["completion_tokens"] == 3 == server.completion_tokens
        metrics = await get_text(f"{server.root_url}/metrics")
        assert f'vllm:prompt_tokens_total{{engine="0",model_name="scripted"}} {call.prompt_tokens}'
        assert 'vllm:generation_tokens_total{engine="0",model_name="scripted"} 3.0' in metrics


async def test_vllm_puts_usage_on_every_chunk_when_asked() -> None:
    async with ScriptedLLM([say("one two three")]) as server:
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = await events(server, stream_options=options)
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == [0, 1, 2, 3, 3, 3]


async def test_llama_cpp_puts_timings_on_every_chunk_when_asked() -> None:
    async with ScriptedLLM([say("one two three")], style="llama.cpp") as server:
        chunks = await events(server, timings_per_token=True)
        counts = [chunk["timings"]["predicted_n"] for chunk in chunks if "timings" in chunk]
        assert counts == [1, 2, 3, 3, 3]
        timings = chunks[-1]["timings"]
        assert timings["prompt_n"] + timings["cache_n"] == server.prompt_tokens


async def test_answers_keep_to_the_schema() -> None:
    schema = {
        "type": "object",
        "required": ["items", "shape", "n"],
        "properties": {
            "shape": {"enum": ["TEAM", "SINGLE"]},
            "n": {"type": "integer", "minimum": 1, "maximum": 5},
            "items": {
                "type": "array",
                "maxItems": 2,
                "items": {
                    "type": "object",
                    "required": ["id", "after"],
                    "properties": {
                        "id": {"enum": ["q1", "q2", "q3"]},
                        "answer": {"type": "string", "maxLength": 9},
                        "after": {"type": "array", "items": {"type": "integer"}},
                    },
                },
            },
        },
    }
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    async with ScriptedLLM() as server:
        _, answer = await post(server, response_format=shape)
        value = json.loads(answer["choices"][0]["message"]["content"])
        jsonschema.validate(value, schema)
        assert [item["id"] for item in value["items"]] == ["q1", "q2"]


async def test_rules_match_by_text_purpose_and_number() -> None:
    rules = [
        Rule(say("purpose"), purpose="PLAN"),
        Rule(say("second fox"), contains="fox", nth=2),
        Rule(say("fox once"), contains="fox", times=1),
        Rule(lambda call: say(f"call {call.number}")),
    ]
    async with ScriptedLLM(rules) as server:
        for _ in range(3):
            await post(server)
        assert [call.text for call in server.calls] == ["fox once", "second fox", "call 3"]


async def test_refusals_carry_status_and_retry_after_and_count_nothing() -> None:
    async with ScriptedLLM([refuse(429, retry_after=3)]) as server:
        status, answer = await post(server)
        assert (status, answer["error"]["code"]) == (429, 429)
        assert server.total_tokens == 0
        assert server.calls[0].state == "refused"


async def test_a_client_that_leaves_stops_the_generation() -> None:
    async with ScriptedLLM([say("word " * 500, token_delay=0.005)]) as server:
        body = {"model": "scripted", "messages": MESSAGES, "stream": True}
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"{server.base_url}/chat/completions", json=body)
            await server.wait_until(lambda s: s.completion_tokens >= 5)
            response.close()
        await server.wait_idle()
        call = server.calls[0]
        assert call.state == "aborted"
        assert 5 <= call.completion_tokens < 100
        assert call.end is not None


async def test_the_prefix_cache_counts_whole_blocks() -> None:
    async with ScriptedLLM() as server:
        long = [{"role": "system", "content": "word " * 40}, *MESSAGES]
        for _ in range(2):
            await post(server, messages=long)
        first, second = server.calls
        assert first.cached_tokens == 0
        assert second.cached_tokens == (second.prompt_tokens - 1) // 16 * 16


async def test_slots_queue_and_a_full_queue_refuses() -> None:
    async with ScriptedLLM(slots=1, max_queued=1, token_delay=0.02) as server:
        statuses = [
            status
            for status, _ in await asyncio.gather(*(post(server, max_tokens=5) for _ in range(3)))
        ]
        assert sorted(statuses) == [200, 200, 503]
        assert server.max_concurrency >= 2


@pytest.mark.parametrize(("model", "status"), [("scripted", 200), ("other", 404)])
async def test_only_the_served_model_is_served(model: str, status: int) -> None:
    async with ScriptedLLM() as server:
        assert (await post(server, model=model))[0] == status


async def test_a_process_takes_its_script_over_http() -> None:
    async with ScriptedLLM() as server, aiohttp.ClientSession() as session:
        rules = [{"contains": "fox", "reply": {"text": "scripted over http"}}]
        await session.post(f"{server.root_url}/_script", json=rules)
        await post(server)
        listing = json.loads(await get_text(f"{server.root_url}/_calls"))
        assert listing["calls"][0]["text"] == "scripted over http"


async def test_it_serves_again_on_the_same_port_after_a_restart() -> None:
    async with ScriptedLLM() as server:
        port = server.port
        await server.close()
        await server.start()
        assert server.port == port
        assert (await post(server))[0] == 200


async def test_reasoning_comes_first_and_apart() -> None:
    async with ScriptedLLM([Reply(reasoning="so then", text="yes")]) as server:
        _, answer = await post(server)
        message = answer["choices"][0]["message"]
        assert (message["reasoning"], message["content"]) == ("so then", "yes")
        assert server.calls[0].reasoning_tokens == 2
