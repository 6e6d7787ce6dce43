"""ReducerService.Reduce over real gRPC, with a scripted model and real document reads."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.settings import LlmSettings
from hma.rpc.attempt_stream import reduce_stream
from hma.rpc.documents import DocumentReader
from hma.rpc.reporter import Reporter
from hma.rpc.slots import Slots
from hma.v1 import (
    attempt_pb2,
    common_pb2,
    meta_agent_pb2_grpc,
    reducer_pb2,
    reducer_pb2_grpc,
    task_pb2,
)
from services.reducer import reduction
from services.reducer.servicer import ReducerServicer
from tests.integration.analyst.driver import (
    Grants,
    Run,
    attempt_start,
    deny,
    drive,
    only_first,
    pay,
)
from tests.integration.rpc.support import ScriptedInternal, serving
from tests.scripted_llm import Reply, Rule, ScriptedLLM, refuse
from tests.unit.reducer.results import DOCUMENT, HANDBOOK, answer, item, outcome

ITEMS = [
    item("q1", "When does the shop open?"),
    item("q2", "What does a ticket cost?"),
    item("q3", "Who is the owner?"),
]
OUTCOMES = [
    outcome("t1", [answer("q1", "at nine", grounded=True, section_id="d1#0")], items=["q1"]),
    outcome("t2", items=["q2"], failure="The budget was gone."),
    outcome("t3", [answer("q3", "Ann")], items=["q3"]),
]
PROSE = "It opens at nine [q1], a ticket is ten euros [q2]. Ann owns it [q3]."


@asynccontextmanager
async def reducer(llm: ScriptedLLM, internal: ScriptedInternal) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a Reducer that reads from `internal` and calls the scripted model."""
    settings = LlmSettings(base_url=llm.base_url, model=llm.model)
    routes = llm.routes(model=llm.model, context_tokens=llm.context_tokens)

    def register_internal(server: grpc.aio.Server) -> None:
        meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(internal, server)

    async with (
        serving(register_internal) as meta_agent,
        OpenAICompatible(settings) as provider,
        Reporter(meta_agent) as reporter,
        Slots(4) as slots,
    ):
        reader = DocumentReader(meta_agent, 1 << 20)
        servicer = ReducerServicer(provider, routes, reader, slots, reporter)

        def register(server: grpc.aio.Server) -> None:
            reducer_pb2_grpc.add_ReducerServiceServicer_to_server(servicer, server)

        async with serving(register) as channel:
            yield channel


def reduce_start(**changes: Any) -> reducer_pb2.ReduceStart:
    values: dict[str, Any] = {
        "attempt": attempt_start("r.1", route=changes.pop("route", "")),
        "brief": task_pb2.Brief(objective="Tell visitors about the shop."),
        "items": ITEMS,
        "outcomes": OUTCOMES,
        "documents": [DOCUMENT],
        "mode": reducer_pb2.REDUCE_MODE_MERGE,
        "max_answer_tokens": 200,
    }
    return reducer_pb2.ReduceStart(**{**values, **changes})


async def reduce(
    llm: ScriptedLLM, start: reducer_pb2.ReduceStart, *, stored: bool = True, **options: Any
) -> Run:
    internal = ScriptedInternal()
    if stored:
        internal.documents["job-1", "d1"] = HANDBOOK.encode()
    async with reducer(llm, internal) as channel:
        run = await drive(reduce_stream(channel, start), **options)
    assert [a.item_id for a in run.result.answer.items][:1] in ([], ["q1"], ["t1"])
    return run


async def prose(reply: Reply, *, grants: Grants = pay, **changes: Any) -> tuple[Run, ScriptedLLM]:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **changes)
    async with ScriptedLLM([Rule(reply)]) as llm:
        run = await reduce(llm, start, grants=grants)
    spent = sum(c.usage.prompt_tokens + c.usage.completion_tokens for c in run.result.calls)
    assert spent == llm.total_tokens
    return run, llm


async def test_a_merge_costs_nothing_and_streams_the_answer() -> None:
    async with ScriptedLLM() as llm:
        run = await reduce(llm, reduce_start())
        assert not llm.calls
    made = run.result.answer
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
    assert not run.intents
    assert run.text == made.text
    assert made.origin == common_pb2.ORIGIN_MERGE
    assert [a.item_id for a in made.items] == ["q1", "q2", "q3"]
    extract = made.items[1]
    assert extract.origin == common_pb2.ORIGIN_EXTRACT
    assert extract.evidence == "A ticket costs ten euros."
    assert "Extracted, not read by a model (The budget was gone)" in made.text
    assert [m.item_id for m in made.missing] == ["q2"]
    assert made.confidence == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert {s.section_id for s in made.sources} == {"d1#0", "d1#1"}
    assert len(json_format.MessageToDict(made.structured)["items"]) == 3


async def test_documents_that_cannot_be_read_cost_only_the_extracts() -> None:
    async with ScriptedLLM() as llm:
        run = await reduce(llm, reduce_start(), stored=False)
    assert [a.item_id for a in run.result.answer.items] == ["q1", "q3"]
    assert "*No answer.* The budget was gone." in run.result.answer.text


async def test_nothing_to_answer_with_is_said_without_an_answer() -> None:
    failed = [outcome("t1", kind=common_pb2.TASK_KIND_WRITE, failure="late")]
    async with ScriptedLLM() as llm:
        run = await reduce(llm, reduce_start(items=[], outcomes=failed))
    assert run.result.answer.text == ""
    assert run.result.answer.missing[0].reason == "late"
    assert run.result.failure.failure_class == common_pb2.FAILURE_CLASS_TIMEOUT


async def test_prose_streams_and_names_what_no_model_read_and_what_is_missing() -> None:
    run, llm = await prose(Reply(text=PROSE))
    made = run.result.answer
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
    assert made.origin == common_pb2.ORIGIN_MODEL
    assert made.text.startswith(PROSE)
    assert run.text == made.text
    assert "*Extracted, not read by a model: [q2].*" in made.text
    assert llm.calls[0].purpose == "REDUCE"
    assert llm.calls[0].max_tokens <= 200
    assert "[q2] (extract)" in llm.calls[0].prompt


async def test_findings_that_the_prose_loses_are_added_by_code() -> None:
    run, _ = await prose(Reply(text="It opens at nine [q1]. A ticket is ten euros [q2]."))
    text = run.result.answer.text
    assert "**Also found**\n\n**Who is the owner?**\n\nAnn" in text
    assert run.text == text


async def test_prose_that_loses_most_gives_way_to_the_merged_answer() -> None:
    run, _ = await prose(Reply(text="All is well."))
    made = run.result.answer
    assert made.origin == common_pb2.ORIGIN_MERGE
    assert made.text.startswith("**1. When does the shop open?**")
    assert run.text == "All is well.\n\n---\n\n" + made.text
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_PARTIAL
    assert run.result.failure.failure_class == common_pb2.FAILURE_CLASS_INVALID_OUTPUT


async def test_a_denied_call_leaves_the_merged_answer() -> None:
    run, llm = await prose(Reply(text=PROSE), grants=deny)
    assert not llm.calls
    assert run.result.answer.origin == common_pb2.ORIGIN_MERGE
    assert len(run.result.answer.items) == 3
    assert run.result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET


async def test_a_refusing_server_leaves_the_merged_answer() -> None:
    run, _ = await prose(refuse(400))
    assert run.result.answer.origin == common_pb2.ORIGIN_MERGE
    assert run.result.answer.text
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_PARTIAL


async def test_a_route_that_is_not_known_leaves_the_merged_answer() -> None:
    run, llm = await prose(Reply(text=PROSE), route="new")
    assert not llm.calls
    assert run.result.answer.origin == common_pb2.ORIGIN_MERGE
    assert run.result.answer.text


async def test_an_interrupt_keeps_whole_sentences_and_adds_the_rest() -> None:
    long = "It opens at nine [q1]. A ticket is ten euros [q2]. " + "And so it goes on. " * 50
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, max_answer_tokens=600)
    async with ScriptedLLM([Rule(Reply(text=long, token_delay=0.05))]) as llm:
        run = await reduce(llm, start, stop_when=lambda run: "And so" in run.text)
        await llm.wait_idle()
        assert llm.calls[0].state == "aborted"
        spent = sum(c.usage.prompt_tokens + c.usage.completion_tokens for c in run.result.calls)
        assert spent == llm.total_tokens
    made = run.result.answer
    assert made.origin == common_pb2.ORIGIN_MODEL
    assert made.text.startswith("It opens at nine [q1]. A ticket is ten euros [q2].")
    assert made.text.partition("\n\n")[0].endswith((".", "]."))
    assert "Ann" in made.text
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_PARTIAL


async def test_an_interrupt_before_the_prose_still_answers() -> None:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE)
    async with ScriptedLLM([Rule(Reply(text=PROSE, first_delay=20))]) as llm:
        run = await reduce(llm, start, stop_when=lambda run: bool(run.intents))
    assert len(run.result.answer.items) == 3
    assert run.result.answer.origin == common_pb2.ORIGIN_MERGE


def many(count: int) -> dict[str, Any]:
    names = [f"q{n}" for n in range(1, count + 1)]
    return {
        "items": [item(name) for name in names],
        "outcomes": [
            outcome("t1", [answer(name, f"answer {name} " + "word " * 40) for name in names])
        ],
    }


def condensing(call: Any) -> Reply:
    ids = re.findall(r"\[q\d+\]", call.prompt.partition("\n<findings>\n")[2])
    return Reply(text=" ".join(dict.fromkeys(ids)) + ".")


async def test_findings_beyond_the_context_are_condensed_first() -> None:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **many(40))
    async with ScriptedLLM(condensing, context_tokens=1500) as llm:
        run = await reduce(llm, start)
        assert len(llm.calls) > 2
        assert all(call.status == 200 for call in llm.calls)
    assert run.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
    assert all(f"[q{n}]" in run.result.answer.text for n in range(1, 41))
    # The notes in between are not part of the answer.
    assert run.text == run.result.answer.text


async def test_condensing_says_what_it_is_about_and_how_many_calls_follow() -> None:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **many(40))
    async with ScriptedLLM(condensing, context_tokens=1500) as llm:
        run = await reduce(llm, start)
    calls = len(run.intents)
    assert [intent.calls_left for intent in run.intents] == list(reversed(range(calls)))
    assert [intent.items for intent in run.intents][-1] == 40
    assert sum(intent.items for intent in run.intents[:-1]) == 40
    assert [call.items for call in run.result.calls] == [i.items for i in run.intents]


async def test_notes_that_were_cut_keep_their_whole_sentences() -> None:
    def script(call: Any) -> Reply:
        if "Condense these" in call.prompt:
            ids = re.findall(r"\[q\d+\]", call.prompt.partition("\n<findings>\n")[2])
            return Reply(text=f"It names {ids[0]}. The other one is Anna Ma" + "ria" * 900)
        return Reply(text="It is so.")

    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **many(40))
    async with ScriptedLLM(script, context_tokens=1500) as llm:
        run = await reduce(llm, start)
        assert "It names [q1]." in llm.calls[-1].prompt
        assert "Anna" not in llm.calls[-1].prompt
    assert {call.finish_reason for call in run.result.calls[:-1]} == {"length"}
    assert all(
        f"[q{n}]" in run.result.answer.text or f"q{n}" in run.result.answer.text
        for n in range(1, 41)
    )


async def test_notes_of_which_nothing_is_left_give_way_to_the_merged_answer() -> None:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **many(40))
    async with ScriptedLLM(lambda call: Reply(text="Anna" * 900), context_tokens=1500) as llm:
        run = await reduce(llm, start)
        assert all("Condense these" in call.prompt for call in llm.calls)
    assert run.result.answer.origin == common_pb2.ORIGIN_MERGE
    assert run.result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert len(run.result.answer.items) == 40


async def test_all_calls_of_a_reduction_begin_with_the_same_words() -> None:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **many(40))
    async with ScriptedLLM(condensing, context_tokens=1500) as llm:
        await reduce(llm, start)
        prompts = [call.prompt for call in llm.calls]
    shared = prompts[0].partition("\n<findings>\n")[0]
    assert "Tell visitors about the shop." in shared
    assert all(prompt.startswith(shared) for prompt in prompts)


async def test_a_stop_while_documents_are_read_for_extracts_answers_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Were it not for the stop, reading would end with nothing but the test.
    monkeypatch.setattr(reduction, "EXTRACT_SECONDS", 3600.0)
    monkeypatch.setattr(reduction, "EXTRACT_SHARE", 1.0)
    internal = ScriptedInternal()
    internal.hold.clear()
    async with ScriptedLLM() as llm, reducer(llm, internal) as channel:
        run = await drive(
            reduce_stream(channel, reduce_start()),
            stop_when=lambda run: "looking for extracts" in run.phases,
        )
        internal.hold.set()
    assert [a.item_id for a in run.result.answer.items] == ["q1", "q3"]
    assert [m.item_id for m in run.result.answer.missing] == ["q2"]


async def test_condensing_that_is_not_paid_for_leaves_the_merged_answer() -> None:
    start = reduce_start(mode=reducer_pb2.REDUCE_MODE_PROSE, **many(40))
    async with ScriptedLLM(condensing, context_tokens=1500) as llm:
        run = await reduce(llm, start, grants=only_first)
        assert len(llm.calls) == 1
    assert len(run.result.answer.items) == 40
    assert run.result.answer.origin == common_pb2.ORIGIN_MERGE
