"""Output schemas: ordered for salvage, bounded, and sized as the MetaAgent expects."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hma.llm.profiles import PRESETS
from hma.llm.routes import Route
from hma.v1 import common_pb2
from services.meta_agent.deciding.estimate import (
    COMPLEXITY_FACTOR,
    KIND_ANSWERS,
    estimate_task,
)
from services.worker.schemas import Size, answer_schema, call_size
from tests.unit.worker.making import task

KINDS = sorted(common_pb2.TaskKind.values())
STANDARD = PRESETS["standard"]


def keywords(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        return set(schema).union(*map(keywords, schema.values()))
    return set().union(*map(keywords, schema)) if isinstance(schema, list) else set()


@pytest.mark.parametrize("kind", KINDS)
def test_answer_follows_its_id_and_prose_comes_last(kind: int) -> None:
    schema = answer_schema(task("a", "b", kind=kind), ["q1", "q2"], Size(100, 50))
    assert list(schema["properties"]) == ["items", "notes"]
    item = schema["properties"]["items"]["items"]
    assert list(item["properties"])[:2] == ["id", "answer"]
    assert item["properties"]["id"]["enum"] == ["q1", "q2"]


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_valid_bounded_and_without_what_decoders_cannot_compile(kind: int) -> None:
    schema = answer_schema(task("a", kind=kind), ["q1"], Size(10_000, 50))
    Draft202012Validator.check_schema(schema)
    assert not keywords(schema) & {"uniqueItems", "multipleOf", "contains", "pattern"}
    items = schema["properties"]["items"]
    assert items["minItems"] == items["maxItems"] == 1
    assert all(
        0 < value["maxLength"] <= 2000
        for name, value in items["items"]["properties"].items()
        if name != "id"
    )


def test_output_of_the_promised_shape_is_valid() -> None:
    schema = answer_schema(task("a"), ["q1"], Size(100, 50))
    output = {"items": [{"id": "q1", "answer": "a", "evidence": ""}], "notes": ""}
    Draft202012Validator(schema).validate(json.loads(json.dumps(output)))


@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(common_pb2.Complexity.values())),
    st.integers(1, 30),
    st.integers(0, 2000),
    st.sampled_from(sorted(PRESETS)),
)
def test_a_call_is_never_larger_than_the_results_cap_nor_smaller_than_its_least(
    kind: int, complexity: int, count: int, cap: int, preset: str
) -> None:
    one = task(*["q"] * count, kind=kind, complexity=complexity, max_result_tokens=cap)
    batch = min(count, PRESETS[preset].max_batch)
    size = call_size(one, PRESETS[preset], batch, count)
    assert 0 < size.least <= size.most
    if cap >= count:
        assert size.most * count <= cap * batch


def test_complexity_scales_the_answer() -> None:
    sizes = [
        call_size(task("a", complexity=level), STANDARD, 1, 1).most
        for level in (
            common_pb2.COMPLEXITY_LOW,
            common_pb2.COMPLEXITY_MEDIUM,
            common_pb2.COMPLEXITY_HIGH,
        )
    ]
    assert sizes == sorted(set(sizes))


@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(common_pb2.Complexity.values())),
    st.integers(1, 30),
    st.sampled_from(sorted(PRESETS)),
    st.booleans(),
)
def test_first_grant_covers_the_first_call_at_the_profiles_prompt(
    kind: Any, complexity: Any, count: int, preset: str, reasoning: bool
) -> None:
    profile = PRESETS[preset]
    route = Route(name="r", base_url="http://h/v1", model="m", profile=profile, reasoning=reasoning)
    one = task(*["q"] * count, kind=kind, complexity=complexity)
    batch = min(count, profile.max_batch)
    think = profile.think_tokens if reasoning else 0
    estimate = estimate_task(one, route)
    assert estimate.first_grant >= estimate.prompt + call_size(one, profile, batch, count).most + (
        think if complexity != common_pb2.COMPLEXITY_LOW else 0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("complexity", sorted(common_pb2.Complexity.values()))
def test_answers_are_reckoned_as_the_meta_agent_does(kind: Any, complexity: Any) -> None:
    plain = PRESETS["smollm2"]
    size = call_size(task("q", kind=kind, complexity=complexity), plain, 1, 1)
    expected = plain.answer_tokens * KIND_ANSWERS[kind] * COMPLEXITY_FACTOR[complexity]
    assert size.most == math.ceil(expected)
