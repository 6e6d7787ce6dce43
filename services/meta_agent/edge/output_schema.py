"""The JSON Schema subset that a task's output may be constrained to.

The decoder of the inference server compiles the schema into a grammar. What it
cannot compile is refused here, when the job is made, instead of failing each call
later (xgrammar: `uniqueItems`, `multipleOf`, `contains`, and `pattern` together
with `maxLength`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jsonschema
from jsonschema.exceptions import best_match

from hma.text.patterns import BadPattern, check_pattern
from services.meta_agent.edge.quoting import quote

MAX_SCHEMA_CHARS = 20_000
MAX_SCHEMA_DEPTH = 32
MAX_PATTERN_CHARS = 500

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_REFUSED = ("multipleOf", "contains")


def find_schema_faults(text: str) -> list[str]:
    """What is wrong with an output schema; empty when it can be used.

    Args:
        text: A JSON Schema (draft 2020-12) as JSON.
    """
    if len(text) > MAX_SCHEMA_CHARS:
        return [f"must have at most {MAX_SCHEMA_CHARS:,} characters, has {len(text):,}"]
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return [f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"]
    except RecursionError:
        return [f"must be nested at most {MAX_SCHEMA_DEPTH} deep"]
    except ValueError:
        # Not a number of JSON (NaN, Infinity), or one of too many digits to be read.
        return ["is not JSON: it holds a number that JSON does not allow"]
    if not isinstance(schema, dict):
        return ["must be a JSON object"]
    if _depth_exceeds(schema, MAX_SCHEMA_DEPTH):
        return [f"must be nested at most {MAX_SCHEMA_DEPTH} deep"]
    fault = _meta_fault(schema)
    if fault is not None:
        return [fault]
    faults = list(_subset_faults(schema))
    if schema.get("type") != "object":
        faults.append('must describe an object: "type" at its root must be "object"')
    return faults


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in _children(parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)


def _meta_fault(schema: Mapping[str, Any]) -> str | None:
    validator = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
    error = best_match(validator.iter_errors(schema))
    if error is None:
        return None
    where = _at([str(part) for part in error.absolute_path])
    return f"is not a valid JSON Schema (draft 2020-12){where}: {quote(error.message, 160)}"


def _subset_faults(root: Mapping[str, Any]) -> Iterator[str]:
    for path, schema in _schemas(root):
        where = _at(path)
        for keyword in _REFUSED:
            if keyword in schema:
                yield f'uses "{keyword}"{where}, which constrained decoding does not support'
        if schema.get("uniqueItems"):
            yield f'uses "uniqueItems"{where}, which constrained decoding does not support'
        if "pattern" in schema and "maxLength" in schema:
            yield (
                f'uses "pattern" together with "maxLength"{where}, which constrained decoding '
                "does not support: put the length into the pattern"
            )
        yield from _pattern_faults(schema, where)
        yield from _reference_faults(root, schema, where)


def _pattern_faults(schema: Mapping[str, Any], where: str) -> Iterator[str]:
    patterns = [schema["pattern"]] if "pattern" in schema else []
    for pattern in [*patterns, *schema.get("patternProperties", {})]:
        if len(pattern) > MAX_PATTERN_CHARS:
            yield f"has a pattern of more than {MAX_PATTERN_CHARS} characters{where}"
            continue
        try:
            check_pattern(pattern)
        except BadPattern:
            yield (
                f"has a pattern that is not a regular expression{where}: {quote(pattern)}; "
                "RE2's syntax is understood: no look-around, no back-references, at most "
                "1,000 repetitions"
            )


def _reference_faults(
    root: Mapping[str, Any], schema: Mapping[str, Any], where: str
) -> Iterator[str]:
    if "$dynamicRef" in schema:
        yield f'uses "$dynamicRef"{where}, which is not supported'
    reference = schema.get("$ref")
    if reference is not None and not _resolves(root, reference):
        yield (
            f'has a "$ref"{where} to nothing in this schema: {quote(reference)}; '
            'only "#" and "#/$defs/name" are followed'
        )


def _resolves(root: Mapping[str, Any], reference: str) -> bool:
    if reference == "#":
        return True
    match = re.fullmatch(r"#/(\$defs|definitions)/([^/~%]+)", reference)
    return match is not None and match[2] in root.get(match[1], {})


def _schemas(root: Mapping[str, Any]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """Every schema within `root`, itself first; never the data in enums and defaults."""
    pending: list[tuple[list[str], Any]] = [([], root)]
    while pending:
        path, schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        yield path, schema
        for key in _MAPS:
            pending += [([*path, key, name], sub) for name, sub in schema.get(key, {}).items()]
        for key in _LISTS:
            pending += [([*path, f"{key}[{i}]"], sub) for i, sub in enumerate(schema.get(key, []))]
        pending += [([*path, key], schema[key]) for key in _SINGLE if key in schema]


def _at(path: Sequence[str]) -> str:
    return f" at {quote('.'.join(path), 80)}" if path else ""
