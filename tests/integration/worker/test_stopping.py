"""A Worker that is told to stop: at once, with what there is, and a reason for the rest."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from hma.rpc.attempt_stream import Finished
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from tests.integration.worker.shop import Shop, everything, make_task, open_shop, spent
from tests.integration.worker.test_executing import FACTS, answer_all, ids_of, reply, weak_shop
from tests.scripted_llm import Call, Reply, Rule, refuse, say

PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
MODEL, EXTRACT = common_pb2.ORIGIN_MODEL, common_pb2.ORIGIN_EXTRACT
EXACT = common_pb2.ACCURACY_EXACT
INTERRUPT = attempt_pb2.STOP_REASON_INTERRUPT
TIMEOUT = attempt_pb2.STOP_REASON_TIMEOUT
CANCELLED = common_pb2.FAILURE_CLASS_CANCELLED
TIMED_OUT = common_pb2.FAILURE_CLASS_TIMEOUT
REASONS = pytest.mark.parametrize(("reason", "why"), [(INTERRUPT, CANCELLED), (TIMEOUT, TIMED_OUT)])
OLD = [task_pb2.ItemAnswer(item_id="q1", answer="old", origin=MODEL)]


async def stopped(
    shop: Shop,
    start: worker_pb2.ExecuteStart,
    when: Any,
    reason: Any = INTERRUPT,
    *,
    grants: Any = everything,
) -> attempt_pb2.AttemptResult:
    """Stops an attempt when `when` comes true; the end must come at once.

    Args:
        shop: Where the Worker is.
        start: The attempt.
        when: Awaited; the stop follows.
        reason: Of the stop.
        grants: Answers intents; None: nothing is granted.
    """
    asked = asyncio.Event()
    told: list[float] = []

    async with asyncio.timeout(30), shop.open(start) as stream:

        async def stop() -> None:
            await when(shop, asked)
            stream.stop(reason)
            told.append(time.monotonic())

        stopping = asyncio.create_task(stop())
        async for item in stream:
            if isinstance(item, attempt_pb2.CallIntent):
                asked.set()
                if grants is not None:
                    stream.grant(grants(item))
        await stopping
        took = time.monotonic() - told[0]
        assert isinstance(stream.outcome, Finished), stream.outcome
        stream.ack()
    # Work that does not heed a stop is cut off after fifteen.
    assert took < 10, "a stop ends an attempt at once"
    await shop.llm.wait_idle()
    return stream.outcome.result


def written(text: str) -> Any:
    """Until the server has written this much of its reply."""

    async def wait(shop: Shop, asked: asyncio.Event) -> None:
        await shop.llm.wait_until(lambda llm: bool(llm.calls) and text in llm.calls[-1].text)

    return wait


async def intent(shop: Shop, asked: asyncio.Event) -> None:
    """Until a call was announced."""
    await asked.wait()


# -- in the middle of a generation ----------------------------------------------------------


@REASONS
async def test_a_stop_in_the_middle_of_json_keeps_every_closed_answer_and_no_other(
    reason: Any, why: Any
) -> None:
    text = reply(("q1", "1764", ""), ("q2", "Anna Hale", ""), ("q3", "two hundred and five", ""))
    script = [Reply(text=text, token_delay=0.05)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("When was it built?", "Who paid?", "How many?"))
        result = await stopped(shop, start, written('"two hundred'), reason)
        assert shop.llm.calls[0].state == "aborted"
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert result.failure.failure_class == why
    assert [(a.item_id, a.answer) for a in result.task.items] == [
        ("q1", "1764"),
        ("q2", "Anna Hale"),
    ]
    (missing,) = result.task.missing
    assert (missing.item_id, missing.failure_class) == ("q3", why)
    assert missing.reason
    (call,) = result.calls
    assert (call.finish_reason, call.usage.accuracy, call.items) == ("abort", EXACT, 3)


async def test_a_number_that_was_being_written_is_not_an_answer() -> None:
    text = '{"items": [{"id": "q1", "answer": "1764", "evidence": ""}, {"id": "q2", "answer": 12'
    script = [Reply(text=text + "5" * 300, token_delay=0.05)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("When?", "How many?", max_result_tokens=900))
        result = await stopped(shop, start, written('"answer": 12'))
        assert spent(result) == shop.llm.total_tokens
    assert [a.item_id for a in result.task.items] == ["q1"]
    assert [m.item_id for m in result.task.missing] == ["q2"]


@REASONS
async def test_a_stop_in_the_middle_of_prose_keeps_its_whole_sentences(
    reason: Any, why: Any
) -> None:
    text = reply(("q1", "The first sentence is done. The second one " + "goes on " * 60, ""))
    async with open_shop([Reply(text=text, token_delay=0.05)], documents={"d1": FACTS}) as shop:
        task = make_task("Describe it.", "And more.", kind=common_pb2.TASK_KIND_WRITE)
        result = await stopped(shop, shop.start(task), written("goes on goes"), reason)
        assert spent(result) == shop.llm.total_tokens
    assert result.state == PARTIAL
    assert [a.answer for a in result.task.items] == ["The first sentence is done."]
    assert [m.failure_class for m in result.task.missing] == [why]
    assert result.calls[0].usage.accuracy == EXACT


async def test_a_stop_in_the_middle_of_a_weak_models_text_keeps_whole_sentences() -> None:
    script = [Reply(text="It was built in 1764. Then it" + " went on" * 90, token_delay=0.05)]
    async with weak_shop(script) as shop:
        task = make_task("Sum it up.", kind=common_pb2.TASK_KIND_SUMMARIZE)
        result = await stopped(shop, shop.start(task), written("went on went"))
        assert spent(result) >= shop.llm.total_tokens
    assert [a.answer for a in result.task.items] == ["It was built in 1764."]
    assert result.state == PARTIAL


async def test_a_stop_in_the_middle_of_a_weak_models_answer_is_not_an_answer() -> None:
    script = [Reply(text=" Anna Hale and" + " more" * 90, token_delay=0.05)]
    async with weak_shop(script) as shop:
        result = await stopped(shop, shop.start(make_task("Who paid?")), written("Anna"))
    assert not result.task.items
    assert [m.item_id for m in result.task.missing] == ["q1"]


async def test_a_stop_in_the_middle_of_an_own_object_is_partial_even_if_its_schema_holds() -> None:
    schema = {"type": "object", "properties": {"who": {"type": "string"}}}
    text = json.dumps({"who": "Anna Hale", "what": "a very long story " * 40})
    script = [Reply(text=text, token_delay=0.05)]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("Who?", output_schema=json.dumps(schema), max_result_tokens=600)
        start = shop.start(task, max_reasks=2)
        result = await stopped(shop, start, written("a very long story a"))
        assert spent(result) == shop.llm.total_tokens
        assert len(shop.llm.calls) == 1
    assert result.state == PARTIAL
    assert dict(result.task.structured) == {"who": "Anna Hale"}
    assert [m.item_id for m in result.task.missing] == ["q1"]


# -- between generations ----------------------------------------------------------------------


@REASONS
async def test_a_stop_while_waiting_for_a_grant_costs_nothing(reason: Any, why: Any) -> None:
    async with open_shop(documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("When?", "Who?"), done=OLD)
        result = await stopped(shop, start, intent, reason, grants=None)
        assert shop.llm.calls == []
    assert result.state == PARTIAL
    assert list(result.calls) == []
    assert [a.answer for a in result.task.items] == ["old"]
    assert [(m.item_id, m.failure_class) for m in result.task.missing] == [("q2", why)]


@REASONS
async def test_a_stop_while_documents_are_read_waits_for_none(reason: Any, why: Any) -> None:
    async def reading(shop: Shop, asked: asyncio.Event) -> None:
        while not shop.documents.reads:  # noqa: ASYNC110 - told by another server
            await asyncio.sleep(0.005)

    async with open_shop(documents={"d1": FACTS}) as shop:
        shop.documents.hold.clear()
        start = shop.start(make_task("When?", "Who?"), done=OLD)
        result = await stopped(shop, start, reading, reason)
        shop.documents.hold.set()
        assert shop.llm.calls == []
    assert result.state == PARTIAL
    assert [a.answer for a in result.task.items] == ["old"]
    assert [(m.item_id, m.failure_class) for m in result.task.missing] == [("q2", why)]


async def test_a_stop_between_two_calls_keeps_the_first_and_starts_no_second() -> None:
    async def after_the_first(shop: Shop, asked: asyncio.Event) -> None:
        await shop.llm.wait_until(lambda llm: any(c.state == "done" for c in llm.calls))

    def only_the_first(item: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        grant = everything(item)
        return grant if item.call == 1 else attempt_pb2.Grant(call=item.call, tokens=1)

    questions = [f"When was mill {n} built?" for n in range(20)]
    async with open_shop(lambda call: answer_all(call), documents={"d1": FACTS}) as shop:
        start = shop.start(make_task(*questions))
        result = await stopped(shop, start, after_the_first, grants=only_the_first)
        assert spent(result) == shop.llm.total_tokens
        assert len(shop.llm.calls) == 1
    assert result.state == PARTIAL
    assert len(result.task.items) == 8
    assert len(result.task.missing) == 12


async def test_a_stop_while_the_server_is_full_ends_the_waiting() -> None:
    async def refused(shop: Shop, asked: asyncio.Event) -> None:
        await shop.llm.wait_until(lambda llm: any(call.status == 503 for call in llm.calls))

    script = [Rule(refuse(503, retry_after=15))]
    async with open_shop(script, documents={"d1": FACTS}) as shop:
        start = shop.start(make_task("When?", "Who?"), done=OLD)
        result = await stopped(shop, start, refused)
        assert spent(result) == shop.llm.total_tokens == 0
    assert [a.answer for a in result.task.items] == ["old"]
    assert [m.item_id for m in result.task.missing] == ["q2"]


# -- and another attempt after it -------------------------------------------------------------


async def test_an_attempt_after_an_interrupted_one_pays_for_the_rest_only() -> None:
    whole = {"q1": "1764", "q2": "Anna Hale", "q3": "copper"}

    def script(call: Call) -> Reply:
        text = reply(*[(i, whole[i], "") for i in ids_of(call)])
        return say(text, token_delay=0.05 if "q1" in ids_of(call) else 0.0)

    async with open_shop(script, documents={"d1": FACTS}) as shop:
        task = make_task("When was it built?", "Who paid?", "What melts?")
        first = await stopped(shop, shop.start(task), written('"Anna Hale"'))
        before = shop.llm.total_tokens
        second = await shop.execute(shop.start(task, done=first.task.items))
        assert spent(second) == shop.llm.total_tokens - before
        assert [ids_of(call) for call in shop.llm.calls] == [["q1", "q2", "q3"], ["q3"]]
    assert second.state == SUCCEEDED
    assert {a.item_id: a.answer for a in second.task.items} == whole


@pytest.mark.parametrize("profile", ["standard", "smollm2"])
async def test_an_attempt_with_nothing_left_to_do_spends_no_token(profile: str) -> None:
    async with open_shop(documents={"d1": FACTS}, profile=profile) as shop:
        start = shop.start(make_task("When was it built?"), done=OLD)
        result = await shop.execute(start)
        assert shop.llm.calls == []
        assert shop.intents == []
    assert result.state == SUCCEEDED
    assert [a.answer for a in result.task.items] == ["old"]
