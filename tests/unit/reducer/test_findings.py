"""What the model writes over, and what is checked afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import common_pb2
from services.reducer.findings import Finding, cited, findings_of, group
from services.reducer.merging import merge
from services.reducer.places import Places
from services.reducer.prose import whole_sentences
from tests.unit.reducer.results import DOCUMENT, answer, item, outcome


@given(
    texts=st.lists(st.text(max_size=200), max_size=12),
    limit=st.integers(8, 200),
)
def test_groups_keep_order_and_size_and_lose_no_id(texts: list[str], limit: int) -> None:
    findings = [Finding((f"q{n}",), text) for n, text in enumerate(texts)]
    groups = group(findings, limit)
    assert [f.ids for g in groups for f in g] == [f.ids for f in findings]
    assert all(sum(f.tokens for f in g) <= limit for g in groups)


def test_a_finding_beyond_the_limit_is_cut() -> None:
    ((cut,),) = group([Finding(("q1",), "Words and words. " * 100)], 20)
    assert cut.ids == ("q1",)
    assert 0 < cut.tokens <= 20


def test_findings_carry_ids_questions_sources_and_the_extract_mark() -> None:
    outcomes = [
        outcome("t1", [answer("q1", "nine", evidence="It opens at nine.", section_id="d1#0")]),
        outcome("t2", [answer("q2", "ten", origin=common_pb2.ORIGIN_EXTRACT)]),
        outcome("t3", [answer("t3", "An essay.")], title="Essay"),
    ]
    merged = merge([item("q1", "When?"), item("q2", "How much?"), item("q3")], outcomes)
    found = findings_of(merged, Places([DOCUMENT]))
    assert [f.ids for f in found] == [("q1",), ("q2",), ("t3",)]
    assert found[0].text == (
        "[q1] When?\nAnswer: nine\nSource: It opens at nine. (handbook.md, Opening)"
    )
    assert found[1].text.startswith("[q2] (extract) How much?")
    assert found[2].text == "[t3] Essay\nAn essay."


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("It opens at nine [q1].", {"q1"}),
        ("Both [q1, q2]; [t3;q9] [nobody]", {"q1", "q2", "t3"}),
        ("q1 (q2) [see q1]", set()),
        ("[" * 1000, set()),
    ],
)
def test_citations_are_read(text: str, names: set[str]) -> None:
    assert cited(text, ["q1", "q2", "t3"]) == names


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two is cut o", "One."),
        ("- entry one\n- entry tw", "- entry one"),
        ("cut of", ""),
        ("Version 1.5 is o", ""),
        ('He said "no." And th', 'He said "no."'),
    ],
)
def test_cut_prose_ends_with_a_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole
