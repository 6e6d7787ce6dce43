"""Retrieval, grounding and extracts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.text.grounding import extract_answer, find_verbatim
from hma.text.outline import outline
from hma.text.retrieval import Passages, Unit
from hma.text.sentences import passage_spans, sentences

TEXT = """# Ports

The gateway listens on port 8080. The Analyst, as e.g. Dr. Who knows, listens
on port 50052!

| service | port |
|---|---|
| Worker | 50054 |

- Envoy admin: 9901
- PostgreSQL has none.

```
make run  # starts everything
```
"""


def build(unit: Unit, text: str = TEXT, section_ids: tuple[str, ...] = ()) -> Passages:
    return Passages.build([(outline("d1", "a.md", "", text), text)], unit, section_ids)


def test_sentences_rows_entries_and_code_lines_are_passages() -> None:
    assert [" ".join(span.of(TEXT).split()) for span in passage_spans(TEXT)] == [
        "The gateway listens on port 8080.",
        "The Analyst, as e.g. Dr. Who knows, listens on port 50052!",
        "| service | port |",
        "| Worker | 50054 |",
        "Envoy admin: 9901",
        "PostgreSQL has none.",
        "make run # starts everything",
    ]


@given(text=st.text(max_size=400))
def test_passages_lie_in_order_and_without_overlap(text: str) -> None:
    end = 0
    for span in passage_spans(text):
        assert end <= span.start < span.end <= len(text)
        end = span.end


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("On which port does the gateway listen?", "8080"),
        ("Which port has the Worker?", "50054"),
        ("What starts everything?", "make run"),
    ],
)
def test_the_best_sentence_holds_the_answer(question: str, words: str) -> None:
    best = build("sentence").best(question)
    assert len(best) == 1
    assert words in best[0].text
    assert (best[0].document_id, best[0].section_id) == ("d1", "d1#0")


def test_nothing_is_found_where_no_word_matches() -> None:
    passages = build("sentence")
    assert passages.best("zebra") == []
    assert passages.best("") == []
    assert Passages.build([], "sentence").best("gateway") == []
    assert build("sentence", "!!! ...").best("gateway") == []


def test_only_the_named_sections_are_searched() -> None:
    text = "# A\n\nThe cat sleeps.\n\n# B\n\nThe cat eats.\n"
    found = build("paragraph", text, ("d1#1",)).best("cat", 5)
    assert [p.section_id for p in found] == ["d1#1"]


def test_equal_scores_keep_the_order_of_the_document() -> None:
    text = "Red cat.\n\nRed cat.\n\nBlue dog.\n"
    passages = build("paragraph", text)
    assert [p.text for p in passages.best("red", 3)] == ["Red cat.", "Red cat."]
    assert passages.best("red", 2) == passages.best("red", 2)


def test_retrieval_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    build("sentence").best("gateway")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_endless_sentences_are_cut() -> None:
    found = build("sentence", "word " * 20_000).best("word", 100)
    assert len(found) > 1
    assert all(len(p.text) <= 4_000 for p in found)


def test_words_of_languages_without_spaces_are_found() -> None:
    assert (
        build("sentence", "東京の人口は多い。大阪は古い。").best("大阪")[0].text == "大阪は古い。"
    )


def test_abbreviations_and_initials_do_not_end_sentences() -> None:
    assert sentences("J. R. Smith met Mr. Lee at 5 p.m. today. They left.") == [
        "J. R. Smith met Mr. Lee at 5 p.m. today.",
        "They left.",
    ]


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("port  8080", "listens on Port\n8080.", "Port\n8080"),
        ("“8080”.", "on 8080 now", "8080"),
        ("10", "in 2010", None),
        ("U.S.", "in the U.S. today", "U.S."),
        ("?", "what?", None),
        ("人口", "東京の人口は", "人口"),
        ("(a+)+$", "text (a+)+$ text", "(a+)+$"),
        ("", "text", None),
    ],
)
def test_verbatim_answers_are_found(answer: str, text: str, found: str | None) -> None:
    span = find_verbatim(answer, text)
    assert (span.of(text) if span else None) == found


@given(words=st.lists(st.from_regex(r"[a-z]{2,6}", fullmatch=True), min_size=3, max_size=20))
def test_any_run_of_words_stands_in_its_text(words: list[str]) -> None:
    assert find_verbatim("  ".join(words[1:-1]).upper(), " ".join(words)) is not None


def test_an_extract_is_the_sentence_without_question_and_stop_words() -> None:
    question = "What surrounds all chloroplasts?"
    sentence = "Two innermost lipid-bilayer membranes surround all chloroplasts."
    assert extract_answer(question, sentence) == "innermost lipid-bilayer membranes surround"


def test_an_extract_is_never_empty() -> None:
    assert extract_answer("Is it so?", "It is so.") == "It is so."
