"""What a model too small for JSON is shown, and what is read from its words."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from hma.v1 import common_pb2
from services.worker.plain import plain_answer, plain_prompt
from services.worker.reading import Excerpt
from tests.unit.worker.making import items, task

MILL = Excerpt("d1", "d1.md", "d1#0", "Mills", "The mill was built\nin 1764.")
LINES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_question_stands_last_and_the_models_turn_has_begun() -> None:
    (question,) = items("When was\nthe mill built?")
    prompt = plain_prompt(task(), question, [MILL], 3)
    last = prompt.messages[-1]
    assert last.role == "assistant"
    assert last.content.endswith(
        "\n\nThe mill was built in 1764.\nQuestion: When was the mill built?\nAnswer:"
    )
    assert prompt.stop == ("\n",)
    assert prompt.temperature == 0


def test_examples_are_as_many_as_asked_for() -> None:
    (question,) = items("When?")
    for examples in range(4):
        prompt = plain_prompt(task(), question, [MILL], examples)
        assert prompt.messages[-1].content.count("Question:") == examples + 1


@given(LINES, LINES)
def test_questions_about_other_passages_share_all_that_comes_before_them(
    text: str, question: str
) -> None:
    def shown(words: str, asked: str) -> str:
        excerpt = Excerpt("d1", "d1.md", "d1#0", "", words)
        prompt = plain_prompt(task(), items(asked)[0], [excerpt], 3)
        return "\x00".join(message.content for message in prompt.messages)

    common = shown("MARK", "?").partition("MARK")[0]
    assert shown("x" + text, question).startswith(common)
    assert len(common) > 200


@given(LINES, LINES)
def test_neither_text_nor_question_can_add_a_line_of_the_dialogue(text: str, question: str) -> None:
    excerpt = Excerpt("d1", "d1.md", "d1#0", "", "x" + text)
    prompt = plain_prompt(task(), items("q" + question)[0], [excerpt], 0)
    assert prompt.messages[-1].content.count("\n") == 2


def test_without_a_text_the_question_is_asked_alone() -> None:
    prompt = plain_prompt(task(), items("What is copper?")[0], [], 3)
    assert [(m.role, m.content) for m in prompt.messages] == [("user", "What is copper?")]


def test_prose_may_run_over_many_lines_and_sees_the_text() -> None:
    asked = task(kind=common_pb2.TASK_KIND_SUMMARIZE)
    prompt = plain_prompt(asked, items("Sum it up.")[0], [MILL], 3)
    assert prompt.stop == ()
    assert "built in 1764" in prompt.messages[-1].content


def test_answer_is_the_first_line_without_label_and_quotes() -> None:
    assert plain_answer('\n Answer: "Anna Hale"\n\nQuestion: Who') == "Anna Hale"
    assert plain_answer(" \n") == ""


@given(st.text(max_size=80))
@example("a\x00b\ud800c")
def test_answer_is_one_clean_line_whatever_the_model_wrote(text: str) -> None:
    answer = plain_answer(text)
    assert len(answer.splitlines()) <= 1
    assert answer == answer.strip()
    answer.encode()
