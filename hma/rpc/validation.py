"""Validates requests by what their protos say: required fields and known enum values.

found = Violations(check(request))
found.require(0 < request.tokens <= 10_000_000, "tokens", "must be 1 to 10,000,000")
found.raise_if_any()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from hma.errors import FieldViolation, InvalidRequest

MOST = 100
"""Violations that are told at most; what follows adds nothing."""


class Violations:
    """Collects what is wrong with a request.

    Args:
        found: What is already known.
    """

    def __init__(self, found: Iterable[FieldViolation] = ()) -> None:
        self._found = list(found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def __iter__(self) -> Iterator[FieldViolation]:
        return iter(self._found)

    def add(self, field: str, description: str) -> None:
        """Notes one violation."""
        self._found.append(FieldViolation(field, description))

    def require(self, condition: object, field: str, description: str) -> None:
        """Notes a violation unless `condition` holds."""
        if not condition:
            self.add(field, description)

    def at_most(self, text: str, limit: int, field: str) -> None:
        """Notes a violation when `text` has more than `limit` characters."""
        if len(text) > limit:
            self.add(field, f"must have at most {limit:,} characters, has {len(text):,}")

    def raise_if_any(self) -> None:
        """Raises what was found.

        Raises:
            InvalidRequest: Something was found.
        """
        if self._found:
            raise InvalidRequest(self._found[:MOST])


def check(message: Message, path: str = "") -> list[FieldViolation]:
    """Violations of `field_behavior = REQUIRED` and of unknown enum values.

    A required message must be set, any other required field must not be empty or
    zero. Nested messages that are set are checked too. At most `MOST` are returned.

    Args:
        message: What to check.
        path: Prefix of the paths, for example "job".
    """
    found: list[FieldViolation] = []
    _check(message, path, found)
    return found[:MOST]


def _check(message: Message, path: str, found: list[FieldViolation]) -> None:
    for field in message.DESCRIPTOR.fields:
        if len(found) >= MOST:
            return
        name = f"{path}.{field.name}" if path else field.name
        if _is_required(field) and _is_missing(message, field):
            found.append(FieldViolation(name, "is required"))
            continue
        for where, value in _values(message, field, name):
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                if not value.DESCRIPTOR.full_name.startswith("google."):
                    _check(value, where, found)
            elif field.type == FieldDescriptor.TYPE_ENUM:
                _check_enum(field, value, where, found)


def _check_enum(field: Any, value: int, where: str, found: list[FieldViolation]) -> None:
    known = field.enum_type.values_by_number
    if value not in known:
        names = ", ".join(each.name for number, each in known.items() if number != 0)
        found.append(FieldViolation(where, f"{value} is not known; expected one of {names}"))


def _is_required(field: Any) -> bool:
    behaviours = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return bool(field_behavior_pb2.REQUIRED in behaviours)


def _is_missing(message: Message, field: Any) -> bool:
    if field.is_repeated:
        return len(getattr(message, field.name)) == 0
    if field.has_presence:
        return not message.HasField(field.name)
    return bool(getattr(message, field.name) == field.default_value)


def _values(message: Message, field: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Values to look into, with their paths: "tasks[2]", "labels[key]"."""
    value: Any = getattr(message, field.name)
    if field.is_repeated and _is_map(field):
        if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE:
            for key in value:
                yield f"{name}[{key}]", value[key]
    elif field.is_repeated:
        for index, each in enumerate(value):
            yield f"{name}[{index}]", each
    elif not field.has_presence or message.HasField(field.name):
        yield name, value


def _is_map(field: Any) -> bool:
    entry = field.message_type
    return entry is not None and bool(entry.GetOptions().map_entry)
