"""The probe against scripted servers: what it finds, what it spends, what it does not guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hma.errors import Unavailable
from hma.llm.calibration import Calibration
from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.probing.findings import Finding, Findings, Standing
from hma.llm.probing.run import probe
from hma.llm.profiles import PRESETS, derive_profile
from hma.llm.settings import LlmSettings, RetryPolicy
from hma.settings import Secret
from tests.integration.llm.strong_model import StrongModel
from tests.scripted_llm import Reply, ScriptedLLM
from tests.scripted_llm.call import Call


async def probed(
    server: ScriptedLLM,
    route: str = "fast",
    *,
    budget: int = 60_000,
    deadline: float = 60.0,
    concurrency: int = 4,
    progress: Callable[[Finding], None] = lambda finding: None,
    **changes: Any,
) -> Findings:
    settings = LlmSettings(base_url=server.base_url, **changes)
    async with OpenAICompatible(settings) as llm:
        return await probe(
            llm,
            server.routes(**changes)[route],
            RetryPolicy(tries=2, initial=0.0),
            budget=budget,
            deadline=deadline,
            concurrency=concurrency,
            progress=progress,
        )


async def test_a_strong_model_on_vllm_is_found_to_be_strong() -> None:
    async with ScriptedLLM(StrongModel()) as server:
        found = await probed(server)
    assert found.missing == ()
    assert found.model == "scripted"
    values = dict(found.values)
    calibration = values.pop("calibration")
    rates = {key for key in values if "per_second" in key}
    assert len(rates) == 4
    assert all(values.pop(key) > 0 for key in rates)
    assert values.pop("answer_tokens") % 8 == 0
    assert values == {
        "tokenizer": "vllm",
        "chunk_usage": "continuous",
        "logprobs": True,
        "thinking_switch": True,
        "constrains_json": True,
        "tools": True,
        "can_plan": True,
        "can_reduce": True,
        "answer_style": "json",
        "max_batch": 8,
        "examples": 0,
        "accuracy": 1.0,
    }
    assert calibration.probability_good(grounded=True, mean_logprob=-0.1) > 0.9


async def test_the_probe_spends_what_the_server_counts() -> None:
    async with ScriptedLLM(StrongModel()) as server:
        found = await probed(server)
        assert found.spent == server.total_tokens
        assert found.calls == len(server.calls)
        assert server.max_concurrency == 4


async def test_the_profile_can_be_used_as_it_is() -> None:
    async with ScriptedLLM(StrongModel(wrong_every=3)) as server:
        found = await probed(server)
    profile = derive_profile(json.loads(json.dumps(found.whole_profile)), PRESETS)
    assert profile.max_batch == 8
    assert profile.retrieval == "section"  # not measured: as it was
    assert isinstance(profile.calibration, Calibration)
    # Wrong answers were less likely, and not in the source.
    sure = profile.calibration.probability_good(grounded=True, mean_logprob=-0.1)
    unsure = profile.calibration.probability_good(grounded=False, mean_logprob=-2.0)
    assert unsure < 0.2 < 0.8 < sure


async def test_llama_cpp_is_told_from_vllm_whatever_the_profile_says() -> None:
    async with ScriptedLLM(StrongModel(), style="llama.cpp") as server:
        settings = LlmSettings(base_url=server.base_url, profile="standard")
        route = server.routes()["fast"]
        assert PRESETS["standard"].tokenizer == "vllm"
        async with OpenAICompatible(settings) as llm:
            found = await probe(
                llm,
                # As one who has not read the manual would have it.
                type(route)(
                    name="fast", base_url=server.base_url, model="", profile=PRESETS["standard"]
                ),
                RetryPolicy(tries=1),
                budget=20_000,
                deadline=60,
                concurrency=2,
                progress=lambda finding: None,
            )
    assert found.values["tokenizer"] == "llama.cpp"
    assert found.values["chunk_usage"] == "timings"


async def test_a_server_that_charges_something_else_is_not_believed_to_count() -> None:
    def lying(call: Call) -> Reply:
        return Reply(usage="wrong")

    async with ScriptedLLM(lying) as server:
        found = await probed(server, budget=3_000)
    assert found.values["tokenizer"] == "none"
    assert found.measured_profile["tokenizer"] == "none"


@pytest.mark.parametrize(
    ("flaw", "values"),
    [
        ({"calls_tools": False}, {"tools": False}),
        ({"plans": False}, {"can_plan": False}),
        ({"reduces": False}, {"can_reduce": False}),
        ({"best_batch": 4}, {"max_batch": 4}),
        ({"best_batch": 1}, {"max_batch": 1}),
        ({"best_batch": 0}, {"answer_style": "plain", "max_batch": 1, "examples": 3}),
        ({"wrong_every": 2}, {"accuracy": 0.5}),
        ({"wrong_every": 1}, {"accuracy": 0.0, "max_batch": 1}),
        ({"refused": ("logprobs",)}, {"logprobs": False}),
        ({"refused": ("tools",)}, {"tools": False}),
        ({"refused": ("response_format",)}, {"constrains_json": False, "answer_style": "plain"}),
        ({"refused": ("continuous_usage_stats",)}, {"chunk_usage": "final"}),
    ],
)
async def test_what_a_model_or_its_server_cannot_do_is_found(
    flaw: dict[str, Any], values: dict[str, Any]
) -> None:
    async with ScriptedLLM(StrongModel(**flaw)) as server:
        found = await probed(server)
    assert {key: found.values.get(key) for key in values} == values


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_route_that_reasons_is_measured_thinking(obeys: bool) -> None:
    async with ScriptedLLM(StrongModel(thoughts=200, obeys_think_budget=obeys)) as server:
        found = await probed(server, "reasoning")
    assert found.values["think_tokens"] == 200
    assert found.values["honours_think_budget"] is obeys


async def test_thinking_does_not_apply_to_a_route_that_does_not_reason() -> None:
    async with ScriptedLLM(StrongModel(thoughts=200)) as server:
        found = await probed(server)
    standings = {each.feature: each.standing for each in found.features}
    assert standings["think_tokens"] is Standing.DOES_NOT_APPLY
    assert standings["honours_think_budget"] is Standing.DOES_NOT_APPLY
    assert "think_tokens" not in found.missing


@pytest.mark.parametrize("budget", [1, 40, 700, 3_000, 9_000, 15_000])
async def test_the_budget_is_never_exceeded_and_what_it_could_not_pay_is_not_guessed(
    budget: int,
) -> None:
    async with ScriptedLLM(StrongModel()) as server:
        found = await probed(server, budget=budget)
        assert server.total_tokens == found.spent <= budget
    assert "calibration" not in found.values or len(found.missing) < 12
    assert not set(found.missing) & set(found.measured_profile)
    notes = {each.feature: each.note for each in found.features if each.feature in found.missing}
    if budget < 15_000:
        assert any("--budget" in note for note in notes.values())


async def test_a_probe_ends_by_its_deadline() -> None:
    async with ScriptedLLM(StrongModel(), token_delay=0.05) as server:
        found = await probed(server, deadline=1.5)
        await server.wait_idle()
        assert found.spent >= server.total_tokens
    assert {"can_plan", "accuracy"} <= set(found.missing)
    assert any("--deadline" in each.note for each in found.features)


async def test_progress_tells_each_finding_as_it_is_made() -> None:
    told: list[Finding] = []
    async with ScriptedLLM(StrongModel()) as server:
        found = await probed(server, budget=5_000, progress=told.append)
    assert tuple(told) == found.features


async def test_a_server_that_fails_at_one_thing_is_measured_at_the_others() -> None:
    strong = StrongModel()

    def script(call: Call) -> Reply:
        return Reply(status=500) if "You plan work" in call.prompt else strong(call)

    async with ScriptedLLM(script) as server:
        found = await probed(server)
    assert found.missing == ("can_plan",)
    assert found.values["max_batch"] == 8


async def test_no_further_questions_are_asked_once_one_cannot_be() -> None:
    strong = StrongModel()

    def script(call: Call) -> Reply:
        return Reply(status=400) if "\nQuestion: " in call.prompt else strong(call)

    async with ScriptedLLM(script) as server:
        found = await probed(server, concurrency=2)
        asked = [call for call in server.calls if "\nQuestion: " in call.prompt]
    # Those that were under way together.
    assert len(asked) <= 2
    # What belongs to a style of answering is not told of another one.
    style = {"answer_style", "max_batch", "answer_tokens", "prompt_tokens", "examples"}
    assert style | {"accuracy", "calibration"} <= set(found.missing)


async def test_a_question_that_failed_once_is_asked_again_and_no_other_is() -> None:
    strong = StrongModel()
    failed: list[Call] = []

    def script(call: Call) -> Reply:
        if not failed and "The library lends" in call.prompt and "Items:" in call.prompt:
            failed.append(call)
            return Reply(status=400)
        return strong(call)

    async with ScriptedLLM(script) as server:
        found = await probed(server)
    assert failed
    assert found.missing == ("max_batch",)
    (accuracy,) = (each for each in found.features if each.feature == "accuracy")
    assert accuracy.note == ("34 of 34 where the passage says it, 6 of 6 where it does not")


async def test_a_server_that_is_away_or_refuses_the_key_is_named() -> None:
    async with ScriptedLLM(StrongModel(), api_key="right") as server:
        with pytest.raises(Unavailable, match="HMA_LLM_API_KEY"):
            await probed(server, api_key=Secret("wrong"))
        await server.close()
        with pytest.raises(Unavailable, match="Nothing answers"):
            await probed(server, api_key=Secret("right"))
