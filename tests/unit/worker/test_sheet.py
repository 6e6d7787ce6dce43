"""How an attempt ends, by what is on its sheet."""

from __future__ import annotations

import pytest

from hma.v1 import attempt_pb2, common_pb2
from services.worker.sheet import Sheet
from tests.unit.worker.making import items, model_answer, unread_extract

SUCCEEDED = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
PARTIAL = attempt_pb2.ATTEMPT_STATE_PARTIAL
FAILED = attempt_pb2.ATTEMPT_STATE_FAILED
BUDGET = common_pb2.FAILURE_CLASS_BUDGET
INVALID = common_pb2.FAILURE_CLASS_INVALID_OUTPUT
TRANSIENT = common_pb2.FAILURE_CLASS_TRANSIENT


def failure(why: common_pb2.FailureClass.ValueType) -> common_pb2.Failure:
    return common_pb2.Failure(failure_class=why, message="because")


def test_all_answered_is_a_success_in_the_order_of_the_items() -> None:
    sheet = Sheet(items("a", "b"))
    sheet.put(model_answer("q2"))
    sheet.put(model_answer("q1"))
    result = sheet.conclude(None)
    assert result.state == SUCCEEDED
    assert [answer.item_id for answer in result.task.items] == ["q1", "q2"]
    assert not result.HasField("failure")


def test_first_answer_stands_and_foreign_ids_are_ignored() -> None:
    sheet = Sheet(items("a"))
    sheet.put(model_answer("q1", "first"))
    sheet.put(model_answer("q1", "second"))
    sheet.put(model_answer("q7"))
    assert [answer.answer for answer in sheet.result().items] == ["first"]


def test_some_answered_is_partial_and_each_missing_item_has_its_reason() -> None:
    sheet = Sheet(items("a", "b"))
    sheet.put(model_answer("q1"))
    sheet.explain(["q2"], "It broke.", INVALID)
    result = sheet.conclude(None)
    assert result.state == PARTIAL
    assert result.failure.failure_class == INVALID
    (missing,) = result.task.missing
    assert (missing.item_id, missing.reason, missing.failure_class) == ("q2", "It broke.", INVALID)


@pytest.mark.parametrize(("why", "state"), [(BUDGET, PARTIAL), (TRANSIENT, FAILED)])
def test_extracts_alone_are_partial_only_when_money_or_time_ran_out(
    why: common_pb2.FailureClass.ValueType, state: int
) -> None:
    sheet = Sheet(items("a"))
    sheet.put_extract(unread_extract("q1"))
    result = sheet.conclude(failure(why))
    assert result.state == state
    assert result.task.items[0].origin == common_pb2.ORIGIN_EXTRACT


def test_nothing_done_is_a_failure_of_the_named_class() -> None:
    result = Sheet(items("a", "b")).conclude(failure(TRANSIENT))
    assert result.state == FAILED
    assert result.failure.failure_class == TRANSIENT
    assert len(result.task.missing) == 2


def test_answers_of_an_earlier_attempt_are_kept_and_not_open() -> None:
    sheet = Sheet(items("a", "b"), [model_answer("q1", "old")])
    assert [item.item_id for item in sheet.open] == ["q2"]
    sheet.put(model_answer("q2"))
    assert sheet.conclude(None).state == SUCCEEDED


def test_extract_of_an_earlier_attempt_is_open_again_but_not_lost() -> None:
    sheet = Sheet(items("a", "b"), [unread_extract("q1", "old"), unread_extract("q2", "old")])
    assert len(sheet.open) == 2, "no model has read them"
    sheet.put(model_answer("q1", "new"))
    result = sheet.conclude(failure(BUDGET))
    assert result.state == PARTIAL
    assert [answer.answer for answer in result.task.items] == ["new", "old"]


def test_extract_that_replaced_a_models_answer_is_done() -> None:
    read = unread_extract("q1")
    read.mean_logprob = -0.7
    assert Sheet(items("a"), [read]).open == ()


def test_failure_after_all_was_answered_is_still_told() -> None:
    sheet = Sheet(items("a"))
    sheet.put(model_answer("q1"))
    assert sheet.conclude(failure(TRANSIENT)).state == PARTIAL


def test_notes_are_said_once_and_bounded() -> None:
    sheet = Sheet(items("a"))
    for _ in range(3):
        sheet.note("Odd.")
    sheet.note("x" * 5000)
    assert sheet.result().notes.startswith("Odd. xxx")
    assert len(sheet.result().notes) <= 2000
