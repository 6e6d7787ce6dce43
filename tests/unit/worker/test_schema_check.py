"""Checking an output against a task's own schema ends, whoever wrote either."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from services.worker import schema_check
from services.worker.schema_check import MOST_SECONDS, CannotApply
from services.worker.structured import read_output


def schema_faults(value: object, schema: Any) -> list[ValidationError]:
    """What is found by one who has all the time in the world: the machine's load is no matter."""
    return schema_check.schema_faults(value, schema, clock=lambda: 0.0)


def _doubling(depth: int) -> dict[str, Any]:
    """Each definition asks for the next one twice."""
    defs: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(depth)
    }
    defs[f"d{depth}"] = {"type": "object"}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": defs}


def test_a_schema_that_doubles_its_work_is_given_up_in_time() -> None:
    looks = itertools.count()
    with pytest.raises(CannotApply):
        schema_check.schema_faults({}, _doubling(40), clock=lambda: next(looks) * 0.001)
    assert next(looks) == pytest.approx(MOST_SECONDS / 0.001, abs=3)
    # And by a real clock: the whole work would take years.
    output = read_output('{"a": 1}', _doubling(40))
    assert output.faults == ("its schema cannot be applied",)


def test_a_schema_of_itself_is_given_up() -> None:
    with pytest.raises(CannotApply):
        schema_faults({}, {"type": "object", "$ref": "#"})


def test_a_pattern_that_python_would_not_end_with_ends() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    # `re` would be busy until pytest ends the test.
    (fault,) = schema_faults({"a": "a" * 5_000 + "!"}, schema)
    assert fault.message == "does not match the pattern"


def test_patterns_of_names_are_matched_in_linear_time_too() -> None:
    schema = {
        "type": "object",
        "patternProperties": {"^(a+)+$": {"type": "integer"}},
        "additionalProperties": False,
    }
    assert schema_faults({"a" * 40 + "!": 1}, schema)
    assert not schema_faults({"aaa": 1}, schema)
    assert schema_faults({"aaa": "x"}, schema)
    with pytest.raises(CannotApply):
        schema_faults({"a" * 40 + "!": 1}, {**schema, "unevaluatedProperties": False})


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
