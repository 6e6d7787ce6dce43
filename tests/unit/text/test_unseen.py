"""Characters that are not seen, and floods of those that pile up."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.text.unseen import MOST_MARKS, UNSEEN, escaped, find_mark_flood, normalized
from tests.growth import assert_linear


@given(st.text())
def test_an_escaped_line_is_one_line_without_anything_unseen(text: str) -> None:
    line = escaped(text)
    assert "\n" not in line
    assert UNSEEN.search(line) is None


@given(st.text())
def test_escaped_json_means_the_same(text: str) -> None:
    assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text


_WORDS = [
    "שָׁלוֹם",
    "नमस्ते",
    "tiếng Việt",
    "\U0001f468\u200d\U0001f467",
    "می\u200cخواهم",
    "한국어",
    "z̈́̃̀",
]


@pytest.mark.parametrize("text", _WORDS)
def test_languages_are_no_flood_and_lose_nothing(text: str) -> None:
    assert find_mark_flood(text) is None
    assert UNSEEN.search(text) is None
    assert normalized(text) == unicodedata.normalize("NFC", text)


def test_a_flood_of_marks_is_found_and_normalised_in_linear_time() -> None:
    assert find_mark_flood("x" + "\u0301\u0327" * 50) == 1
    text = normalized("x" + "\u0301\u0327" * 5_000)
    assert unicodedata.is_normalized("NFC", text)
    assert text.count("\u034f") == 10_000 // MOST_MARKS
    assert_linear(lambda size: normalized("x" + "\u0301\u0327" * size), 4_000)


def test_so_many_marks_are_no_flood() -> None:
    assert find_mark_flood("x" + "\u0301" * MOST_MARKS + "y" + "\u0301" * MOST_MARKS) is None
    assert find_mark_flood("xy" + "\u0301" * (MOST_MARKS + 1)) == 2
