from __future__ import annotations

import dataclasses

import pytest

from hma.llm.base import Readiness
from hma.settings import Secret
from tests.integration.llm.attempts import Bench
from tests.scripted_llm import ScriptedLLM


async def readiness(server: ScriptedLLM, **changes: object) -> Readiness:
    async with Bench(server, **changes) as bench:
        return await bench.llm.readiness(bench.routes.default)


@pytest.mark.parametrize("style", ["vllm", "llama.cpp"])
async def test_a_server_with_the_model_is_ready(style: str) -> None:
    async with ScriptedLLM(style=style) as server:
        assert await readiness(server, model="scripted") == Readiness(True, "scripted is ready.")


async def test_without_a_model_name_the_served_one_is_used() -> None:
    async with ScriptedLLM(model="org/some-model") as server:
        assert (await readiness(server)).detail == "org/some-model is ready."


async def test_nothing_there_says_what_to_start_or_set() -> None:
    async with ScriptedLLM() as server:
        await server.close()
        state = await readiness(server)
        assert not state.ready
        assert state.detail.startswith(f"Nothing answers at {server.base_url}: start")
        assert "HMA_LLM_BASE_URL" in state.detail


async def test_a_loading_server_is_not_ready_until_it_has_loaded() -> None:
    async with ScriptedLLM(loading_for=60) as server, Bench(server) as bench:
        state = await bench.llm.readiness(bench.routes.default)
        assert not state.ready
        assert "still loading" in state.detail
        server.finish_loading()
        assert (await bench.llm.readiness(bench.routes.default)).ready


async def test_a_dead_engine_is_told_from_a_loading_one() -> None:
    async with ScriptedLLM() as server:
        server.fault["/health"] = 503
        state = await readiness(server)
        assert not state.ready
        assert "engine has died" in state.detail


async def test_a_wrong_model_name_shows_the_right_ones() -> None:
    async with ScriptedLLM(model="qwen") as server:
        state = await readiness(server, model="gwen")
        assert not state.ready
        assert 'does not serve "gwen"; it serves: qwen. Set HMA_LLM_MODEL' in state.detail


async def test_a_refused_key_names_its_setting() -> None:
    async with ScriptedLLM(api_key="right") as server:
        assert "HMA_LLM_API_KEY" in (await readiness(server)).detail
        assert (await readiness(server, api_key=Secret("right"))).ready


async def test_a_server_without_health_is_judged_by_its_models() -> None:
    async with ScriptedLLM() as server:
        server.fault["/health"] = 404
        assert (await readiness(server)).ready
        server.fault["/v1/models"] = 404
        assert "HTTP 404 to GET /models" in (await readiness(server)).detail


async def test_a_silent_server_does_not_hold_up_the_caller() -> None:
    async with ScriptedLLM() as server:
        server.delay["/health"] = 30
        state = await readiness(server)
        assert (state.ready, "within 2 s" in state.detail) == (False, True)


async def test_a_profile_for_another_kind_of_server_is_pointed_out() -> None:
    async with ScriptedLLM(style="llama.cpp") as server, Bench(server) as bench:
        route = bench.routes.default
        vllm = dataclasses.replace(
            route, profile=dataclasses.replace(route.profile, tokenizer="vllm")
        )
        state = await bench.llm.readiness(vllm)
        assert state.ready
        assert "runs on llama.cpp" in state.detail


async def test_a_smaller_context_than_configured_is_pointed_out() -> None:
    async with ScriptedLLM(context_tokens=4096) as server:
        state = await readiness(server)
        assert state.ready
        assert "HMA_LLM_CONTEXT_TOKENS=4096" in state.detail
