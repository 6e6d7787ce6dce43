"""The brief."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import common_pb2
from services.analyst.brief import MAX_OBJECTIVE, brief_by_code, brief_of_model
from tests.unit.analyst.plans import make_inputs


def test_the_request_is_sorted_into_the_brief() -> None:
    brief = brief_by_code(
        make_inputs(
            "Help us plan the opening day. It is written for the board. Answers must be at most "
            "20 words. Acceptance: each names its source.\n\nQuestions:\n1. When?\n2. Where?\n\n"
            "Rules:\n- use metric units"
        )
    )
    assert brief.objective.startswith("Help us plan the opening day.")
    assert brief.audience == "the board"
    assert list(brief.constraints) == [
        "use metric units",
        "Answers must be at most 20 words.",
    ]
    assert list(brief.acceptance) == ["Acceptance: each names its source."]
    assert brief.origin == common_pb2.ORIGIN_MERGE


def test_what_does_not_fit_is_said_to_be_dropped() -> None:
    brief = brief_by_code(make_inputs("The story goes on and on. " * 100))
    assert len(brief.objective) <= MAX_OBJECTIVE
    assert "characters" in brief.dropped[0]


def test_bare_questions_still_have_an_objective() -> None:
    assert brief_by_code(make_inputs("Who?\nWhere is it?")).objective == (
        "Answer 2 questions from the documents."
    )


def test_a_models_brief_without_an_objective_is_not_used() -> None:
    brief = brief_of_model({"objective": "\u0000 \n", "audience": "x"}, make_inputs())
    assert brief.origin == common_pb2.ORIGIN_MERGE


@given(description=st.text(max_size=800))
def test_any_request_has_a_brief(description: str) -> None:
    brief = brief_by_code(make_inputs(description))
    assert 0 < len(brief.objective) <= MAX_OBJECTIVE
    assert all(brief.constraints)
