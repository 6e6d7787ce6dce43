"""A Worker when calls fail, do not fit or are refused: what one loses, the others keep."""

from __future__ import annotations

import asyncio
import json

import pytest

from hma.rpc.attempt_stream import Finished
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from tests.integration.worker.shop import everything, make_task, open_shop, spent
from tests.integration.worker.test_executing import FACTS, answer_all, ids_of, reply
from tests.scripted_llm import Call, Reply, Rule, count, refuse, say

PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
FAILED = attempt_pb2.ATTEMPT_STATE_FAILED
MODEL, EXTRACT = common_pb2.ORIGIN_MODEL, common_pb2.ORIGIN_EXTRACT


async def test_material_that_does_not_fit_the_context_is_shortened_until_it_does() -> None:
    # Digits and dots take far more tokens than the estimate expects.
    rows = "\n\n".join(f"copper {n}.{n}.{n}.{n}.{n}.{n}.{n}" for n in range(300))
    async with open_shop(
        lambda call: answer_all(call), documents={"d1": rows}, context_tokens=2200
    ) as shop:
        task = make_task("What of copper?", kind=common_pb2.TASK_KIND_SUMMARIZE)
        result = await shop.execute(shop.start(task))
        assert spent(result) == shop.llm.total_tokens
        assert all(c.prompt_tokens + c.max_tokens <= 2200 for c in shop.llm.calls)
    assert result.state == SUCCEEDED


async def test_batch_that_the_server_declines_does_not_end_the_others() -> None:
    def script(call: Call) -> Reply:
        if "q1" in ids_of(call):
            return Reply(text="", finish_reason="content_filter")
        return answer_all(call)

    questions = [f"When was mill {n} built?" for n in range(10)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions), max_reasks=2))
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_REFUSED
    assert [a.item_id for a in result.task.items if a.origin == MODEL] == ["q9", "q10"]
    assert len(result.calls) == 2, "what was declined is not asked again"
    assert all("declined" in missing.reason for missing in result.task.missing)


async def test_stream_that_keeps_breaking_keeps_what_had_closed() -> None:
    text = reply(("q1", "1764", ""), ("q2", "Anna Hale", ""))
    half = count(text[: text.index("Anna Hale")])
    script = [Reply(text=text, disconnect_after=half, chunk_tokens=1)] * 9
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When was it built?", "Who paid?")))
        assert spent(result) >= shop.llm.total_tokens
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert [(a.item_id, a.answer) for a in result.task.items] == [("q1", "1764")]


async def test_reasks_are_counted_by_call_and_never_exceed_the_pool() -> None:
    questions = [f"When was mill {n} built?" for n in range(20)]
    async with open_shop([say("{}")] * 9, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions), max_reasks=2))
        assert spent(result) == shop.llm.total_tokens
    purposes = [call.purpose for call in result.calls]
    assert purposes.count(attempt_pb2.CALL_PURPOSE_WORK) == 3
    assert purposes.count(attempt_pb2.CALL_PURPOSE_REASK) == 2
    assert result.state == FAILED
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_INVALID_OUTPUT


async def test_unread_extracts_of_an_earlier_attempt_are_asked_for_again() -> None:
    done = [
        task_pb2.ItemAnswer(item_id="q1", answer="kept", origin=MODEL),
        task_pb2.ItemAnswer(item_id="q2", answer="words", origin=EXTRACT),
    ]
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("Who?", "When was the mill built?"), done=done)
        result = await shop.execute(start)
        assert [ids_of(call) for call in shop.llm.calls] == [["q2"]]
    assert result.state == SUCCEEDED
    assert [a.answer for a in result.task.items] == ["kept", "1764"]


async def test_money_that_runs_out_half_way_keeps_what_was_bought() -> None:
    def only_the_first(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call == 1:
            return everything(intent)
        return attempt_pb2.Grant(call=intent.call, denied=True, reason="spent elsewhere")

    questions = [f"When was mill {n} built?" for n in range(10)]
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions)), only_the_first)
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert [a.origin for a in result.task.items] == [MODEL] * 8 + [EXTRACT] * 2


async def test_empty_answer_is_not_in_the_material_and_not_asked_again_or_made_up() -> None:
    script = [say(reply(("q1", "1764", ""), ("q2", "", "")))]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("When was it built?", "Who melts copper?")
        result = await shop.execute(shop.start(task, max_reasks=2))
        assert len(shop.llm.calls) == 1
    assert result.state == PARTIAL
    assert [a.item_id for a in result.task.items] == ["q1"]
    (missing,) = result.task.missing
    assert missing.failure_class == common_pb2.FAILURE_CLASS_REFUSED


async def test_unknown_tool_fails_clearly_before_a_token_is_spent() -> None:
    async with open_shop(documents={"d1": FACTS}) as shop:
        task = make_task("When?", tools=["calculate", "browse_web"])
        result = await shop.execute(shop.start(task))
        assert shop.llm.calls == []
    assert result.state == FAILED
    assert "browse_web" in result.failure.message
    assert "calculate" in result.failure.message


async def test_tools_on_a_route_without_them_are_noted_and_left_out() -> None:
    script = [say(" 1764\n")]
    async with open_shop(script, documents={"d1": FACTS}, profile="smollm2") as shop:
        task = make_task("When was the mill built?", tools=["calculate"])
        result = await shop.execute(shop.start(task))
    assert result.state == SUCCEEDED
    assert "tools" in result.task.notes
    assert [call.purpose for call in result.calls] == [attempt_pb2.CALL_PURPOSE_WORK]


async def test_tool_rounds_are_bounded_and_the_answer_is_still_asked_for() -> None:
    def script(call: Call) -> Reply:
        if call.purpose == "TOOL":
            return Reply(tool_calls=(("calculate", {"expression": "1+1"}),))
        return answer_all(call)

    async with open_shop(script) as shop:
        result = await shop.execute(shop.start(make_task("How many?", tools=["calculate"])))
    purposes = [call.purpose for call in result.calls]
    assert purposes == [attempt_pb2.CALL_PURPOSE_TOOL] * 3 + [attempt_pb2.CALL_PURPOSE_WORK]
    assert result.state == SUCCEEDED


async def test_interrupted_prose_keeps_its_whole_sentences() -> None:
    text = reply(("q1", "The first sentence is done. The second one " + "goes on " * 60, ""))
    script = [Reply(text=text, token_delay=0.05, chunk_tokens=1)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("Describe it.", kind=common_pb2.TASK_KIND_WRITE)
        async with asyncio.timeout(30), shop.open(shop.start(task)) as stream:
            seen = ""
            async for item in stream:
                if isinstance(item, attempt_pb2.CallIntent):
                    stream.grant(everything(item))
                elif isinstance(item, attempt_pb2.AttemptProgress):
                    seen += item.text
                    if "goes on goes" in seen:
                        stream.stop(attempt_pb2.STOP_REASON_INTERRUPT)
            assert isinstance(stream.outcome, Finished)
            stream.ack()
        result = stream.outcome.result
        await shop.llm.wait_idle()
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert [a.answer for a in result.task.items] == ["The first sentence is done."]
    assert "cut off" in result.task.notes


async def test_stop_between_calls_starts_no_other_call() -> None:
    questions = [f"When was mill {n} built?" for n in range(20)]
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        start = shop.start(make_task(*questions))
        async with asyncio.timeout(30), shop.open(start) as stream:
            async for item in stream:
                if isinstance(item, attempt_pb2.CallIntent):
                    if item.call == 1:
                        stream.grant(everything(item))
                    else:
                        stream.stop(attempt_pb2.STOP_REASON_TIMEOUT)
            assert isinstance(stream.outcome, Finished)
            stream.ack()
        assert len(shop.llm.calls) == 1
    result = stream.outcome.result
    assert result.state == PARTIAL
    assert len(result.task.items) == 8
    assert len(result.task.missing) == 12


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_server_that_never_works_fails_with_its_class_and_costs_nothing(status: int) -> None:
    classes = {
        401: common_pb2.FAILURE_CLASS_AUTH,
        429: common_pb2.FAILURE_CLASS_RATE_LIMITED,
        500: common_pb2.FAILURE_CLASS_TRANSIENT,
    }
    script = [Rule(refuse(status, retry_after=0.05))]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("When?")))
        assert spent(result) == shop.llm.total_tokens == 0
    assert result.state == FAILED
    assert result.failure.failure_class == classes[status]
    assert [m.failure_class for m in result.task.missing] == [classes[status]]


async def test_tasks_of_a_job_send_the_same_words_first() -> None:
    brief = task_pb2.Brief(objective="Compare the mills of the valley", audience="tourists")
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        for uid, question in (("1.1", "When was it built?"), ("1.2", "Copper?")):
            await shop.execute(shop.start(make_task(question), uid=uid, brief=brief))
        one, other = (call.prompt for call in shop.llm.calls)
    same = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert "Compare the mills of the valley" in one[:same]


async def test_weak_model_reads_the_results_of_other_tasks_when_there_is_no_document() -> None:
    dependency = worker_pb2.DependencyResult(
        task_id="before",
        title="Look it up",
        result=task_pb2.TaskResult(items=[task_pb2.ItemAnswer(item_id="q9", answer="In 1764.")]),
    )
    async with open_shop([say(" 1764\n")], profile="smollm2") as shop:
        task = make_task("When was it built?")
        result = await shop.execute(shop.start(task, dependencies=[dependency]))
        assert "In 1764." in shop.llm.calls[0].prompt
    assert result.state == SUCCEEDED
    assert result.task.items[0].grounded


async def test_weak_models_answer_stands_when_nothing_in_the_source_matches() -> None:
    async with open_shop([say(" perhaps\n")], documents={"d1": FACTS}, profile="smollm2") as shop:
        result = await shop.execute(shop.start(make_task("Xylophone?")))
    assert result.state == SUCCEEDED
    (answer,) = result.task.items
    assert (answer.answer, answer.grounded, answer.origin) == ("perhaps", False, MODEL)


async def test_own_schema_that_stays_broken_is_partial_with_what_closed() -> None:
    schema = {
        "type": "object",
        "properties": {"who": {"type": "string"}, "year": {"type": "integer"}},
        "required": ["who", "year"],
    }
    async with open_shop([say('{"who": "Anna Hale", "ye')] * 3, documents={"d1": FACTS}) as shop:
        task = make_task("Who built it, and when?", output_schema=json.dumps(schema))
        result = await shop.execute(shop.start(task, max_reasks=1))
        assert len(shop.llm.calls) == 2
        assert "year" in shop.llm.calls[1].prompt.rpartition("broke it")[2]
    assert result.state == PARTIAL
    assert dict(result.task.structured) == {"who": "Anna Hale"}
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_INVALID_OUTPUT


LONG = "\n\n".join(
    f"# Mill {n}\n\n" + f"Mill {n} was built in {1700 + n}. " + "It ground corn for the town. " * 40
    for n in range(30)
)


async def test_call_that_cannot_be_paid_is_tried_once_more_with_less_to_read() -> None:
    def poor(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        least = intent.prompt_tokens + intent.min_completion_tokens
        if least > 600:
            return attempt_pb2.Grant(call=intent.call, denied=True, reason="600 are left")
        most = intent.prompt_tokens + intent.max_completion_tokens
        return attempt_pb2.Grant(call=intent.call, tokens=min(most, 600))

    def script(call: Call) -> Reply:
        return say(reply(*[(i, "1703", "") for i in ids_of(call)]))

    async with open_shop(script, documents={"d1": LONG}) as shop:
        result = await shop.execute(shop.start(make_task("When was mill 3 built?")), poor)
        assert spent(result) == shop.llm.total_tokens
        assert "Mill 3 was built in 1703" in shop.llm.calls[0].prompt
    assert result.state == SUCCEEDED
    assert [intent.call for intent in shop.intents] == [1, 2]
    assert shop.intents[1].prompt_tokens < shop.intents[0].prompt_tokens / 2
    assert result.task.items[0].grounded


async def test_with_little_money_the_first_answers_of_a_batch_are_bought() -> None:
    tokens = 620

    def poor(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call > 2 or intent.prompt_tokens + intent.min_completion_tokens > tokens:
            return attempt_pb2.Grant(call=intent.call, denied=True, reason="little is left")
        return attempt_pb2.Grant(call=intent.call, tokens=tokens)

    questions = [f"When was mill {n} built?" for n in range(8)]
    async with open_shop(lambda call: answer_all(call), documents={"d1": LONG}) as shop:
        result = await shop.execute(shop.start(make_task(*questions), max_reasks=1), poor)
        assert spent(result) == shop.llm.total_tokens <= tokens
    assert result.state == PARTIAL
    origins = [answer.origin for answer in result.task.items]
    assert 0 < origins.count(MODEL) < 8
    assert origins == sorted(origins, key=lambda origin: origin != MODEL)
    assert len(origins) == 8


async def test_fault_of_one_batch_is_not_held_against_the_next() -> None:
    def script(call: Call) -> Reply:
        return say("{") if "q1" in ids_of(call) else answer_all(call)

    questions = [f"When was mill {n} built?" for n in range(10)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        await shop.execute(shop.start(make_task(*questions), max_reasks=1))
        told = [("broke it" in call.prompt, call.purpose) for call in shop.llm.calls]
    assert told == [(False, "WORK"), (False, "WORK"), (True, "REASK")]


async def test_weak_model_is_not_asked_the_same_thing_again() -> None:
    async with open_shop([say("\n")], documents={"d1": FACTS}, profile="smollm2") as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, max_reasks=3))
        assert len(shop.llm.calls) == 1
    assert [a.origin for a in result.task.items] == [EXTRACT]


async def test_weak_models_prose_that_ran_out_of_tokens_ends_with_a_sentence() -> None:
    script = [say("It was built in 1764. Then " + "it went on " * 200)]
    async with open_shop(script, documents={"d1": FACTS}, profile="smollm2") as shop:
        task = make_task("Sum it up.", kind=common_pb2.TASK_KIND_SUMMARIZE)
        result = await shop.execute(shop.start(task))
        assert result.calls[0].finish_reason == "length"
    assert [a.answer for a in result.task.items] == ["It was built in 1764."]
    assert "cut off" in result.task.notes


async def test_question_that_shares_no_word_with_the_source_sees_its_beginning() -> None:
    async with open_shop(lambda call: answer_all(call), documents={"d1": LONG}) as shop:
        await shop.execute(shop.start(make_task("Xylophone?")))
        assert "<source" in shop.llm.calls[0].prompt
        assert "Mill 0 was built" in shop.llm.calls[0].prompt


async def test_tasks_that_read_different_sections_fetch_the_document_once() -> None:
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        for number in range(2):
            task = make_task("When was the mill built?")
            start = shop.start(task, uid=f"1.{number}", section_ids=[f"d1#{number}"])
            await shop.execute(start)
        assert shop.documents.reads == 1
        mills, metals = (call.prompt for call in shop.llm.calls)
    assert "Copper" not in mills
    assert "Anna Hale paid" not in metals


async def test_blank_document_is_no_material_and_no_crash() -> None:
    async with open_shop(lambda call: answer_all(call), documents={"d1": " \n\n\t"}) as shop:
        result = await shop.execute(shop.start(make_task("When was it built?")))
        assert "<source id" not in shop.llm.calls[0].prompt
    assert result.state == SUCCEEDED
    assert not result.task.items[0].grounded


async def test_question_too_long_for_the_context_does_not_end_the_others() -> None:
    # One question a call, so that only the long one overflows.
    async with open_shop(
        [say(" 1764\n")] * 3, documents={"d1": FACTS}, profile="smollm2", context_tokens=600
    ) as shop:
        task = make_task("When was the mill built?", "mill " * 3000, "When built?")
        result = await shop.execute(shop.start(task))
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert [a.item_id for a in result.task.items if a.origin == MODEL] == ["q1", "q3"]
