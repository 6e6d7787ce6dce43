"""The probe's questions are sound, and answers are judged as a reader would."""

from __future__ import annotations

import pytest

from hma.llm.probing.questions import Question, is_blank, is_right, is_same, load_questions

ASKED = Question("The fee is 12 euros, paid to Anna Hale.", "Who is paid?", ("Anna Hale",))
UNTOLD = Question("The fee is 12 euros.", "Who is paid?", ())


def test_there_are_forty_different_questions_and_some_have_no_answer() -> None:
    questions = load_questions()
    assert len(questions) == 40
    assert len({question.question for question in questions}) == 40
    assert len({question.passage for question in questions}) == 40
    untold = [question for question in questions if not question.answers]
    assert 4 <= len(untold) <= 10
    # Those that batches are measured with have some of both.
    assert 2 <= sum(not question.answers for question in questions[:16]) <= 4


@pytest.mark.parametrize("question", load_questions(), ids=lambda question: question.question)
def test_each_right_wording_is_right_and_one_of_them_stands_in_the_passage(
    question: Question,
) -> None:
    assert all(is_right(answer, question) for answer in question.answers)
    if question.answers:
        words = question.passage.casefold()
        assert any(a.casefold().split()[0] in words for a in question.answers)
    # The passage as a whole is no answer.
    assert not is_right(question.passage, question)


@pytest.mark.parametrize("answer", ["Anna Hale", "anna hale.", "the Anna Hale", "To Anna Hale"])
def test_articles_case_and_a_word_more_do_not_matter(answer: str) -> None:
    assert is_right(answer, ASKED)


@pytest.mark.parametrize("answer", ["Hale Anna pays the fee of 12", "Bert", "", "not stated"])
def test_other_words_are_wrong(answer: str) -> None:
    assert not is_right(answer, ASKED)


def test_another_number_is_wrong_whatever_stands_around_it() -> None:
    barrel = Question("It holds 300 litres of rain.", "How much?", ("300 litres of rain",))
    assert is_right("300 litres of the rain", barrel)
    assert not is_right("200 litres of rain", barrel)


@pytest.mark.parametrize(
    "answer",
    ["", " ", "None.", "N/A", "not mentioned", "unknown", "The text does not say who is paid."],
)
def test_no_answer_is_right_where_there_is_none(answer: str) -> None:
    assert is_blank(answer)
    assert is_right(answer, UNTOLD)
    assert not is_right(answer, ASKED)


@pytest.mark.parametrize("answer", ["Noneworth", "nothing but bread", "unknown sailors"])
def test_an_answer_that_begins_like_none_is_an_answer(answer: str) -> None:
    assert not is_blank(answer)


def test_the_same_answer_is_the_same_in_other_dress() -> None:
    assert is_same("The north gate.", "north gate")
    assert is_same("", "not stated")
    assert not is_same("north gate", "south gate")
    assert not is_same("", "north gate")
