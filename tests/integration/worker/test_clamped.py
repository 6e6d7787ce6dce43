"""A Worker whose grants are smaller than asked, and what it says of the calls to come."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from google.protobuf import json_format

from hma.v1 import attempt_pb2, common_pb2, task_pb2
from tests.integration.worker.shop import everything, least, make_task, open_shop, spent
from tests.integration.worker.test_executing import FACTS, answer_all, ids_of, reply, weak_shop
from tests.scripted_llm import Call, Reply, Rule, count, say

PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
FAILED = attempt_pb2.ATTEMPT_STATE_FAILED
MODEL, EXTRACT = common_pb2.ORIGIN_MODEL, common_pb2.ORIGIN_EXTRACT
WORK, REASK = attempt_pb2.CALL_PURPOSE_WORK, attempt_pb2.CALL_PURPOSE_REASK
TOOL = attempt_pb2.CALL_PURPOSE_TOOL
Grants = Callable[[attempt_pb2.CallIntent], attempt_pb2.Grant]


def clamped(*completions: int) -> Grants:
    """Grants so many completion tokens, call by call, within what is asked; then all of it."""

    def grant(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call > len(completions):
            return everything(intent)
        tokens = max(completions[intent.call - 1], intent.min_completion_tokens)
        tokens = min(tokens, intent.max_completion_tokens)
        return attempt_pb2.Grant(call=intent.call, tokens=intent.prompt_tokens + tokens)

    return grant


# -- JSON --------------------------------------------------------------------------------


async def test_what_closed_in_a_cut_answer_is_kept_and_the_rest_asked_for_with_more() -> None:
    long = "in the year seventeen hundred and sixty-four " * 2

    def script(call: Call) -> Reply:
        return say(reply(*[(i, f"{i} {long}".strip(), "") for i in ids_of(call)]))

    questions = [f"When was mill {n} built?" for n in range(4)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions), max_reasks=1), least)
        first, second = shop.llm.calls
        assert spent(result) == shop.llm.total_tokens
        asked = [ids_of(call) for call in shop.llm.calls]
    assert result.calls[0].finish_reason == "length"
    assert 0 < len(asked[1]) < 4
    assert asked[1] == asked[0][-len(asked[1]) :]
    assert second.max_tokens / len(asked[1]) >= 1.5 * first.max_tokens / 4
    assert [c.purpose for c in result.calls] == [WORK, REASK]
    assert result.state == SUCCEEDED
    assert [a.answer for a in result.task.items] == [f"q{n} {long}".strip() for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("tokens", range(52, 64))
async def test_half_a_name_is_never_an_answer_wherever_the_grant_cuts(tokens: int) -> None:
    text = reply(("q1", "Dr. Anna " + "Maria " * 42 + "Hale", ""))
    async with open_shop([say(text)], documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task("Who paid?")), clamped(tokens))
        assert shop.llm.calls[0].max_tokens == tokens < count(text)
    assert [a.origin for a in result.task.items] == [EXTRACT]
    assert result.state == FAILED
    assert f"cut off at {tokens} tokens" in result.failure.message


async def test_an_answer_longer_than_usual_gets_more_than_usual() -> None:
    answer = "word " * 150
    async with open_shop(
        lambda call: say(reply(("q1", answer, ""))), documents={"d1": FACTS}
    ) as shop:
        result = await shop.execute(shop.start(make_task("Who paid?"), max_reasks=2))
        assert [call.max_tokens for call in shop.llm.calls] == [104, 208]
    assert result.state == SUCCEEDED
    assert result.task.items[0].answer == answer.strip()


async def test_an_answer_that_its_own_cap_cuts_is_not_asked_for_again() -> None:
    async with open_shop([say(reply(("q1", "word " * 150, "")))] * 3) as shop:
        task = make_task("Who paid?", max_result_tokens=80)
        result = await shop.execute(shop.start(task, max_reasks=2))
        assert [call.max_tokens for call in shop.llm.calls] == [80]
    assert result.state == FAILED


async def test_a_re_ask_of_what_was_cut_that_is_denied_ends_with_that_reason() -> None:
    def only_the_first(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call == 1:
            return least(intent)
        return attempt_pb2.Grant(call=intent.call, denied=True, reason="others wait for tokens")

    def script(call: Call) -> Reply:
        return say(reply(*[(i, "seventeen sixty-four " * 4, "") for i in ids_of(call)]))

    questions = [f"When was mill {n} built?" for n in range(4)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        start = shop.start(make_task(*questions), max_reasks=1)
        result = await shop.execute(start, only_the_first)
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert "others wait" in result.failure.message
    origins = [a.origin for a in result.task.items]
    assert origins == sorted(origins, key=lambda origin: origin != MODEL)
    assert {MODEL, EXTRACT} == set(origins)


async def test_a_text_that_a_smaller_grant_cut_is_partial_for_want_of_tokens() -> None:
    text = reply(("q1", "The first sentence is done. " + "And on it goes " * 200, ""))
    async with open_shop([say(text)], documents={"d1": FACTS}) as shop:
        task = make_task("Describe it.", kind=common_pb2.TASK_KIND_WRITE)
        result = await shop.execute(shop.start(task, max_reasks=1), least)
        assert len(shop.llm.calls) == 1
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert "q1" in result.failure.message
    assert [a.answer for a in result.task.items] == ["The first sentence is done."]


async def test_an_answer_that_the_schema_closed_at_its_limit_is_not_whole() -> None:
    async with open_shop([say(reply(("q1", "x" * 160, "")))] * 2) as shop:
        task = make_task("Who paid?", max_result_tokens=20)
        result = await shop.execute(shop.start(task))
        schema = shop.llm.calls[0].body["response_format"]["json_schema"]["schema"]
        limit = schema["properties"]["items"]["items"]["properties"]["answer"]["maxLength"]
        assert limit == 160
    assert result.state == FAILED
    assert not result.task.items


async def test_an_object_that_was_cut_is_not_whole_even_if_its_schema_holds() -> None:
    schema = {
        "type": "object",
        "properties": {"names": {"type": "array", "items": {"type": "string"}}},
    }
    names = [f"mill number {n}" for n in range(12)]
    async with open_shop(lambda call: say(json.dumps({"names": names}))) as shop:
        task = make_task("Name them all.", output_schema=json.dumps(schema))
        result = await shop.execute(shop.start(task, max_reasks=1), clamped(60))
        first, second = (call.max_tokens for call in shop.llm.calls)
        assert first == 60
        assert second >= 1.5 * first
        assert "cut off" in shop.llm.calls[1].prompt.rpartition("broke it")[2]
    assert result.state == SUCCEEDED
    assert json_format.MessageToDict(result.task.structured) == {"names": names}


# -- plain text ----------------------------------------------------------------------------


async def test_a_weak_models_answer_cut_by_a_small_grant_is_asked_for_once_in_full() -> None:
    answer = " Anna Hale paid for it, and for the wheel and the pond and the house beside it\n"
    async with weak_shop(lambda call: say(answer)) as shop:
        start = shop.start(make_task("Who paid for it?"), max_reasks=3)
        result = await shop.execute(start, clamped(12))
        assert [call.max_tokens for call in shop.llm.calls] == [12, 24]
        assert spent(result) == shop.llm.total_tokens
    assert [c.purpose for c in result.calls] == [WORK, REASK]
    assert shop.intents[1].min_completion_tokens == 24


async def test_a_weak_models_cut_answer_without_re_asks_becomes_an_extract() -> None:
    async with weak_shop([say(" Anna Hale" + " paid" * 30)]) as shop:
        result = await shop.execute(shop.start(make_task("Who paid for it?")), clamped(12))
    assert [a.origin for a in result.task.items] == [EXTRACT]
    assert result.task.items[0].mean_logprob == 0, "no model vouches for it"
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_INVALID_OUTPUT
    assert "12 of 24" in result.failure.message


async def test_a_weak_models_line_beyond_its_full_size_is_judged_and_not_asked_again() -> None:
    async with weak_shop(lambda call: say(" a purple elephant" * 30)) as shop:
        start = shop.start(make_task("Who paid for it?"), max_reasks=3)
        result = await shop.execute(start)
        assert len(shop.llm.calls) == 1
    assert result.state == SUCCEEDED
    assert [a.origin for a in result.task.items] == [EXTRACT]


# -- what is to follow ----------------------------------------------------------------------


async def test_batches_say_their_items_and_the_batches_left() -> None:
    questions = [f"When was mill {n} built?" for n in range(20)]

    def script(call: Call) -> Reply:
        if call.purpose == "WORK" and "q9" in ids_of(call):
            return say("{")
        return answer_all(call)

    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions), max_reasks=1))
    said = [(i.purpose, i.items, i.calls_left) for i in shop.intents]
    assert said == [(WORK, 8, 2), (WORK, 8, 1), (WORK, 4, 0), (REASK, 8, 0)]
    assert [c.items for c in result.calls] == [8, 8, 4, 8]


async def test_a_call_that_broke_or_had_to_read_less_is_about_the_same() -> None:
    def poor(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call == 1:
            return attempt_pb2.Grant(call=1, denied=True, reason="too much")
        return everything(intent)

    questions = [f"When was mill {n} built?" for n in range(10)]
    script = [Rule(Reply(disconnect_after=3), nth=1), Rule(answer_all)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        result = await shop.execute(shop.start(make_task(*questions)), poor)
    said = [(i.call, i.items, i.calls_left) for i in shop.intents]
    assert said == [(1, 8, 1), (2, 8, 1), (3, 8, 1), (4, 2, 0)]
    assert [(c.call, c.items) for c in result.calls] == [(2, 8), (3, 8), (4, 2)]


async def test_rounds_of_tools_count_the_rounds_and_batches_that_may_follow() -> None:
    def script(call: Call) -> Reply:
        if call.purpose != "TOOL":
            return answer_all(call)
        if "<finding>\n" in call.prompt:
            return say("ready")
        return Reply(tool_calls=(("calculate", {"expression": "1+1"}),))

    questions = [f"How many in row {n}?" for n in range(10)]
    async with open_shop(script) as shop:
        await shop.execute(shop.start(make_task(*questions, tools=["calculate"])))
    said = [(i.purpose, i.items, i.calls_left) for i in shop.intents]
    assert said == [(TOOL, 10, 4), (TOOL, 10, 3), (WORK, 8, 1), (WORK, 2, 0)]


async def test_an_object_of_the_tasks_own_is_one_call_about_all_items() -> None:
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    script = [say('{"year": "unknown"}'), say('{"year": 1764}')]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("When?", "And who?", output_schema=json.dumps(schema))
        await shop.execute(shop.start(task, max_reasks=1))
    said = [(i.purpose, i.items, i.calls_left) for i in shop.intents]
    assert said == [(WORK, 2, 0), (REASK, 2, 0)]


async def test_items_that_are_done_are_not_counted() -> None:
    done = [task_pb2.ItemAnswer(item_id=f"q{n}", answer="old", origin=MODEL) for n in range(1, 10)]
    questions = [f"When was mill {n} built?" for n in range(12)]
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        await shop.execute(shop.start(make_task(*questions), done=done))
    assert [(i.items, i.calls_left) for i in shop.intents] == [(3, 0)]
