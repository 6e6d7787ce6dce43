"""Merging by item."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import common_pb2, task_pb2
from services.reducer.merging import merge
from services.reducer.scoring import confidence
from tests.unit.reducer.results import answer, item, outcome

EXTRACT = common_pb2.ORIGIN_EXTRACT
NAMES = ["q1", "q2", "q3", "q9"]
ANSWERS = st.builds(
    answer,
    st.sampled_from(NAMES),
    st.sampled_from(["", "  ", "yes", "no"]),
    grounded=st.booleans(),
    mean_logprob=st.sampled_from([0.0, -0.1, -2.0]),
    origin=st.sampled_from([common_pb2.ORIGIN_MODEL, EXTRACT]),
)


@given(
    tasks=st.lists(
        st.tuples(st.lists(ANSWERS, max_size=5), st.lists(st.sampled_from(NAMES[:3]), max_size=2)),
        max_size=5,
    )
)
def test_every_item_is_answered_once_or_missing(
    tasks: list[tuple[list[task_pb2.ItemAnswer], list[str]]],
) -> None:
    outcomes = [outcome(f"t{n}", answers, items=names) for n, (answers, names) in enumerate(tasks)]
    merged = merge([item(name) for name in NAMES[:3]], outcomes)
    assert [entry.item.item_id for entry in merged.entries] == NAMES[:3]
    for entry in merged.entries:
        given_answers = [
            a for o in outcomes for a in o.result.items if a.item_id == entry.item.item_id
        ]
        useful = [a for a in given_answers if a.answer.strip()]
        assert (entry.answer is None) == (not useful) == (entry.missing is not None)
        assert entry.answer is None or entry.answer in useful
    assert 0.0 <= confidence(merged) <= 1.0


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"grounded": True, "mean_logprob": -2.0}, {"mean_logprob": -0.1}),
        ({"mean_logprob": -0.1}, {"mean_logprob": -2.0}),
        ({"mean_logprob": -2.0}, {"mean_logprob": 0.0}),
        ({"origin": common_pb2.ORIGIN_MODEL}, {"origin": EXTRACT}),
        (
            {"grounded": True, "mean_logprob": -0.5},
            {"grounded": True, "origin": EXTRACT},
        ),
    ],
)
def test_the_better_answer_wins_in_either_order(
    better: dict[str, Any], worse: dict[str, Any]
) -> None:
    results = [
        outcome("t1", [answer("q1", "better", **better)], items=["q1"]),
        outcome("t2", [answer("q1", "worse", **worse)]),
    ]
    for outcomes in (results, results[::-1]):
        (entry,) = merge([item("q1")], outcomes).entries
        assert entry.answer is not None
        assert entry.answer.answer == "better"


def test_equal_answers_keep_the_earliest() -> None:
    outcomes = [outcome("t1", [answer("q1", "first")]), outcome("t2", [answer("q1", "second")])]
    (entry,) = merge([item("q1")], outcomes).entries
    assert entry.answer is not None
    assert entry.answer.answer == "first"


def test_the_reason_of_a_missing_item_is_the_closest_one() -> None:
    named = task_pb2.Missing(item_id="q1", reason="cut off")
    outcomes = [
        outcome("t1", items=["q1"], missing=[named], failure="late"),
        outcome("t2", items=["q2"], failure="too late"),
    ]
    merged = merge([item("q1"), item("q2"), item("q3")], outcomes)
    assert [m.reason for m in merged.missing] == [
        "cut off",
        "too late",
        "No task has worked on it.",
    ]


def test_items_that_only_a_clients_plan_knows_follow() -> None:
    outcomes = [outcome("t1", [answer("own", "x")], items=["own"])]
    merged = merge([item("q1")], outcomes)
    assert [entry.item.item_id for entry in merged.entries] == ["q1", "own"]


def test_texts_that_went_into_a_later_one_are_folded() -> None:
    write = common_pb2.TASK_KIND_WRITE
    outcomes = [
        outcome("t1", [answer("t1", "notes one")]),
        outcome("t2", [answer("t2", "notes two")]),
        outcome("t3", [answer("t3", "the report")], kind=write, depends_on=["t1", "t2"]),
    ]
    assert [part.folded for part in merge([], outcomes).parts] == [True, True, False]
    outcomes[2] = outcome("t3", kind=write, depends_on=["t1", "t2"], failure="late")
    assert [part.folded for part in merge([], outcomes).parts] == [False, False, False]


def test_what_a_later_text_stands_for_does_not_count_twice() -> None:
    outcomes = [
        outcome("t1", [answer("t1", "notes", origin=EXTRACT)]),
        outcome("t2", [answer("t2", "report")], kind=common_pb2.TASK_KIND_WRITE, depends_on=["t1"]),
    ]
    assert confidence(merge([], outcomes)) == 0.5


def test_extracts_fill_gaps_and_stay_named_as_missing() -> None:
    merged = merge([item("q1"), item("q2")], [outcome("t1", [answer("q1", "x")], items=["q1"])])
    extract = answer("q2", "words", origin=EXTRACT)
    filled = merged.with_extracts({"q2": extract, "q1": extract})
    assert [a.answer for a in filled.answers] == ["x", "words"]
    assert [m.item_id for m in filled.missing] == ["q2"]
    assert confidence(filled) == (0.5 + 0.25) / 2


def test_confidence_is_as_the_proto_says() -> None:
    merged = merge(
        [item(f"q{n}") for n in range(1, 5)],
        [
            outcome(
                "t1",
                [
                    answer("q1", "x", grounded=True),
                    answer("q2", "x"),
                    answer("q3", "x", origin=EXTRACT, grounded=True),
                ],
            )
        ],
    )
    assert confidence(merged) == (1 + 0.5 + 0.25 + 0) / 4
    assert confidence(merge([], [])) == 0.0
