"""Reading JSON that was cut, fenced or broken: what is kept was closed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.recover import Condition, clean, recover

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


def is_part_of(part: Any, whole: Any) -> bool:
    """Whether `part` is `whole` less some of what comes at the end, nothing altered."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_part_of(part[key], whole[key]) for key in part)
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_part_of, part, whole))
    return bool(part == whole) and type(part) is type(whole)


@given(OBJECTS, st.data())
def test_every_prefix_yields_only_what_had_closed(value: dict[str, Any], data: Any) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    if "\x7f" in text or any("\ud800" <= c <= "\udfff" for c in text):
        return
    cut = text[: data.draw(st.integers(1, len(text)))]
    found = recover(cut)
    assert found.condition in (Condition.WHOLE, Condition.TRUNCATED)
    assert is_part_of(found.value, value)


@given(OBJECTS)
def test_whole_text_is_read_as_it_is_with_fences_and_prose_around_it(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    for wrapped in (text, f"```json\n{text}\n```", f"Sure, here it is:\n{text}\n\nAnything else?"):
        found = recover(wrapped)
        assert (found.condition, found.value) == (Condition.WHOLE, value)


@given(st.text(max_size=300))
def test_any_text_at_all_is_read_without_an_error(text: str) -> None:
    recover(text)
    recover("{" + text)
    recover('{"items": [' + text)


@pytest.mark.parametrize("text", ['{"n": 12', '{"n": -', '{"n": 1.5e', '{"n": tru', '{"n": nul'])
def test_number_or_literal_at_the_end_may_go_on_and_is_dropped(text: str) -> None:
    assert recover(text).value == {}


def test_number_before_the_end_is_kept() -> None:
    assert recover('{"a": [12, 7').value == {"a": [12]}
    assert recover('{"a": 12, "b').value == {"a": 12}


def test_stray_quote_is_no_truncation_and_half_an_answer_is_not_read() -> None:
    text = '{"items": [{"id": "q1", "answer": "He said "hi" twice"}, {"id": "q2", "answer": "b"}]}'
    found = recover(text)
    assert found.condition is Condition.MALFORMED
    assert found.objects == ({"id": "q2", "answer": "b"},)


def test_white_space_without_end_is_a_truncation() -> None:
    found = recover('{"items": [{"id": "q1"}' + " \n\t" * 500)
    assert found.condition is Condition.TRUNCATED
    assert found.value == {"items": [{"id": "q1"}]}


def test_thoughts_before_the_answer_are_not_read() -> None:
    assert recover('<think>{"a": 1} or {"a": 2}?</think>{"a": 3}').value == {"a": 3}
    assert recover('Is it {"a": 1}, or a "b"?</think>{"a": 3}').value == {"a": 3}
    assert recover('<think>It may be {"a": 1}').condition is Condition.EMPTY


@pytest.mark.parametrize("text", ['{"a": "b</think>{c}"}', '{"a": "b", "</think>": ["x"]}'])
def test_answer_may_speak_of_thoughts(text: str) -> None:
    assert recover(text).value == json.loads(text)
    assert recover(text[:-3]).condition is Condition.TRUNCATED


@pytest.mark.parametrize("text", ["", "   ", "no json here", "```\n```"])
def test_text_without_json_is_empty(text: str) -> None:
    assert recover(text).condition is Condition.EMPTY


def test_nesting_without_end_is_no_crash() -> None:
    assert recover("[" * 100_000).condition in (Condition.MALFORMED, Condition.TRUNCATED)
    assert recover('{"a":' * 50_000).condition in (Condition.MALFORMED, Condition.TRUNCATED)


def test_clean_text_can_be_written_to_a_protobuf() -> None:
    assert clean(" a\x00b\ud800c\n ") == "ab\N{REPLACEMENT CHARACTER}c"
