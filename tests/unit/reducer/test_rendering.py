"""The merged answer as Markdown."""

from __future__ import annotations

from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import common_pb2, task_pb2
from services.reducer.answer import make_answer, structured
from services.reducer.extracts import extracts_from
from services.reducer.merging import merge
from services.reducer.places import Places
from services.reducer.rendering import render
from tests.unit.reducer.results import DOCUMENT, HANDBOOK, answer, item, outcome

PLACES = Places([DOCUMENT])


def text_of(items: list[task_pb2.Item], outcomes: list[object]) -> str:
    return "\n\n".join(render(merge(items, outcomes), PLACES))  # type: ignore[arg-type]


def test_items_show_question_answer_and_source() -> None:
    answers = [
        answer("q1", "nine", evidence="The shop opens at\nnine.", section_id="d1#0"),
        answer("q2", "ten euros", section_id="d1#1"),
    ]
    text = text_of(
        [item("q1", "When does it open?"), item("q2", "What does it cost?"), item("q3", "Why?")],
        [
            outcome("t1", answers, items=["q1", "q2"], notes="Prices may change."),
            outcome("t2", items=["q3"], failure="The model was away."),
        ],
    )
    assert text == (
        "**1. When does it open?**\n\nnine\n\n> The shop opens at nine.\n> — handbook.md, Opening"
        "\n\n**2. What does it cost?**\n\nten euros (handbook.md, Prices)"
        "\n\n**3. Why?**\n\n*No answer.* The model was away."
        "\n\n**Remarks**\n\n- Task t1: Prices may change."
        "\n\n**Missing**\n\n- Why?: The model was away."
    )


def test_extracts_are_labelled_with_the_reason() -> None:
    merged = merge([item("q1", "What does a ticket cost?")], [])
    filled = merged.with_extracts(extracts_from(merged.unanswered, [(DOCUMENT, HANDBOOK)]))
    text = "\n\n".join(render(filled, PLACES))
    assert "*Extracted, not read by a model (No task has worked on it):* costs ten euros" in text
    assert "> A ticket costs ten euros." in text
    assert "**Missing**" not in text


def test_tasks_without_items_stand_under_their_titles_in_plan_order() -> None:
    outcomes = [
        outcome("t2", [answer("t2", "two")], title="Second part", notes="unsure"),
        outcome("t1", [answer("t1", "one")], title="First part"),
        outcome("t3", title="Third part", failure="late"),
    ]
    assert text_of([], list(outcomes)) == (
        "## Second part\n\ntwo\n\n*unsure*\n\n## First part\n\none\n\n"
        "**Missing**\n\n- Third part: late"
    )


def test_a_single_text_needs_no_heading() -> None:
    assert text_of([], [outcome("t1", [answer("t1", "the essay")])]) == "the essay"


@given(texts=st.lists(st.text(min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=6))
def test_every_answer_stands_in_the_text(texts: list[str]) -> None:
    answers = [answer(f"q{n}", text) for n, text in enumerate(texts)]
    text = text_of([item(a.item_id) for a in answers], [outcome("t1", answers)])
    position = 0
    for each in texts:
        position = text.index(each.strip(), position) + len(each.strip())


def test_the_answer_message_holds_items_sources_and_structure() -> None:
    answers = [
        answer("q1", "nine", evidence="The shop opens at nine.", section_id="d1#0"),
        answer("q2", "9 am", evidence="The shop opens at nine.", section_id="d1#0"),
        answer("q3", "no source"),
    ]
    outcomes = [outcome("t1", answers)]
    merged = merge([item(a.item_id) for a in answers], outcomes)
    made = make_answer(merged, outcomes, PLACES, "text", common_pb2.ORIGIN_MERGE)
    assert [a.item_id for a in made.items] == ["q1", "q2", "q3"]
    (source,) = made.sources
    assert (source.document_id, source.name, source.section_id, source.quote) == (
        "d1",
        "handbook.md",
        "d1#0",
        "The shop opens at nine.",
    )
    rows = json_format.MessageToDict(made.structured)["items"]
    assert rows[0] == {"id": "q1", "answer": "nine", "evidence": "The shop opens at nine."}


def test_the_output_of_the_only_task_passes_through() -> None:
    only = outcome("t1")
    only.task.output_schema = '{"type": "object"}'
    only.result.structured.update({"total": 7, "rows": [{"a": None}]})
    merged = merge([], [only])
    assert structured(merged, [only]) == only.result.structured
    assert not merged.empty
    assert '"total": 7' in "\n".join(render(merged, PLACES))
