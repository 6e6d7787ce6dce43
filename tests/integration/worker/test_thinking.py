"""A Worker on a route that reasons: thoughts have their limit, and answers come first."""

from __future__ import annotations

import asyncio

from hma.rpc.attempt_stream import Finished
from hma.v1 import attempt_pb2, common_pb2
from tests.integration.worker.shop import everything, make_task, open_shop, spent
from tests.integration.worker.test_executing import FACTS, answer_all, reply
from tests.scripted_llm import Call, Reply, Rule

PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
WORK, REASK = attempt_pb2.CALL_PURPOSE_WORK, attempt_pb2.CALL_PURPOSE_REASK
THINK = {"think_tokens": 60}
# Slow enough for the client to believe the count of a call that it cut.
ENDLESS = Reply(reasoning="hmm " * 2000, text="never", token_delay=0.05)


def thinks(call: Call) -> bool:
    return bool(call.body["chat_template_kwargs"]["enable_thinking"])


def endless_thoughts(call: Call) -> Reply:
    return ENDLESS if thinks(call) else answer_all(call)


async def test_thoughts_come_first_and_the_answer_after_them() -> None:
    script = [Reply(reasoning="1764, I think. ", text=reply(("q1", "1764", "")))]
    async with open_shop(script, documents={"d1": FACTS}, changes=THINK) as shop:
        start = shop.start(make_task("When was the mill built?"), route="reasoning")
        result = await shop.execute(start)
        assert spent(result) == shop.llm.total_tokens
        assert [thinks(call) for call in shop.llm.calls] == [True]
    assert result.state == SUCCEEDED
    assert result.calls[0].usage.reasoning_tokens > 0
    assert not result.task.notes


async def test_thoughts_without_end_are_cut_and_the_answer_is_asked_for_without_them() -> None:
    async with open_shop(endless_thoughts, documents={"d1": FACTS}, changes=THINK) as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, route="reasoning"))
        await shop.llm.wait_idle()
        assert spent(result) == shop.llm.total_tokens
        thinking, plain = shop.llm.calls
        assert (thinks(thinking), thinks(plain)) == (True, False)
        assert thinking.state == "aborted"
        assert thinking.reasoning_tokens < 60 + 10
        first, second = (call.body["messages"] for call in shop.llm.calls)
        assert first == second, "the prefix cache has it"
    assert result.state == SUCCEEDED
    assert [c.purpose for c in result.calls] == [WORK, REASK]
    assert [c.items for c in result.calls] == [1, 1]
    assert "thought for too long" in result.task.notes


async def test_the_grant_for_the_thoughts_has_not_eaten_what_the_answer_needs() -> None:
    granted: dict[int, int] = {}

    def poor(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        """Pays the first call and after it, with nothing else left, what it has not spent."""
        if intent.call == 1:
            granted[1] = intent.prompt_tokens + intent.min_completion_tokens
        else:
            before = intent.previous.usage
            granted[intent.call] = granted[1] - before.prompt_tokens - before.completion_tokens
        least = intent.prompt_tokens + intent.min_completion_tokens
        if granted[intent.call] < least:
            return attempt_pb2.Grant(call=intent.call, denied=True, reason="nothing is left")
        return attempt_pb2.Grant(call=intent.call, tokens=granted[intent.call])

    async with open_shop(endless_thoughts, documents={"d1": FACTS}, changes=THINK) as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, route="reasoning"), poor)
        assert shop.llm.total_tokens <= spent(result) <= granted[1]
    assert result.state == SUCCEEDED
    assert [c.purpose for c in result.calls] == [WORK, REASK]


async def test_an_answer_after_thoughts_that_is_not_paid_for_is_missed_with_that_reason() -> None:
    def only_the_first(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        if intent.call == 1:
            return everything(intent)
        return attempt_pb2.Grant(call=intent.call, denied=True, reason="the job is out of tokens")

    async with open_shop(endless_thoughts, documents={"d1": FACTS}, changes=THINK) as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, route="reasoning"), only_the_first)
        assert len(shop.llm.calls) == 1
    assert result.state == PARTIAL
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    assert "thought for too long" in result.failure.message
    assert "the job is out of tokens" in result.failure.message
    assert [a.origin for a in result.task.items] == [common_pb2.ORIGIN_EXTRACT]


async def test_a_grant_too_small_for_thoughts_is_answered_without_them() -> None:
    def poor(intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        # An answer without thoughts and no more.
        if intent.min_completion_tokens > 104:
            return attempt_pb2.Grant(call=intent.call, denied=True, reason="others wait")
        return everything(intent)

    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, route="reasoning"), poor)
        assert spent(result) == shop.llm.total_tokens
        assert [thinks(call) for call in shop.llm.calls] == [False]
    assert result.state == SUCCEEDED
    assert [c.purpose for c in result.calls] == [WORK]
    assert "did not pay for thoughts" in result.task.notes
    thinking, plain = (intent.prompt_tokens for intent in shop.intents)
    assert thinking <= plain <= thinking + 16, "it reads no less"


async def test_a_server_that_ignores_the_budget_it_promised_to_keep_is_cut() -> None:
    changes = {**THINK, "honours_think_budget": True}
    async with open_shop(endless_thoughts, documents={"d1": FACTS}, changes=changes) as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, route="reasoning"))
        thinking = shop.llm.calls[0]
        assert thinking.body["thinking_token_budget"] == 60
        assert thinking.reasoning_tokens < 60 + 16 + 10
    assert result.state == SUCCEEDED
    assert [c.purpose for c in result.calls] == [WORK, REASK]


async def test_the_next_batches_do_not_think_for_too_long_again() -> None:
    questions = [f"When was mill {n} built?" for n in range(20)]
    async with open_shop(endless_thoughts, documents={"d1": FACTS}, changes=THINK) as shop:
        result = await shop.execute(shop.start(make_task(*questions), route="reasoning"))
        assert [thinks(call) for call in shop.llm.calls] == [True, False, False, False]
    assert result.state == SUCCEEDED
    assert [c.purpose for c in result.calls] == [WORK, REASK, WORK, WORK]
    assert [(i.items, i.calls_left) for i in shop.intents] == [(8, 2), (8, 2), (8, 1), (4, 0)]


async def test_thoughts_that_fill_all_their_tokens_are_followed_by_an_answer() -> None:
    # No usage until the end, and large pieces: nothing tells in time.
    changes = {**THINK, "chunk_usage": "final"}
    script = [
        Rule(Reply(reasoning="hmm " * 2000, chunk_tokens=500), nth=1),
        Rule(answer_all),
    ]
    async with open_shop(script, documents={"d1": FACTS}, changes=changes) as shop:
        task = make_task("When was the mill built?")
        result = await shop.execute(shop.start(task, route="reasoning"))
        assert spent(result) == shop.llm.total_tokens
    assert result.calls[0].finish_reason == "length"
    assert result.state == SUCCEEDED
    assert [c.purpose for c in result.calls] == [WORK, REASK]


async def test_a_stop_during_the_thoughts_asks_for_nothing_more() -> None:
    slow = Reply(reasoning="hmm " * 2000, token_delay=0.05)
    changes = {"think_tokens": 900}
    async with open_shop([slow], documents={"d1": FACTS}, changes=changes) as shop:
        start = shop.start(make_task("When was the mill built?"), route="reasoning")
        async with asyncio.timeout(30), shop.open(start) as stream:
            async for item in stream:
                if isinstance(item, attempt_pb2.CallIntent):
                    stream.grant(everything(item))
                elif (
                    isinstance(item, attempt_pb2.AttemptProgress)
                    and item.usage.reasoning_tokens > 3
                ):
                    stream.stop(attempt_pb2.STOP_REASON_INTERRUPT)
            assert isinstance(stream.outcome, Finished)
            stream.ack()
        result = stream.outcome.result
        await shop.llm.wait_idle()
        assert spent(result) == shop.llm.total_tokens
        assert len(shop.llm.calls) == 1
    assert [m.item_id for m in result.task.missing] == ["q1"]
    assert not result.task.notes, "it was not the thoughts that were too long"
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_CANCELLED


async def test_the_context_that_has_no_room_for_thoughts_still_has_it_for_answers() -> None:
    async with open_shop(
        lambda call: answer_all(call), changes={"think_tokens": 3000}, context_tokens=1500
    ) as shop:
        result = await shop.execute(shop.start(make_task("When?"), route="reasoning"))
        assert [thinks(call) for call in shop.llm.calls] == [False]
    assert result.state == SUCCEEDED
