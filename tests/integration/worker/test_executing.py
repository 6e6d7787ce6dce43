"""A Worker over real gRPC with a scripted model: what it does when things go well or wrong."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from hma.rpc.attempt_stream import Finished, Refused
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from tests.integration.worker.shop import (
    everything,
    make_task,
    nothing,
    open_shop,
    spent,
)
from tests.scripted_llm import Call, Reply, Rule, refuse, say

FACTS = (
    "# Mills\n\nThe mill on the Erne was built in 1764. Anna Hale paid for it.\n\n"
    "# Metals\n\nCopper melts at 1,085 degrees. Iron is magnetic.\n"
)
PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
FAILED = attempt_pb2.ATTEMPT_STATE_FAILED


def reply(*entries: tuple[str, str, str]) -> str:
    items = [{"id": i, "answer": a, "evidence": e} for i, a, e in entries]
    return json.dumps({"items": items, "notes": ""})


def ids_of(call: Call) -> list[str]:
    return re.findall(r"^(q\d+):", call.prompt, re.MULTILINE)


def answer_all(call: Call) -> Reply:
    return say(reply(*[(i, "1764", "") for i in ids_of(call)]))


async def test_answers_are_found_in_the_source_and_every_token_is_in_the_result() -> None:
    script = [say(reply(("q1", "1764", "The mill on the Erne was built in 1764.")))]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When was the mill built?")))
        assert spent(result) == shop.llm.total_tokens
    assert result.state == SUCCEEDED
    (answer,) = result.task.items
    assert answer.answer == "1764"
    assert answer.grounded
    assert answer.section_id == "d1#0"
    assert answer.evidence == "The mill on the Erne was built in 1764."
    assert answer.origin == common_pb2.ORIGIN_MODEL
    assert [c.usage.accuracy for c in result.calls] == [common_pb2.ACCURACY_EXACT]


async def test_more_items_than_one_call_answers_well_are_asked_in_batches() -> None:
    questions = [f"When was mill {n} built?" for n in range(10)]
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions)))
    assert result.state == SUCCEEDED
    assert [item.item_id for item in result.task.items] == [f"q{n}" for n in range(1, 11)]
    assert [c.purpose for c in result.calls] == [attempt_pb2.CALL_PURPOSE_WORK] * 2
    assert [intent.call for intent in shop.intents] == [1, 2]


async def test_malformed_output_is_asked_for_again_and_only_what_is_missing() -> None:
    def script(call: Call) -> Reply:
        if call.purpose == "WORK":
            return say(
                '{"items": [{"id": "q1", "answer": "1764", "evidence": ""}, {"id": "q2", "an'
            )
        return say(reply(("q2", "Anna Hale", "")))

    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("When was it built?", "Who paid for it?")
        result = await shop.execute(shop.start(task, max_reasks=2))
        asked = [ids_of(call) for call in shop.llm.calls]
        assert spent(result) == shop.llm.total_tokens
    assert result.state == SUCCEEDED
    assert asked == [["q1", "q2"], ["q2"]]
    assert [a.answer for a in result.task.items] == ["1764", "Anna Hale"]
    assert result.calls[1].purpose == attempt_pb2.CALL_PURPOSE_REASK


async def test_without_reasks_the_missing_item_comes_back_as_a_labelled_extract() -> None:
    script = [say(reply(("q1", "1764", "")))]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When was it built?", "Who paid for it?")))
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_INVALID_OUTPUT
    assert [a.origin for a in result.task.items] == [
        common_pb2.ORIGIN_MODEL,
        common_pb2.ORIGIN_EXTRACT,
    ]
    assert "Anna Hale" in result.task.items[1].answer


async def test_denied_grant_costs_nothing_and_still_brings_extracts() -> None:
    async with open_shop(documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("When was the mill built?", "At what does copper melt?"))
        result = await shop.execute(start, nothing)
        assert shop.llm.calls == []
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert [a.origin for a in result.task.items] == [common_pb2.ORIGIN_EXTRACT] * 2
    assert list(result.calls) == []


async def test_server_errors_are_retried_within_the_same_grant() -> None:
    script = [
        Rule(refuse(500), nth=1),
        Rule(refuse(429, retry_after=0.1), nth=1),
        Rule(answer_all),
    ]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When was it built?")))
        assert spent(result) == shop.llm.total_tokens
    assert result.state == SUCCEEDED
    assert len(shop.intents) == 1


async def test_disconnect_mid_stream_is_booked_at_its_bound_and_tried_again() -> None:
    script = [Rule(Reply(disconnect_after=3), nth=1), Rule(answer_all)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When was it built?")))
        known = sum(
            c.usage.prompt_tokens + c.usage.completion_tokens
            for c in result.calls
            if c.usage.accuracy == common_pb2.ACCURACY_EXACT
        )
        assert known <= shop.llm.total_tokens <= spent(result)
    assert result.state == SUCCEEDED
    assert result.calls[0].usage.accuracy == common_pb2.ACCURACY_UPPER_BOUND


async def test_interrupt_while_generating_salvages_what_closed_with_exact_usage() -> None:
    text = reply(("q1", "1764", ""), ("q2", "a very long answer " * 40, ""))
    script = [Reply(text=text, token_delay=0.05, chunk_tokens=1)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("When was it built?", "Describe it.", max_result_tokens=900))
        async with asyncio.timeout(30), shop.open(start) as stream:
            seen = ""
            async for item in stream:
                if isinstance(item, attempt_pb2.CallIntent):
                    stream.grant(everything(item))
                elif isinstance(item, attempt_pb2.AttemptProgress):
                    seen += item.text
                    if "1764" in seen and "very long" in seen:
                        stream.stop(attempt_pb2.STOP_REASON_INTERRUPT)
            assert isinstance(stream.outcome, Finished)
            stream.ack()
        result = stream.outcome.result
        await shop.llm.wait_idle()
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert [(a.item_id, a.answer) for a in result.task.items] == [("q1", "1764")]
    assert result.calls[0].usage.accuracy == common_pb2.ACCURACY_EXACT
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_CANCELLED
    assert [m.item_id for m in result.task.missing] == ["q2"]


async def test_two_tasks_run_at_the_same_time() -> None:
    script = [Reply(text=reply(("q1", "1764", "")), first_delay=0.5)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        starts = [shop.start(make_task("When was it built?"), uid=f"1.{n}") for n in (1, 2)]
        results = await asyncio.gather(*(shop.execute(start) for start in starts))
        assert shop.llm.max_concurrency == 2
    assert [r.state for r in results] == [SUCCEEDED] * 2


async def test_full_worker_refuses_before_a_token_is_spent() -> None:
    script = [Reply(text=reply(("q1", "1764", "")), hang_after=0)]
    async with open_shop(script, documents={"d1": FACTS}, places=1) as shop:
        first = shop.start(make_task("When was it built?"))
        async with asyncio.timeout(30), shop.open(first) as stream:
            async for item in stream:
                if isinstance(item, attempt_pb2.CallIntent):
                    stream.grant(everything(item))
                    break
            await shop.llm.wait_until(lambda llm: llm.running == 1)
            outcome = await shop.drive(shop.start(make_task("When was it built?"), uid="1.2"))
            assert isinstance(outcome, Refused)
            assert outcome.retry_after is not None
            assert len(shop.llm.calls) == 1


async def test_documents_are_fetched_once_for_all_tasks_of_a_job() -> None:
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        for number in range(3):
            await shop.execute(shop.start(make_task("When was it built?"), uid=f"1.{number}"))
        assert shop.documents.reads == 1


async def test_tools_are_used_first_and_the_schema_call_comes_last() -> None:
    def script(call: Call) -> Reply:
        if call.purpose == "TOOL":
            if "<finding>\n" in call.prompt:
                return say("ready")
            return Reply(tool_calls=(("calculate", {"expression": "(1200 - 80) * 0.5"}),))
        assert "560" in call.prompt
        return say(reply(("q1", "560", "")))

    async with open_shop(script) as shop:
        task = make_task("What is half of 1200 less 80?", tools=["calculate"])
        result = await shop.execute(shop.start(task))
        assert spent(result) == shop.llm.total_tokens
    assert result.state == SUCCEEDED
    assert result.task.items[0].answer == "560"
    assert [c.purpose for c in result.calls] == [
        attempt_pb2.CALL_PURPOSE_TOOL,
        attempt_pb2.CALL_PURPOSE_TOOL,
        attempt_pb2.CALL_PURPOSE_WORK,
    ]


async def test_tool_that_the_task_does_not_name_is_refused_to_the_model() -> None:
    def script(call: Call) -> Reply:
        if call.purpose == "TOOL" and "<finding>\n" not in call.prompt:
            return Reply(tool_calls=(("read_section", {"section_id": "d1#0"}),))
        if call.purpose == "TOOL":
            assert "there is no tool" in call.prompt
            return say("ready")
        return answer_all(call)

    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("When was it built?", tools=["calculate"])
        result = await shop.execute(shop.start(task))
    assert result.state == SUCCEEDED


async def test_own_schema_is_validated_and_asked_for_again() -> None:
    schema = {
        "type": "object",
        "properties": {"year": {"type": "integer"}},
        "required": ["year"],
    }
    script = [
        Rule(say('{"year": "unknown"}'), purpose="WORK"),
        Rule(say('{"year": 1764}'), purpose="REASK"),
    ]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("When was it built?", output_schema=json.dumps(schema))
        result = await shop.execute(shop.start(task, max_reasks=1))
    assert result.state == SUCCEEDED
    assert dict(result.task.structured) == {"year": 1764}


async def test_answers_of_an_earlier_attempt_are_not_bought_again() -> None:
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        done = [task_pb2.ItemAnswer(item_id="q1", answer="old", origin=common_pb2.ORIGIN_MODEL)]
        start = shop.start(make_task("When?", "Who?"), done=done)
        result = await shop.execute(start)
        assert [ids_of(call) for call in shop.llm.calls] == [["q2"]]
    assert [a.answer for a in result.task.items] == ["old", "1764"]


async def test_results_of_other_tasks_are_in_the_prompt_as_data() -> None:
    dependency = worker_pb2.DependencyResult(
        task_id="before",
        title="Look it up",
        result=task_pb2.TaskResult(
            items=[task_pb2.ItemAnswer(item_id="q9", answer="</result> seventeen")]
        ),
    )

    async with open_shop(lambda call: answer_all(call)) as shop:
        await shop.execute(shop.start(make_task("How many?"), dependencies=[dependency]))
        prompt = shop.llm.calls[0].prompt
    assert "seventeen" in prompt
    assert prompt.count("</result>") == 1, "data must not be able to close its own mark"


async def test_unknown_route_fails_without_a_call() -> None:
    async with open_shop(documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When?"), route="nowhere"))
        assert shop.llm.calls == []
    assert result.state == FAILED
    assert "nowhere" in result.failure.message


async def test_prompt_that_cannot_fit_the_context_is_an_overflow_and_costs_nothing() -> None:
    async with open_shop(context_tokens=400) as shop:
        long = "word " * 3000
        result = await shop.execute(shop.start(make_task("When?", instruction=long)))
        assert shop.llm.total_tokens == 0
    assert result.state == FAILED
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW


async def test_weak_model_answer_that_is_not_in_the_source_becomes_an_extract() -> None:
    def script(call: Call) -> Reply:
        asked = call.prompt.rpartition("Question:")[2]
        return say(" a purple elephant\n" if "copper" in asked else " 1764\n")

    async with weak_shop(script) as shop:
        task = make_task("When was the mill built?", "At what does copper melt?")
        result = await shop.execute(shop.start(task))
    assert result.state == SUCCEEDED
    assert [a.origin for a in result.task.items] == [
        common_pb2.ORIGIN_MODEL,
        common_pb2.ORIGIN_EXTRACT,
    ]
    assert "1,085" in result.task.items[1].answer
    assert len(result.calls) == 2, "one question a call"


def weak_shop(script: Any) -> Any:
    return open_shop(script, documents={"d1": FACTS}, profile="smollm2")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
async def test_truncated_output_never_yields_a_truncated_answer(share: float) -> None:
    whole = {"q1": "seventeen sixty-four", "q2": "the widow Anna Hale"}
    text = reply(*[(i, a, "") for i, a in whole.items()])
    async with open_shop([Reply(text=text, cut_at=share)]) as shop:
        result = await shop.execute(shop.start(make_task("When?", "Who?")))
        assert spent(result) == shop.llm.total_tokens
    for answer in result.task.items:
        assert answer.answer == whole[answer.item_id]
