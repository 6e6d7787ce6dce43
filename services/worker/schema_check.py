"""Whether an output holds a task's own schema: asked without being held up by either.

Both may be a stranger's. Patterns are matched in linear time, and a schema whose parts
refer to each other so often that checking would take for ever is given up in time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from referencing.exceptions import Unresolvable

from hma.text.patterns import BadPattern, found

MOST_SECONDS = 0.5
"""Time that one check may take: less than what the beat of an attempt allows."""

Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]

_out_of_time: ContextVar[Callable[[], bool]] = ContextVar("out_of_time")


class CannotApply(Exception):
    """The schema cannot be applied to this output; nothing is said of the output."""


def schema_faults(
    value: object, schema: Mapping[str, Any], *, clock: Callable[[], float] = time.thread_time
) -> list[ValidationError]:
    """Where `value` breaks `schema`.

    Args:
        value: A parsed output.
        schema: A JSON schema, draft 2020-12.
        clock: Seconds of work: those that a busy machine gives to others are no output's fault.

    Raises:
        CannotApply: The schema refers to itself, to nothing, has a pattern that is none,
            or checking takes too long.
    """
    end = clock() + MOST_SECONDS
    token = _out_of_time.set(lambda: clock() > end)
    try:
        return list(_validator()(schema).iter_errors(value))
    except (RecursionError, Unresolvable, BadPattern):
        raise CannotApply from None
    finally:
        _out_of_time.reset(token)


@functools.cache
def _validator() -> Any:
    own: dict[str, Check] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "unevaluatedProperties": _unevaluated_properties,
    }
    checks = {**Draft202012Validator.VALIDATORS, **own}
    return validators.extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {name: _bounded(check) for name, check in checks.items()}
    )


def _bounded(check: Check) -> Check:
    def bounded(
        validator: Any, wanted: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if _out_of_time.get()():
            raise CannotApply
        yield from check(validator, wanted, instance, schema) or ()

    return bounded


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not found(pattern, instance):
        yield ValidationError("does not match the pattern")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if found(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, wanted: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in schema.get("properties", {}) or any(found(each, name) for each in patterns):
            continue
        if wanted is False:
            yield ValidationError("has a property too many")
            return
        yield from validator.descend(value, wanted, path=name)


def _unevaluated_properties(
    validator: Any, wanted: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    # The library's own matches patterns of names with `re`: without patterns it does not.
    if "patternProperties" in repr(validator.schema) or "$ref" in repr(validator.schema):
        raise CannotApply
    yield from Draft202012Validator.VALIDATORS["unevaluatedProperties"](
        validator, wanted, instance, schema
    )
