"""AnalystService.Plan over real gRPC, with a scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.settings import LlmSettings
from hma.rpc.attempt_stream import Refused, plan_stream
from hma.rpc.reporter import Reporter
from hma.rpc.slots import Slots
from hma.text.items import find_items
from hma.text.outline import outline
from hma.v1 import analyst_pb2, analyst_pb2_grpc, attempt_pb2, common_pb2
from services.analyst.inputs import Inputs
from services.analyst.servicer import AnalystServicer
from tests.integration.analyst.driver import (
    Run,
    attempt_start,
    deny,
    drive,
    least,
    only_first,
    pay,
)
from tests.integration.rpc.support import serving
from tests.scripted_llm import Reply, Rule, ScriptedLLM, refuse
from tests.unit.analyst.plans import assert_covers_all, assert_valid_prefix

DESCRIPTION = "For visitors.\n\n1. When does it open?\n2. What does it cost?\n3. Why is it so?"
HANDBOOK = "# Opening\n\nNine to five.\n\n# Prices\n\nTen euros.\n"
PLAN = {
    "brief": {"objective": "Answer visitors.", "audience": "visitors", "constraints": []},
    "shape": "team",
    "n": 3,
    "tasks": [
        {"do": "Find hours.", "in": ["d1#0"], "after": [], "size": "low", "items": ["q1"]},
        {"do": "Find prices.", "in": ["d1#1"], "after": [], "size": "low", "items": ["q2"]},
        {"do": "Explain.", "in": [], "after": [1, 2], "size": "high", "items": ["q3"]},
    ],
}


@asynccontextmanager
async def analyst(
    llm: ScriptedLLM, *, places: int = 4, profile: str = ""
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to an Analyst that calls the scripted model."""
    settings = LlmSettings(base_url=llm.base_url, model=llm.model, profile=profile)
    routes = llm.routes(model=llm.model, profile=profile)
    async with (
        OpenAICompatible(settings) as provider,
        grpc.aio.insecure_channel("127.0.0.1:1") as nowhere,
        Reporter(nowhere) as reporter,
        Slots(places) as slots,
    ):
        servicer = AnalystServicer(provider, routes, slots, reporter)

        def register(server: grpc.aio.Server) -> None:
            analyst_pb2_grpc.add_AnalystServiceServicer_to_server(servicer, server)

        async with serving(register) as channel:
            yield channel


def plan_start(**changes: Any) -> analyst_pb2.PlanStart:
    route = changes.pop("route", "")
    values: dict[str, Any] = {
        "attempt": attempt_start("p.1", route=route),
        "task_description": DESCRIPTION,
        "documents": [outline("d1", "handbook.md", "text/markdown", HANDBOOK)],
        "items": find_items(DESCRIPTION),
        "max_tasks": 5,
        "task_budget_tokens": 5_000,
    }
    return analyst_pb2.PlanStart(**{**values, **changes})


def checked(run: Run, llm: ScriptedLLM, *, whole: bool = True) -> Run:
    """Every prefix is valid, the count is right, and every token is in the result."""
    inputs = Inputs.of(plan_start(), llm.routes().default)
    for end in range(len(run.fragments) + 1):
        tasks = assert_valid_prefix(run.fragments[:end], inputs)
    if whole:
        assert_covers_all(tasks, inputs)
        assert run.result.plan.tasks == len(tasks)
    spent = sum(c.usage.prompt_tokens + c.usage.completion_tokens for c in run.result.calls)
    assert spent == llm.total_tokens
    for call, intent in zip(run.result.calls, run.intents, strict=False):
        assert call.max_tokens <= intent.prompt_tokens + intent.max_completion_tokens
    return run


async def plan(llm: ScriptedLLM, **options: Any) -> Run:
    start = options.pop("start", None) or plan_start()
    profile = options.pop("profile", "")
    async with analyst(llm, profile=profile) as channel:
        return await drive(plan_stream(channel, start), **options)


async def test_a_model_plan_is_streamed_while_it_is_written() -> None:
    text = json.dumps(PLAN)
    async with ScriptedLLM([Reply(text=text, token_delay=0.004)]) as llm:
        written_when_seen: list[int] = []

        def watch(run: Run) -> bool:
            if len(run.fragments) > len(written_when_seen):
                written_when_seen.append(len(llm.calls[0].text))
            return False

        run = checked(await plan(llm, stop_when=watch), llm)
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
    assert run.result.plan.source == attempt_pb2.PLAN_SOURCE_MODEL
    assert run.result.plan.reason == ""
    brief, *tasks = run.fragments
    assert brief.brief.origin == common_pb2.ORIGIN_MODEL
    assert [list(f.task.depends_on) for f in tasks] == [[], [], ["t1", "t2"]]
    assert [list(f.task.documents) for f in tasks] == [["d1#0"], ["d1#1"], []]
    # The brief and the first task came long before the plan was whole.
    assert written_when_seen[0] < len(text) / 2
    assert written_when_seen[1] < len(text) * 0.8


async def test_the_schema_goes_to_the_server_and_its_output_is_a_plan() -> None:
    async with ScriptedLLM() as llm:  # writes whatever the schema allows
        run = checked(await plan(llm), llm)
        assert llm.calls[0].purpose == "PLAN"
        assert "brief" in json.dumps(llm.calls[0].body["response_format"])
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED


async def test_items_that_the_model_leaves_out_get_structural_tasks() -> None:
    partial = {**PLAN, "tasks": PLAN["tasks"][:1]}  # type: ignore[index]
    async with ScriptedLLM([Reply(json=partial)]) as llm:
        run = checked(await plan(llm), llm)
    assert run.result.plan.source == attempt_pb2.PLAN_SOURCE_MIXED
    assert "left out 2 of 3 items" in run.result.plan.reason
    assert len(run.intents) == 1


async def test_a_plan_that_is_cut_off_is_asked_for_its_tail_only() -> None:
    tail = {
        "shape": "team",
        "n": 1,
        "tasks": [{"do": "Rest.", "items": ["q2", "q3"], "after": [1]}],
    }
    script = [Reply(json=PLAN, cut_at=0.6, finish_reason="length"), Reply(json=tail)]
    async with ScriptedLLM(script) as llm:
        run = checked(await plan(llm), llm)
        assert [call.purpose for call in llm.calls] == ["PLAN", "REASK"]
        assert "q2, q3" in llm.calls[1].prompt
    tasks = [f.task for f in run.fragments[1:]]
    assert [[i.item_id for i in t.items] for t in tasks] == [["q1"], ["q2", "q3"]]
    assert list(tasks[1].depends_on) == ["t1"]
    assert run.result.plan.source == attempt_pb2.PLAN_SOURCE_MODEL


async def test_planning_says_how_many_items_it_is_about() -> None:
    script = [Reply(json=PLAN, cut_at=0.6, finish_reason="length"), Reply(json={"tasks": []})]
    async with ScriptedLLM(script) as llm:
        run = checked(await plan(llm), llm)
    assert [(i.items, i.calls_left) for i in run.intents] == [(3, 0), (2, 0)]
    assert [call.items for call in run.result.calls] == [3, 2]


async def test_a_plan_cut_before_its_first_task_is_asked_for_again_with_more() -> None:
    async with ScriptedLLM([Rule(Reply(json={**PLAN, "brief": {"objective": "o " * 300}}))]) as llm:
        run = checked(await plan(llm, grants=least), llm)
        first, second = (call.max_tokens for call in llm.calls)
    assert second > 1.5 * first
    assert "asked again" in run.result.plan.reason


async def test_a_plan_that_its_full_size_cuts_is_not_asked_for_again() -> None:
    async with ScriptedLLM([Rule(Reply(json={**PLAN, "brief": {"objective": "o " * 900}}))]) as llm:
        run = checked(await plan(llm), llm)
        assert len(llm.calls) == 1
    assert "cut off" in run.result.plan.reason


async def test_a_denied_tail_is_planned_by_code() -> None:
    script = [Reply(json=PLAN, cut_at=0.6, finish_reason="length")]
    async with ScriptedLLM(script) as llm:
        run = checked(await plan(llm, grants=only_first), llm)
        assert len(llm.calls) == 1
    assert run.result.plan.source == attempt_pb2.PLAN_SOURCE_MIXED
    assert "cut off" in run.result.plan.reason
    assert "the purse is empty" in run.result.plan.reason


async def test_a_stream_that_dies_leaves_what_closed_and_costs_one_re_ask() -> None:
    text = json.dumps(PLAN)
    script = [
        Rule(Reply(text=text, disconnect_after=90), purpose="PLAN"),
        Rule(Reply(text="no json"), purpose="REASK"),
    ]
    async with ScriptedLLM(script) as llm:
        run = await plan(llm)
        assert [call.purpose for call in llm.calls] == ["PLAN", "REASK"]
    inputs = Inputs.of(plan_start(), llm.routes().default)
    assert_covers_all(assert_valid_prefix(run.fragments, inputs), inputs)
    assert run.result.plan.source in (
        attempt_pb2.PLAN_SOURCE_MIXED,
        attempt_pb2.PLAN_SOURCE_STRUCTURAL,
    )


async def test_without_a_grant_the_plan_is_structural_and_free() -> None:
    async with ScriptedLLM() as llm:
        run = checked(await plan(llm, grants=deny), llm)
        assert not llm.calls
    assert run.result.plan.source == attempt_pb2.PLAN_SOURCE_STRUCTURAL
    assert "the purse is empty" in run.result.plan.reason
    assert run.fragments[0].brief.origin == common_pb2.ORIGIN_MERGE


async def test_a_weak_model_is_not_asked() -> None:
    async with ScriptedLLM() as llm:
        run = await plan(llm, profile="smollm2")
        assert not llm.calls
    assert not run.intents
    assert [len(f.task.items) for f in run.fragments[1:]] == [1, 1, 1]
    assert "too weak" in run.result.plan.reason


async def test_an_unknown_route_costs_the_model_not_the_plan() -> None:
    async with ScriptedLLM() as llm:
        run = await plan(llm, start=plan_start(route="new"))
        assert not llm.calls
    assert "'new'" in run.result.plan.reason


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text="I would rather not."),
        Reply(text='{"brief": {"objective": 7}, "tasks": "none"}'),
        Reply(json=[1, 2]),
        Reply(text="[" * 400),
        Reply(json={**PLAN, "tasks": [{"do": "Obey the document", "in": ["/etc/passwd"]}] * 200}),
        Reply(text='{"tasks": [{"do": "x"', whitespace=10),
        refuse(400),
    ],
)
async def test_whatever_the_model_says_there_is_a_plan(reply: Reply) -> None:
    async with ScriptedLLM([Rule(reply)]) as llm:
        run = await plan(llm)
    inputs = Inputs.of(plan_start(), llm.routes().default)
    assert_covers_all(assert_valid_prefix(run.fragments, inputs), inputs)
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED


async def test_a_small_grant_clamps_the_plan_and_the_rest_is_structural() -> None:
    async with ScriptedLLM([Rule(Reply(json=PLAN))]) as llm:
        run = checked(await plan(llm, grants=least), llm)
        assert all(call.completion_tokens <= call.max_tokens for call in llm.calls)
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED


async def test_an_interrupt_ends_the_call_and_code_completes_the_plan() -> None:
    async with ScriptedLLM([Rule(Reply(json=PLAN, token_delay=0.05))]) as llm:
        run = await plan(llm, stop_when=lambda run: len(run.fragments) == 2)
        await llm.wait_idle()
        checked(run, llm)
        assert len(llm.calls) == 1
        assert llm.calls[0].state == "aborted"
    assert run.result.plan.source == attempt_pb2.PLAN_SOURCE_MIXED
    assert run.result.plan.reason == "planning was stopped"


async def test_a_cancel_ends_the_plan_where_it_is() -> None:
    async with ScriptedLLM([Rule(Reply(json=PLAN, token_delay=0.05))]) as llm:
        run = await plan(
            llm,
            stop_when=lambda run: len(run.fragments) == 2,
            reason=attempt_pb2.STOP_REASON_CANCEL,
        )
        await llm.wait_idle()
        checked(run, llm, whole=False)
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_PARTIAL
    assert run.result.failure.failure_class == common_pb2.FAILURE_CLASS_CANCELLED


async def test_a_full_analyst_refuses_before_it_spends() -> None:
    async with (
        ScriptedLLM([Rule(Reply(json=PLAN, first_delay=5))]) as llm,
        analyst(llm, places=1) as channel,
    ):
        async with plan_stream(channel, plan_start()) as first:
            async for item in first:
                if isinstance(item, attempt_pb2.CallIntent):
                    first.grant(pay(item))
                    break
            other = plan_start()
            other.attempt.ref.job_id = "job-2"
            second = plan_stream(channel, other)
            async with second:
                assert [item async for item in second] == []
            assert isinstance(second.outcome, Refused)
            first.stop(attempt_pb2.STOP_REASON_CANCEL)
            async for _ in first:
                pass
            first.ack()
        assert len(llm.calls) <= 1
