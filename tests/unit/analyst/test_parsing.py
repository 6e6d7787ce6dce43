"""The push parser gives parts as they close and survives anything."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.analyst.parsing import MAX_BYTES, Closed, PlanReader

PLAN: dict[str, Any] = {
    "brief": {"objective": 'o {"}', "constraints": ["a", "b"]},
    "shape": "team",
    "n": 2,
    "tasks": [
        {"do": 'one é "quoted" }', "in": ["d1"], "after": []},
        "no task",
        {"do": "two", "in": [], "after": [1], "tasks": [{"do": "nested"}]},
    ],
}
TEXT = json.dumps(PLAN)
PARTS = [
    Closed("brief", PLAN["brief"]),
    Closed("task", PLAN["tasks"][0]),
    Closed("task", PLAN["tasks"][2]),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


def read(*pieces: str) -> tuple[list[Closed], PlanReader]:
    with closing(PlanReader()) as reader:
        return [closed for piece in pieces for closed in reader.feed(piece)], reader


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=20))
def test_parts_do_not_depend_on_how_the_text_arrives(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[a:b] for a, b in pairwise(bounds)]
    parts, reader = read(*pieces)
    assert parts == PARTS
    assert reader.complete
    assert not reader.broken


@given(end=st.integers(0, len(TEXT) - 1))
def test_a_truncated_plan_gives_the_parts_that_closed(end: int) -> None:
    parts, reader = read(TEXT[:end])
    assert parts == PARTS[: len(parts)]
    assert not reader.complete


def test_a_task_comes_out_with_the_brace_that_closes_it() -> None:
    with closing(PlanReader()) as reader:
        assert reader.feed('{"tasks": [{"do": "a"') == []
        assert reader.feed("}") == [Closed("task", {"do": "a"})]


@given(noise=st.text(max_size=300))
def test_noise_is_survived(noise: str) -> None:
    read(noise)
    read(TEXT[:100] + noise)


@given(value=JSON)
def test_any_json_is_survived(value: object) -> None:
    text = json.dumps(value)
    read(text)
    read('{"tasks": ' + text + "}")
    read('{"tasks": [' + text + ', {"do": "x"}]}')


def test_a_fenced_plan_with_chatter_around_it_is_read() -> None:
    parts, reader = read("Sure! Here it is:\n```json\n", TEXT, "\n```\nHope that {helps}")
    assert parts == PARTS
    assert reader.complete


@pytest.mark.parametrize(
    "text",
    [
        '{"tasks": ' + "[" * 100_000,
        '{"tasks": [{"do": ' + "1" * 10_000 + "}]}",
        '{"tasks": [{"do": 1e99999999999999999999}]}',
        '{"' + "k" * 150_000 + '": {' + '"a": {' * 5_000,
        '{"tasks": [{"do": "\\ud800"}, {"do": "\ud800"}]}',
        "{" * 1_000,
    ],
)
def test_hostile_json_is_survived(text: str) -> None:
    read(text)


def test_endless_output_is_read_no_further() -> None:
    with closing(PlanReader()) as reader:
        reader.feed('{"tasks": [{"do": "')
        for _ in range(MAX_BYTES // 10_000 + 1):
            reader.feed("x" * 10_000)
        assert reader.broken
