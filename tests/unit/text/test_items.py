"""Items of a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.text.items import MAX_ITEMS, find_items, read_request
from tests.growth import assert_linear


def texts(description: str) -> list[str]:
    return [item.text for item in find_items(description)]


@given(description=st.text(max_size=500))
def test_any_text_can_be_read(description: str) -> None:
    items = find_items(description)
    assert [item.item_id for item in items] == [f"q{n}" for n in range(1, len(items) + 1)]
    assert all(item.text.strip() for item in items)


QUESTION = st.from_regex(r"[A-Z][a-z]{2,8}( [a-z]{3,8}){1,6}\?", fullmatch=True)


@given(questions=st.lists(QUESTION, min_size=1, max_size=20, unique_by=str.casefold))
def test_every_question_of_a_list_is_found_in_order(questions: list[str]) -> None:
    numbered = "Answer these.\n\n" + "\n".join(f"{n}. {q}" for n, q in enumerate(questions, 1))
    bullets = "Please read.\n\n" + "\n".join(f"- {q}" for q in questions)
    prose = "Read the report first. " + " ".join(questions) + " Be brief."
    assert texts(numbered) == texts(bullets) == texts(prose) == questions


def test_instructions_and_constraints_are_no_items() -> None:
    request = read_request(
        "You are a careful reader. Use the handbook only.\n\n"
        "Questions:\n1. What is X?\n2. Who is Y, and\n   when was she born?\n3. Name the capital.\n"
        "\nConstraints:\n- be brief\n- cite sources\n\nThank you."
    )
    assert request.items == (
        "What is X?",
        "Who is Y, and when was she born?",
        "Name the capital.",
    )
    assert request.constraints == ("be brief", "cite sources")
    assert "Use the handbook only." in request.prose


def test_entries_of_an_asking_list_are_items_without_question_marks() -> None:
    assert texts("Extract:\n\n* invoice number\n* date\n") == ["invoice number", "date"]


def test_a_request_without_parts_has_no_items() -> None:
    assert texts("Summarise the report for the board in 200 words.") == []


@pytest.mark.parametrize(
    ("description", "items"),
    [
        ("Is it safe? Keep it short.", ["Is it safe?"]),
        ("What does 'Why?' mean here?", ["What does 'Why?' mean here?"]),
        ("Questions: 1) What is X? 2) Who is Y?", ["What is X?", "Who is Y?"]),
        ("Q1: What is it?\nQ2: Who?", ["What is it?", "Who?"]),
        ("Where did Mr. Smith go? See https://x.y/?a=b for more.", ["Where did Mr. Smith go?"]),
        ("> What is quoted?", ["What is quoted?"]),
        ("## What is a heading?\n\ntext", ["What is a heading?"]),
        ("```\nwhat is code?\n```", []),
        ("- Compare:\n  - A\n  - B", ["Compare: A", "Compare: B"]),
        ("- Compare:\n  - A\n    - old\n  - B", ["Compare: A old", "Compare: B"]),
        ("Write an essay.\n\nRules:\n- be brief\n- be kind", []),
        ("- What is A?\n  - with context", ["What is A? with context"]),
        ("東京の人口は？次に大阪は？", ["東京の人口は？", "次に大阪は？"]),
        ("What is X?\n\nwhat is x?", ["What is X?"]),
    ],
)
def test_items_are_read_as_a_person_would(description: str, items: list[str]) -> None:
    assert texts(description) == items


def test_a_question_with_numbered_premises_stays_whole() -> None:
    question = (
        "Given these adjustments: 1. If the tower shrank by 5% 2. and the mast grew by 7%, "
        "what would be the difference in meters?"
    )
    assert texts(question) == [question]


def test_items_beyond_the_limit_are_counted_not_returned() -> None:
    request = read_request("\n".join(f"{n}. What is {n}?" for n in range(1, MAX_ITEMS + 11)))
    assert len(request.items) == MAX_ITEMS
    assert request.left_out == 10


@pytest.mark.parametrize("unit", ["- a\n", "1. ", "?", "  - x\n", ". ", "Q", ": ", "-", "> "])
def test_time_is_linear_in_hostile_requests(unit: str) -> None:
    assert_linear(lambda size: read_request(unit * (size // len(unit))), 25_000)


def test_lists_nested_thousands_deep_are_read() -> None:
    assert texts("\n".join(" " * n + "- What?" for n in range(3_000)))


def test_numbered_questions_on_one_line_are_items_of_their_own() -> None:
    assert texts("1. Who paid? 2. When was it built? 3. Who was the miller?") == [
        "Who paid?",
        "When was it built?",
        "Who was the miller?",
    ]


def test_numbers_within_an_entry_begin_no_other() -> None:
    assert texts("1. Is it 3. or 4. May? 2. Why?") == ["Is it 3. or 4. May?", "Why?"]
    assert texts("1. What costs 2.50 euros?") == ["What costs 2.50 euros?"]
