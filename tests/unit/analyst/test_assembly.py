"""Whatever a model says, every prefix of the fragments is a valid plan."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hma.v1 import analyst_pb2, attempt_pb2, common_pb2
from services.analyst.assembly import PlanAssembler
from services.analyst.inputs import Inputs
from services.analyst.parsing import PlanReader
from tests.unit.analyst.plans import assert_covers_all, assert_valid_prefix, make_inputs

NAMES = st.sampled_from(
    ["d1", "d2", "d1#0", "d1#1", "d3", "q1", "q2", "q3", "q4", "", "t1", "d1#99", "\x00"]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | NAMES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
TASK = st.fixed_dictionaries(
    {},
    optional={
        "do": st.text(max_size=40) | ANY,
        "in": st.lists(NAMES | ANY, max_size=5) | ANY,
        "after": st.lists(st.integers(-3, 12) | ANY, max_size=5) | ANY,
        "size": st.sampled_from(["low", "HIGH", "medium", "huge"]) | ANY,
        "kind": st.sampled_from(["answer", "extract", "summarize", "write", "x"]) | ANY,
        "items": st.lists(NAMES | ANY, max_size=6) | ANY,
        "id": NAMES,
    },
)
BRIEF = st.fixed_dictionaries(
    {},
    optional={
        "objective": st.text(max_size=2_000) | ANY,
        "constraints": st.lists(ANY, max_size=30) | ANY,
        "audience": ANY,
    },
)
INPUTS = st.builds(
    make_inputs,
    description=st.sampled_from(
        [
            "Answer.\n\n1. When does it open?\n2. What does it cost?\n3. Why is it so?",
            "Summarise it for the board.",
            "",
        ]
    ),
    max_tasks=st.integers(1, 6),
    profile=st.sampled_from(["standard", "smollm2"]),
)


def run(
    inputs: Inputs, raw: list[dict[str, Any]], briefs: list[dict[str, Any]]
) -> list[analyst_pb2.PlanFragment]:
    assembler = PlanAssembler(inputs)
    fragments = [f for brief in briefs for f in assembler.brief(brief)]
    fragments += [f for task in raw for f in assembler.task(task)]
    return [*fragments, *assembler.complete(broken=True)]


@settings(max_examples=300)
@given(inputs=INPUTS, raw=st.lists(TASK, max_size=12), briefs=st.lists(BRIEF, max_size=2))
def test_any_tasks_make_a_valid_plan_that_covers_all(
    inputs: Inputs, raw: list[dict[str, Any]], briefs: list[dict[str, Any]]
) -> None:
    fragments = run(inputs, raw, briefs)
    for end in range(len(fragments) + 1):
        tasks = assert_valid_prefix(fragments[:end], inputs)
    assert_covers_all(tasks, inputs)
    for fragment in fragments:
        assert analyst_pb2.PlanFragment.FromString(fragment.SerializeToString()) == fragment


PLAN = json.dumps(
    {
        "brief": {"objective": "Answer three questions.", "audience": "visitors"},
        "shape": "team",
        "n": 2,
        "tasks": [
            {"do": "Find hours", "in": ["d1#0"], "after": [], "size": "low", "items": ["q1"]},
            {"do": "Rest", "in": [], "after": [1], "size": "high", "items": ["q2", "q3"]},
        ],
    }
)


@settings(max_examples=200)
@given(end=st.integers(0, len(PLAN)), noise=st.text(max_size=80))
def test_any_truncation_or_corruption_makes_a_valid_plan(end: int, noise: str) -> None:
    inputs = make_inputs()
    assembler = PlanAssembler(inputs)
    fragments = []
    with closing(PlanReader()) as reader:
        parts = [*reader.feed(PLAN[:end]), *reader.feed(noise), *reader.feed(PLAN[end:])]
    for closed in parts:
        take = assembler.brief if closed.part == "brief" else assembler.task
        fragments += list(take(closed.value))
    fragments += list(assembler.complete(broken=True))
    assert_covers_all(assert_valid_prefix(fragments, inputs), inputs)


def assemble(inputs: Inputs, *raw: dict[str, Any]) -> PlanAssembler:
    assembler = PlanAssembler(inputs)
    for task in raw:
        list(assembler.task(task))
    return assembler


def test_the_first_task_to_claim_an_item_owns_it() -> None:
    assembler = assemble(
        make_inputs(),
        {"do": "a", "kind": "answer", "items": ["q1", "q2", "q1"]},
        {"do": "b", "kind": "answer", "items": ["q2", "q3"]},
        {"do": "repeats", "kind": "answer", "items": ["q1"]},
        {"do": "draws together", "kind": "write", "items": ["q1"], "after": [1, 2, 3]},
    )
    assert [[i.item_id for i in t.items] for t in assembler.tasks] == [["q1", "q2"], ["q3"], []]
    assert assembler.tasks[2].kind == common_pb2.TASK_KIND_WRITE
    # Position 3 was not taken, so it is nobody's id.
    assert list(assembler.tasks[2].depends_on) == ["t1", "t2"]


def test_cycles_and_forward_references_cannot_be_written() -> None:
    assembler = assemble(
        make_inputs(),
        {"do": "a", "after": [1, 2, True, 0, -1, "1", 1.0]},
        {"do": "b", "after": [2, 1, 1]},
    )
    assert [list(task.depends_on) for task in assembler.tasks] == [[], ["t1"]]


def test_after_a_break_positions_begin_with_the_tasks_that_stand() -> None:
    assembler = assemble(
        make_inputs(), {"do": ""}, {"do": "a", "items": ["q1"]}, {"do": "b", "items": ["q2"]}
    )
    assembler.renumber()
    list(assembler.task({"do": "c", "after": [1], "items": ["q3"]}))
    assert list(assembler.tasks[2].depends_on) == ["t1"]


def test_unclaimed_items_get_structural_tasks_at_the_end() -> None:
    inputs = make_inputs()
    assembler = assemble(inputs, {"do": "a", "items": ["q2"]})
    rest = list(assembler.complete(broken=False))
    assert [[i.item_id for i in f.task.items] for f in rest] == [["q1", "q3"]]
    assert rest[0].source == attempt_pb2.PLAN_SOURCE_STRUCTURAL
    assert assembler.source == attempt_pb2.PLAN_SOURCE_MIXED


def test_a_place_is_kept_for_items_that_nobody_claims() -> None:
    inputs = make_inputs(max_tasks=2)
    assembler = assemble(
        inputs, {"do": "a", "items": ["q1"]}, {"do": "b", "items": ["q2"]}, {"do": "c"}
    )
    list(assembler.complete(broken=False))
    assert [[i.item_id for i in t.items] for t in assembler.tasks] == [["q1"], ["q2", "q3"]]


def test_documents_are_named_only_where_they_narrow_the_plan() -> None:
    assembler = assemble(
        make_inputs(),
        {"do": "a", "in": ["d1#1", "d9", "d1#1"]},
        {"do": "b", "in": ["d1", "d1#0", "d2#0"]},
        {"do": "c", "in": ["d1", "d2"]},
        {"do": "d", "in": "d1"},
    )
    assert [list(t.documents) for t in assembler.tasks] == [["d1#1"], ["d1", "d2#0"], [], []]


def test_a_broken_plan_without_items_gets_tasks_for_unread_documents() -> None:
    inputs = make_inputs("Summarise it all.", context_tokens=8192)
    assembler = assemble(inputs, {"do": "Summarise", "in": ["d1"]})
    list(assembler.complete(broken=True))
    assert [list(t.documents) for t in assembler.tasks] == [["d1"], ["d2"]]


def test_a_closed_plan_may_leave_documents_out() -> None:
    assembler = assemble(make_inputs("Summarise it all."), {"do": "Summarise", "in": ["d1"]})
    assert list(assembler.complete(broken=False)) == []
    assert assembler.source == attempt_pb2.PLAN_SOURCE_MODEL
