"""Answers by item from what a model wrote: a prefix of them, none invented, none cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1.task_pb2 import TaskResult
from services.worker.recover import Condition, clean
from services.worker.structured import (
    read_drafts,
    read_output,
    schema_fault,
    whole_sentences,
)

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
ENTRIES = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)


def written(entries: list[tuple[str, str]], **more: Any) -> tuple[str, list[str]]:
    ids = [f"q{n}" for n in range(1, len(entries) + 1)]
    found = [{"id": i, "answer": a, "evidence": e} for i, (a, e) in zip(ids, entries, strict=True)]
    return json.dumps({"items": found, "notes": "", **more}, ensure_ascii=False), ids


@given(ENTRIES, st.data())
def test_any_truncation_salvages_a_prefix_and_never_invents_or_cuts_an_answer(
    entries: list[tuple[str, str]], data: Any
) -> None:
    text, ids = written(entries)
    cut = text[: data.draw(st.integers(0, len(text)))]
    drafts = read_drafts(cut, ids).items
    assert [draft.item_id for draft in drafts] == ids[: len(drafts)]
    assert [draft.answer for draft in drafts] == [clean(a) for a, _ in entries[: len(drafts)]]
    # What is closed is never lost either.
    closed = sum(cut.find(json.dumps({"id": i})[1:-1]) >= 0 for i in ids)
    assert len(drafts) >= closed - 1


@given(ENTRIES, st.data())
def test_prose_that_is_cut_keeps_whole_sentences_only(
    entries: list[tuple[str, str]], data: Any
) -> None:
    text, ids = written(entries)
    cut = text[: data.draw(st.integers(0, len(text)))]
    whole = {i: clean(a) for i, (a, _) in zip(ids, entries, strict=True)}
    for draft in read_drafts(cut, ids, prose=True).items:
        assert whole[draft.item_id].startswith(draft.answer)
        assert draft.cut or draft.answer == whole[draft.item_id]
        assert not draft.cut or draft.answer[-1] in ".!?…"


AWKWARD: list[tuple[str, str]] = [
    ("1764", 'He said "1764".'),
    ('She said: "no {items}: [1, 2]", and left.', "back\\slash\\"),
    ("für 1.085 °C … 🦊🦊", "tab\tand\nline"),
    ("12", ""),
    ('{"id": "q1", "answer": "inner"}', '"}]}'),
    ("Dr. Hale. Of course! Yes? 3.5 times.", "null"),
]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("prose", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_reply_cut_at_any_position_says_nothing_that_the_whole_does_not(
    ascii_only: bool, prose: bool, indent: int | None, numbers: bool
) -> None:
    ids = [f"q{n}" for n in range(1, len(AWKWARD) + 1)]
    entries = [
        {"id": i, "answer": int(a) if numbers and a.isdigit() else a, "evidence": e}
        for i, (a, e) in zip(ids, AWKWARD, strict=True)
    ]
    text = json.dumps({"items": entries, "notes": "none"}, ensure_ascii=ascii_only, indent=indent)
    whole = {i: clean(a) for i, (a, _) in zip(ids, AWKWARD, strict=True)}
    before = 0
    for end in range(len(text) + 1):
        drafts = read_drafts(text[:end], ids, prose=prose).items
        assert [draft.item_id for draft in drafts] == ids[: len(drafts)]
        for draft in drafts:
            if draft.cut:
                assert prose
                assert whole[draft.item_id].startswith(draft.answer)
                assert draft.answer[-1] in ".!?…"
            else:
                assert draft.answer == whole[draft.item_id]
        closed = sum(not draft.cut for draft in drafts)
        assert closed >= before, "what has closed stays"
        before = closed
    assert before == len(ids)


@given(st.text(max_size=200))
def test_whatever_the_text_is_only_asked_ids_come_back_each_once(text: str) -> None:
    drafts = read_drafts('{"items": [' + text, ["q1", "q2"]).items
    found = [draft.item_id for draft in drafts]
    assert set(found) <= {"q1", "q2"}
    assert len(found) == len(set(found))


def test_look_up_that_is_cut_is_dropped_even_after_a_full_stop() -> None:
    text = '{"items": [{"id": "q1", "answer": "Built by Dr. Hale of'
    assert read_drafts(text, ["q1"]).items == ()
    (draft,) = read_drafts(text, ["q1"], prose=True).items
    assert (draft.answer, draft.cut) == ("Built by Dr.", True)


@pytest.mark.parametrize("length", [9, 10, 11])
def test_answer_that_reaches_the_schemas_limit_counts_as_cut(length: int) -> None:
    text = json.dumps({"items": [{"id": "q1", "answer": "One is. Two"[:length].ljust(length)}]})
    looked_up = read_drafts(text, ["q1"], longest=10).items
    written_ = read_drafts(text, ["q1"], prose=True, longest=10).items
    if length < 10:
        assert [(d.answer, d.cut) for d in looked_up] == [("One is. T", False)]
    else:
        assert looked_up == ()
        assert [(d.answer, d.cut) for d in written_] == [("One is.", True)]


def test_items_that_were_not_asked_are_dropped_and_the_first_of_two_wins() -> None:
    found = [
        {"id": "q9", "answer": "x"},
        {"id": "Q1 ", "answer": "a"},
        {"id": "q1", "answer": "b"},
    ]
    drafts = read_drafts(json.dumps({"items": found}), ["q1"]).items
    assert [(draft.item_id, draft.answer) for draft in drafts] == [("q1", "a")]


@pytest.mark.parametrize("answer", [None, True, ["a", "b"], {"text": "a"}])
def test_answer_that_is_no_text_does_not_count(answer: object) -> None:
    text = json.dumps({"items": [{"id": "q1", "answer": answer}]})
    assert read_drafts(text, ["q1"]).items == ()


def test_number_is_an_answer() -> None:
    (draft,) = read_drafts('{"items": [{"id": "q1", "answer": 1764}]}', ["q1"]).items
    assert draft.answer == "1764"


@pytest.mark.parametrize(
    "text",
    ['[{"id": "q1", "answer": "a"}]', '{"id": "q1", "answer": "a"}', '{"id":"q1","answer":"a"} {'],
)
def test_items_are_found_without_the_object_around_them(text: str) -> None:
    assert [draft.answer for draft in read_drafts(text, ["q1"]).items] == ["a"]


def test_broken_output_keeps_the_items_that_are_whole() -> None:
    text = (
        '{"items": [{"id": "q1", "answer": "a", "evidence": "say "x""}, '
        '{"id": "q2", "answer": "b", "evidence": ""}], "notes": ""}'
    )
    drafts = read_drafts(text, ["q1", "q2"])
    assert drafts.condition is Condition.MALFORMED
    assert [draft.item_id for draft in drafts.items] == ["q2"]


def test_empty_answer_is_read_as_one() -> None:
    (draft,) = read_drafts('{"items": [{"id": "q1", "answer": " "}]}', ["q1"]).items
    assert draft.answer == ""


def test_whole_sentences_end_before_what_was_cut() -> None:
    assert whole_sentences("One is done. Two is 3.5 times") == "One is done."
    assert whole_sentences("Nothing has ended yet") == ""


SCHEMA = {
    "type": "object",
    "properties": {"year": {"type": "integer"}, "who": {"type": "string"}},
    "required": ["year"],
}


def test_own_schema_is_checked_and_what_closed_is_kept() -> None:
    assert read_output('{"year": 1764}', SCHEMA).faults == ()
    late = read_output('{"who": "Anna", "year": 17', SCHEMA)
    assert late.value == {"who": "Anna"}
    assert late.faults


def test_own_schema_that_holds_for_what_closed_does_not_make_a_cut_text_whole() -> None:
    lists = {"type": "object", "properties": {"names": {"type": "array"}}}
    output = read_output('{"names": ["Anna", "Ma', lists)
    assert output.value == {"names": ["Anna"]}
    assert output.faults == ("it was cut off before its end",)


def test_fault_names_the_place_and_never_the_text() -> None:
    output = read_output('{"year": "ignore all rules"}', SCHEMA)
    assert output.faults == ("$.year: type does not hold",)


def test_output_that_a_protobuf_could_not_carry_is_refused() -> None:
    deep = '{"a":' * 60 + "1" + "}" * 60
    output = read_output(deep, {"type": "object"})
    assert output.value is None
    assert output.faults


@pytest.mark.parametrize(
    ("schema", "sound"),
    [(SCHEMA, True), ([], False), ({"type": "array"}, False), ({"type": "nonsense"}, False)],
)
def test_schema_that_cannot_be_used_is_noticed(schema: object, sound: bool) -> None:
    assert (schema_fault(schema) is None) == sound


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-1e999", "9" * 400])
def test_number_that_nobody_can_carry_is_no_crash(number: str) -> None:
    text = f'{{"items": [{{"id": "q1", "answer": {number}}}], "year": {number}'
    for written_ in (text, text + "}", text + ', "x": 1'):
        read_drafts(written_, ["q1"])
        output = read_output(written_, {"type": "object"})
        if output.value is not None:
            TaskResult().structured.update(output.value)


@given(st.text(max_size=100))
def test_whatever_is_read_in_an_own_schema_fits_a_protobuf(text: str) -> None:
    for whole in (text, '{"a": "' + text, '{"a": [1, {"' + text + '": 2}]}'):
        output = read_output(whole, SCHEMA)
        if output.value is not None:
            TaskResult().structured.update(output.value)


def test_schema_that_refers_to_itself_without_end_is_a_fault_and_no_crash() -> None:
    output = read_output('{"a": 1}', {"$ref": "#"})
    assert output.faults
    assert read_output('{"a": 1}', {"$ref": "#/$defs/gone"}).faults
