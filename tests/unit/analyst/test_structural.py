"""The plan that needs no model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.v1 import attempt_pb2, common_pb2
from services.analyst.assembly import PlanAssembler
from services.analyst.complexity import complexity_of, kind_of
from services.analyst.inputs import Inputs
from tests.unit.analyst.plans import assert_covers_all, assert_valid_prefix, make_inputs


def plan(inputs: Inputs) -> PlanAssembler:
    assembler = PlanAssembler(inputs)
    fragments = list(assembler.complete(broken=False))
    assert_covers_all(assert_valid_prefix(fragments, inputs), inputs)
    assert assembler.source == attempt_pb2.PLAN_SOURCE_STRUCTURAL
    return assembler


def questions(count: int) -> str:
    return "Answer.\n\n" + "\n".join(f"{n}. What is number {n}?" for n in range(1, count + 1))


@given(
    items=st.integers(0, 40),
    max_tasks=st.integers(1, 50),
    profile=st.sampled_from(["standard", "smollm2"]),
    documents=st.lists(st.text(max_size=100), max_size=4),
    context=st.integers(256, 4096),
)
def test_every_structural_plan_is_valid_and_covers_all(
    items: int, max_tasks: int, profile: str, documents: list[str], context: int
) -> None:
    plan(
        make_inputs(
            questions(items) if items else "Summarise.",
            documents,
            max_tasks=max_tasks,
            profile=profile,
            context_tokens=context,
        )
    )


def sizes(inputs: Inputs) -> list[int]:
    return [len(task.items) for task in plan(inputs).tasks]


def test_a_weak_model_gets_one_item_a_task() -> None:
    assert sizes(make_inputs(questions(5), max_tasks=8, profile="smollm2")) == [1] * 5


def test_other_models_get_even_batches() -> None:
    assert sizes(make_inputs(questions(10), max_tasks=8)) == [5, 5]


def test_batches_grow_rather_than_lose_items() -> None:
    assert sizes(make_inputs(questions(10), max_tasks=3, profile="smollm2")) == [3, 3, 4]
    assert sizes(make_inputs(questions(40), max_tasks=1)) == [40]


def test_result_caps_follow_the_profile() -> None:
    tasks = plan(make_inputs(questions(3), max_tasks=2, profile="smollm2")).tasks
    assert [task.max_result_tokens for task in tasks] == [24, 48]


def test_items_that_refer_to_earlier_ones_wait_for_them() -> None:
    description = (
        "1. Who founded it?\n2. When was it built?\n"
        "3. How old was the founder of question 1 in the year of question 2?\n"
        "4. Is the previous answer plausible?\n5. Does question 9 or question 5 matter?"
    )
    tasks = plan(make_inputs(description, profile="smollm2")).tasks
    assert [list(t.depends_on) for t in tasks] == [[], [], ["t1", "t2"], ["t3"], []]


def test_small_documents_without_items_are_one_task_for_all() -> None:
    (task,) = plan(make_inputs("Summarise it for the board.")).tasks
    assert list(task.documents) == []
    assert task.instruction == "Summarise it for the board."
    assert task.kind == common_pb2.TASK_KIND_SUMMARIZE


LONG = "\n\n".join(f"# Chapter {n}\n\n" + "Many words stand here. " * 100 for n in range(8))


def test_large_documents_are_grouped_to_the_safe_context() -> None:
    inputs = make_inputs("Summarise it.", [LONG, "short"], max_tasks=20, context_tokens=2600)
    tasks = plan(inputs).tasks
    assert len(tasks) > 2
    assert all(task.documents for task in tasks)
    read = [name for task in tasks for name in task.documents]
    assert len(read) == len(set(read))
    assert "d2" in read
    tokens = {s.section_id: s.approximate_tokens for d in inputs.documents for s in d.sections}
    for task in tasks:
        assert sum(tokens.get(name, 0) for name in task.documents) <= 1300


def test_groups_grow_rather_than_lose_sections() -> None:
    inputs = make_inputs("Extract the dates.", [LONG], max_tasks=2, context_tokens=2600)
    tasks = plan(inputs).tasks
    assert [task.kind for task in tasks] == [common_pb2.TASK_KIND_EXTRACT] * 2
    read = [name for task in tasks for name in task.documents]
    assert sorted(read) == sorted(s.section_id for s in inputs.documents[0].sections)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Who founded it?", "LOW"),
        ("What is the port of the gateway?", "LOW"),
        ("Compare the two offers and recommend one.", "HIGH"),
        ("Why did it fail?", "HIGH"),
        ("Describe the process of registration.", "MEDIUM"),
        ("word " * 100, "HIGH"),
    ],
)
def test_complexity_follows_the_words(text: str, level: str) -> None:
    assert common_pb2.Complexity.Name(complexity_of(text)) == f"COMPLEXITY_{level}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Summarise the report.", "SUMMARIZE"),
        ("Write a summary.", "WRITE"),
        ("Extract all dates.", "EXTRACT"),
        ("When does it open?", "ANSWER"),
    ],
)
def test_the_first_verb_decides_the_kind(text: str, kind: str) -> None:
    assert common_pb2.TaskKind.Name(kind_of(text)) == f"TASK_KIND_{kind}"
