"""Sections tile the document, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.text import outline as outline_module
from hma.text.outline import MAX_SECTION_TOKENS, outline, section_texts
from hma.text.splitting import split_to_fit
from tests.growth import assert_linear

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["# One", "## Two ##", "Title", "=====", "---", "```", "~~~", "", "  ", "- a", "| a |"]
        ),
        st.text(max_size=30),
    ),
    max_size=60,
).map("\n".join)
ANY = st.one_of(st.text(max_size=2_000), LINES)


@given(content=ANY, media_type=st.sampled_from(["text/plain", "text/markdown", ""]))
def test_sections_joined_in_order_are_the_document(content: str, media_type: str) -> None:
    document = outline("d1", "notes.md", media_type, content)
    encoded = content.encode()
    parts = [encoded[s.start_byte : s.end_byte] for s in document.sections]
    assert b"".join(parts) == encoded
    assert all(parts)
    assert [s.section_id for s in document.sections] == [f"d1#{n}" for n in range(len(parts))]
    assert list(section_texts(document, content).values()) == [p.decode() for p in parts]


@given(content=ANY)
def test_an_outline_is_deterministic(content: str) -> None:
    assert outline("d1", "a.md", "", content) == outline("d1", "a.md", "", content)


@given(text=st.text(max_size=500), limit=st.integers(4, 60))
def test_pieces_fit_and_join_to_the_text(text: str, limit: int) -> None:
    pieces = split_to_fit(text, limit)
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= limit for piece in pieces)


def test_headings_begin_sections_with_level_and_words() -> None:
    document = outline(
        "d1",
        "a.md",
        "text/markdown",
        "intro\n\n# First #\ntext\n\n### Third\n\nSetext\n======\nmore\n\nSecond level\n---\nend\n",
    )
    assert [(s.heading, s.level) for s in document.sections] == [
        ("", 0),
        ("First", 1),
        ("Third", 3),
        ("Setext", 1),
        ("Second level", 2),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "```\n# not a heading\n```\n",
        "```\ncode\n# not a heading\n```\n",
        "~~~~ python\n# no\n~~~\n# no\n~~~~\n",
        "#hashtag\n",
        "####### seven\n",
        "    # code\n",
        "---\ntitle: front matter\n---\ntext\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "- item\n---\n",
        "two lines of\nprose\n---\n",
    ],
)
def test_what_looks_like_a_heading_and_is_none(content: str) -> None:
    assert [s.heading for s in outline("d1", "a.md", "", content).sections] == [""]


def test_closing_hashes_are_cut_only_after_a_space() -> None:
    assert outline("d1", "a.md", "", "# C#\n").sections[0].heading == "C#"


def test_comments_of_code_are_no_headings() -> None:
    assert [s.heading for s in outline("d1", "a.py", "text/plain", "# x\ny = 1\n").sections] == [""]


def test_long_sections_are_cut_at_paragraphs_and_keep_their_heading() -> None:
    paragraph = "A sentence of some words. " * 40
    content = "# Long\n\n" + "\n\n".join([paragraph] * 30)
    sections = outline("d1", "a.md", "", content).sections
    assert len(sections) > 3
    assert all(s.heading == "Long" for s in sections)
    assert all(s.approximate_tokens <= MAX_SECTION_TOKENS for s in sections)
    texts = list(section_texts(outline("d1", "a.md", "", content), content).values())
    assert all(text.endswith("\n\n") for text in texts[:-1])


def test_a_word_longer_than_a_section_is_cut_between_characters() -> None:
    content = "é" * 10_000
    document = outline("d1", "a.md", "", content)
    assert "".join(section_texts(document, content).values()) == content
    assert all(s.approximate_tokens <= MAX_SECTION_TOKENS for s in document.sections)


def test_very_many_headings_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline_module, "MAX_SECTIONS", 50)
    content = "".join(f"# {n}\ntext\n" for n in range(1_000))
    document = outline("d1", "a.md", "", content)
    assert len(document.sections) <= 50
    assert "".join(section_texts(document, content).values()) == content


@pytest.mark.parametrize("unit", ["\n", "`", "# a\n", "-", ". ", ".", "a", "| ", "```\n", '.)"'])
def test_time_is_linear_in_hostile_documents(unit: str) -> None:
    assert_linear(lambda size: outline("d1", "a.md", "", unit * (size // len(unit))), 25_000)


def test_an_empty_document_has_no_sections() -> None:
    assert not outline("d1", "a.md", "", "").sections
