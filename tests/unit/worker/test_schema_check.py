"""Checking an output against a task's own schema ends, whoever wrote either."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.worker.schema_check import MOST_SECONDS, CannotApply, schema_faults
from services.worker.structured import read_output


def _doubling(depth: int) -> dict[str, Any]:
    """Each definition asks for the next one twice."""
    defs: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(depth)
    }
    defs[f"d{depth}"] = {"type": "object"}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": defs}


def test_a_schema_that_doubles_its_work_is_given_up_in_time() -> None:
    begin = time.monotonic()
    with pytest.raises(CannotApply):
        schema_faults({}, _doubling(40))
    assert time.monotonic() - begin < MOST_SECONDS + 2
    output = read_output('{"a": 1}', _doubling(40))
    assert output.faults == ("its schema cannot be applied",)


def test_a_schema_of_itself_is_given_up() -> None:
    with pytest.raises(CannotApply):
        schema_faults({}, {"type": "object", "$ref": "#"})


def test_a_pattern_that_python_would_not_end_with_ends() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    begin = time.monotonic()
    output = read_output('{"a": "' + "a" * 5_000 + '!"}', schema)
    assert output.faults == ("$.a: pattern does not hold",)
    assert time.monotonic() - begin < 2


def test_patterns_of_names_are_matched_in_linear_time_too() -> None:
    schema = {
        "type": "object",
        "patternProperties": {"^(a+)+$": {"type": "integer"}},
        "additionalProperties": False,
    }
    begin = time.monotonic()
    assert schema_faults({"a" * 40 + "!": 1}, schema)
    assert not schema_faults({"aaa": 1}, schema)
    assert schema_faults({"aaa": "x"}, schema)
    with pytest.raises(CannotApply):
        schema_faults({"a" * 40 + "!": 1}, {**schema, "unevaluatedProperties": False})
    assert time.monotonic() - begin < 2


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", "b1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c1"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_SCHEMAS = st.recursive(
    st.sampled_from(
        [
            True,
            False,
            {"type": "string", "pattern": "^a"},
            {"type": "integer"},
            {"type": "object", "patternProperties": {r"^[a-c]\d?$": {"type": "string"}}},
            {"additionalProperties": False, "properties": {"a": {}}},
        ]
    ),
    lambda inner: (
        st.builds(
            lambda a, b, c: {
                "properties": {"a": a},
                "patternProperties": {r"\d$": b},
                "additionalProperties": c,
            },
            inner,
            inner,
            inner,
        )
        | st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner)
        | st.builds(lambda a: {"items": a, "not": {"type": "null"}}, inner)
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(_VALUES, _SCHEMAS)
def test_it_says_what_the_library_says(value: Any, schema: Any) -> None:
    theirs = Draft202012Validator(schema).is_valid(value)
    assert (not schema_faults(value, schema)) == theirs
