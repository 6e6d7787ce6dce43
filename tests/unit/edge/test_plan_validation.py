from __future__ import annotations

import graphlib
import itertools
import json

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from hma.errors import InvalidRequest
from hma.v1 import task_pb2
from services.meta_agent.edge.output_schema import find_schema_faults
from services.meta_agent.edge.plan_validation import find_cycles
from tests.unit.edge.factory import create_request, document, task, validator


def faults_of(*tasks: task_pb2.Task, **changes: int) -> dict[str, str]:
    request = create_request(*tasks, documents=[document("a.md"), document("b.md")])
    try:
        validator(**changes).check_create_job(request)
    except InvalidRequest as error:
        return {v.field.removeprefix("job.plan."): v.description for v in error.violations}
    return {}


def test_a_sound_plan_passes() -> None:
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    assert not faults_of(
        task("read", documents=["a.md", "d2", "a.md#0"], tools=["calculate"], route="fast"),
        task("write_1.2-x", "read", output_schema=schema, timeout=Duration(seconds=5)),
    )


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (task(""), "tasks[0].id", "required"),
        (task("a b"), "tasks[0].id", "letters"),
        (task("x" * 65), "tasks[0].id", "64"),
        (task("plan"), "tasks[0].id", "reserved"),
        (task("a", instruction=""), "tasks[0].instruction", "required"),
        (task("a", instruction=" "), "tasks[0].instruction", "blank"),
        (task("a", instruction="x" * 8001), "tasks[0].instruction", "8,000"),
        (task("a", title="x" * 201), "tasks[0].title", "200"),
        (task("a", "b"), "tasks[0].depends_on[0]", "no task 'b'"),
        (task("a", documents=["a.md", "c.md"]), "tasks[0].documents[1]", "no document 'c.md'"),
        (task("a", documents=["d3"]), "tasks[0].documents[0]", "no document 'd3'"),
        (task("a", tools=["calculate", "shell"]), "tasks[0].tools[1]", "search_documents"),
        (task("a", route="warp"), "tasks[0].route", "no route 'warp'"),
        (task("a", max_tokens=-1), "tasks[0].max_tokens", "-1"),
        (task("a", max_result_tokens=-1), "tasks[0].max_result_tokens", "-1"),
        (task("a", max_cost=-1.0), "tasks[0].max_cost", "finite"),
        (task("a", timeout=Duration(seconds=-1)), "tasks[0].timeout", "more than 0 s"),
        (task("a", output_schema="{"), "tasks[0].output_schema", "not JSON"),
        (
            task("a", items=[task_pb2.Item(item_id="q1", text="x")] * 2),
            "tasks[0].items[1].item_id",
            "twice",
        ),
        (task("a", items=[task_pb2.Item(item_id="q1")]), "tasks[0].items[0].text", "empty"),
    ],
)
def test_a_bad_task_is_named(bad: task_pb2.Task, field: str, says: str) -> None:
    found = faults_of(bad)
    assert list(found) == [field]
    assert says in found[field]


def test_duplicate_ids_are_refused() -> None:
    assert list(faults_of(task("a"), task("b"), task("a"))) == ["tasks[2].id"]


def test_a_plan_without_tasks_is_refused() -> None:
    request = create_request()
    request.job.plan.SetInParent()
    with pytest.raises(InvalidRequest, match=r"job\.plan\.tasks: is required"):
        validator().check_create_job(request)


def test_too_many_tasks_are_refused() -> None:
    assert list(faults_of(task("a"), task("b"), max_plan_tasks=1)) == ["tasks"]


@pytest.mark.parametrize(
    ("tasks", "field", "path"),
    [
        ([task("a", "a")], "tasks[0].depends_on[0]", "a -> a"),
        ([task("a", "b"), task("b", "a")], "tasks[0].depends_on[0]", "a -> b -> a"),
        (
            [task("z"), task("c", "z", "a"), task("b", "c"), task("a", "b")],
            "tasks[3].depends_on[0]",
            "a -> b -> c -> a",
        ),
    ],
)
def test_a_circle_is_refused_with_its_path(
    tasks: list[task_pb2.Task], field: str, path: str
) -> None:
    found = faults_of(*tasks)
    assert list(found) == [field]
    assert f": {path};" in found[field]


def test_separate_circles_are_all_named() -> None:
    found = faults_of(task("a", "b"), task("b", "a"), task("c", "d"), task("d", "c"))
    assert set(found) == {"tasks[0].depends_on[0]", "tasks[2].depends_on[0]"}
    found = faults_of(task("a", "b", "c"), task("b", "a"), task("c", "a"))
    assert set(found) == {"tasks[0].depends_on[0]", "tasks[0].depends_on[1]"}


def test_the_path_of_a_long_circle_stays_readable() -> None:
    names = [f"task-{number:03}" for number in range(300)]
    found = faults_of(*(task(n, names[i - 1]) for i, n in enumerate(names)))
    (description,) = found.values()
    assert "more) -> task-000" in description
    assert len(description) < 350


graphs = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.sets(st.integers(0, n - 1)), min_size=n, max_size=n)
)


@given(graphs)
def test_circles_are_found_exactly_when_there_are_some(edges: list[set[int]]) -> None:
    graph = {str(i): [str(j) for j in sorted(after)] for i, after in enumerate(edges)}
    cycles = list(find_cycles(graph))
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle[:-1])) == len(cycle) - 1
        assert all(b in graph[a] for a, b in itertools.pairwise(cycle))
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        assert cycles
    else:
        assert not cycles


def object_with(**properties: object) -> str:
    return json.dumps({"type": "object", "properties": properties})


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("", "not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", 'must be "object"'),
        ('{"type": "object", "maximum": NaN}', "number"),
        ("[" * 30_000, "at most 20,000 characters"),
        ("[" * 15_000, "nested"),
        (object_with(a={"type": "nothing"}), "properties.a.type"),
        (object_with(a={"type": "array", "uniqueItems": True}), '"uniqueItems" at'),
        (object_with(a={"type": "integer", "multipleOf": 2}), '"multipleOf"'),
        (object_with(a={"type": "array", "contains": {}}), '"contains"'),
        (
            object_with(a={"type": "string", "pattern": "x", "maxLength": 3}),
            '"pattern" together with "maxLength"',
        ),
        (object_with(a={"anyOf": [{"type": "string"}, {"multipleOf": 3}]}), "anyOf[1]"),
        (object_with(a={"type": "string", "pattern": "("}), "regular expression"),
        (object_with(a={"$ref": "http://example.org/s"}), "$ref"),
        (object_with(a={"$ref": "#/$defs/x"}), "$ref"),
    ],
)
def test_schemas_that_cannot_be_decoded_are_refused(schema: str, says: str) -> None:
    faults = find_schema_faults(schema)
    assert len(faults) == 1
    assert says in faults[0]


def test_names_of_properties_are_no_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"contains": {"type": "string"}, "multipleOf": {"enum": [{"contains": 1}]}},
        "$defs": {"x": {"type": "array", "uniqueItems": False, "items": {"$ref": "#/$defs/x"}}},
    }
    assert find_schema_faults(json.dumps(schema)) == []


@given(st.text(max_size=200))
def test_any_text_as_a_schema_is_judged(text: str) -> None:
    assert isinstance(find_schema_faults(text), list)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "$ref",
                    "pattern",
                    "maxLength",
                    "anyOf",
                    "$defs",
                    "enum",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["type", "properties", "items", "$defs"]), json_values))
def test_any_json_as_a_schema_is_judged(schema: dict[str, object]) -> None:
    assert isinstance(find_schema_faults(json.dumps(schema)), list)
