"""Strategies for messages, from their descriptors: what a field may hold, and what it may not."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_DEEPEST = 4
_SOME = 3

_NASTY = (
    "",
    " ",
    "\0",
    "a\0b",
    "\u202e\u0645\u0631\u062d\u0628\u0627",
    "\ufeff",
    "e\u0301" * 50,
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\uffff\ufffe",
    "Z\u0351\u036b\u0343\u036a\u0302" * 20,
    "../../etc/passwd",
    "%s%n%x{0}{}",
    "${jndi:ldap://x}",
    "'; DROP TABLE job; --",
    "{" * 2000,
    '{"a":' * 500,
    "1e999",
    "NaN",
    "-1",
    "a" * 200_000,
    "* " * 5_000,
    "1. Who?\n" * 300,
    "*",
    "job-00000000000000000000000000",
)

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308, -1.0, 1e-9, 0.5, 1.0)


def messages(
    descriptor: Descriptor, ids: Callable[[], Iterable[str]] = tuple
) -> st.SearchStrategy[Message]:
    """Messages of a type, from plausible to hostile.

    Args:
        descriptor: The type.
        ids: Ids that exist, for the fields that name something.
    """
    return _messages(descriptor, ids, _DEEPEST)


def _messages(
    descriptor: Descriptor, ids: Callable[[], Iterable[str]], depth: int
) -> st.SearchStrategy[Message]:
    kind: Any = message_factory.GetMessageClass(descriptor)
    known = _WELL_KNOWN.get(descriptor.full_name)
    if known is not None:
        return known.map(lambda fields: kind(**fields))

    @st.composite
    def made(draw: st.DrawFn) -> Message:
        message: Message = kind()
        fields = [each for each in descriptor.fields if depth > 0 or each.message_type is None]
        if not fields:
            return message
        chosen = draw(st.lists(st.sampled_from(fields), max_size=8, unique_by=lambda f: f.name))
        for field in chosen:
            value = _values(field, ids, depth)
            some = st.lists(value, max_size=_SOME) if field.is_repeated else value
            _set(message, field, draw(some))
        return message

    return made()


@st.composite
def perturbed(
    draw: st.DrawFn, bases: st.SearchStrategy[Message], ids: Callable[[], Iterable[str]]
) -> Message:
    """A message that is as it should be, but for a field or two somewhere inside."""
    base = draw(bases)
    message = type(base)()
    message.CopyFrom(base)
    for _ in range(draw(st.integers(0, 2))):
        place: Message = message
        while place.DESCRIPTOR.fields:
            descriptor: Any = place.DESCRIPTOR
            field: Any = draw(st.sampled_from(list(descriptor.fields)))
            kind = field.message_type
            inner = kind is not None and not field.is_repeated
            if inner and kind.full_name not in _WELL_KNOWN and draw(st.booleans()):
                place = getattr(place, field.name)
                continue
            value = _values(field, ids, 2)
            some = st.lists(value, max_size=_SOME) if field.is_repeated else value
            _set(place, field, draw(some))
            break
    return message


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _values(
    field: FieldDescriptor, ids: Callable[[], Iterable[str]], depth: int
) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return _messages(field.message_type, ids, depth - 1)
    if field.enum_type is not None:
        known = [each.number for each in field.enum_type.values]
        return st.one_of(st.sampled_from(known), st.sampled_from([-1, 999, 2**31 - 1]))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.one_of(st.sampled_from(_FLOATS), st.floats(width=32))
    if field.cpp_type in _INTEGERS:
        low, high = _INTEGERS[field.cpp_type]
        return st.one_of(st.sampled_from([0, 1, 2, 100, 5000, low, high]), st.integers(low, high))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.binary(max_size=200), st.sampled_from(_BYTES))
    return st.one_of(
        st.sampled_from(_NASTY),
        st.text(max_size=40),
        st.deferred(lambda: st.sampled_from([*ids()] or [""])),
    )


_BYTES = (
    b"",
    b"\xff\xfe",
    b"\x1f\x8b\x08" + b"\0" * 50,
    b"\xed\xa0\x80",
    b"PK\x03\x04",
    b"\0" * 5000,
)


def _seconds_and_nanos() -> st.SearchStrategy[dict[str, int]]:
    seconds = st.one_of(
        st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 315_576_000_001, 253_402_300_800]),
        st.integers(-10, 10),
    )
    nanos = st.sampled_from([0, 1, -1, 999_999_999, -999_999_999, 10**9, 2**31 - 1])
    return st.fixed_dictionaries({}, optional={"seconds": seconds, "nanos": nanos})


_JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from(_FLOATS[3:]) | st.sampled_from(_NASTY[:12]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_NASTY[:8]), inner, max_size=3)
    ),
    max_leaves=8,
)


def _struct_fields(data: dict[str, Any]) -> dict[str, Any]:
    made = struct_pb2.Struct()
    made.update(data)
    return {"fields": made.fields}


def _deep(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


_WELL_KNOWN: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "google.protobuf.Timestamp": _seconds_and_nanos(),
    "google.protobuf.Duration": _seconds_and_nanos(),
    "google.protobuf.Struct": st.one_of(
        st.dictionaries(st.sampled_from(_NASTY[:8]), _JSON, max_size=3),
        st.sampled_from([20, 40]).map(_deep),
        st.sampled_from(["object", "array", "string", "nonsense"]).map(lambda t: {"type": t}),
    ).map(_struct_fields),
}


@st.composite
def encodings(draw: st.DrawFn, message: st.SearchStrategy[Message]) -> bytes:
    """Bytes of a message: as they should be, with unknown fields, cut, flipped, or any."""
    data = draw(message).SerializeToString()
    how = draw(st.sampled_from(["whole"] * 6 + ["unknown", "cut", "flipped", "any", "deep"]))
    if how == "unknown":
        # Field 9,999, length-delimited; and a group that never ends.
        more = draw(st.sampled_from([b"\xfa\xf0\x04\x03abc", b"\xfb\xf0\x04"]))
        return data + more
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if how == "flipped" and data:
        place = draw(st.integers(0, len(data) - 1))
        return data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    if how == "any":
        return draw(st.binary(max_size=300))
    if how == "deep":
        return _nested(draw(st.sampled_from([50, 150, 3000])))
    return data


def _nested(levels: int) -> bytes:
    """Field 1 in field 1 in field 1 …"""
    data = b""
    for _ in range(levels):
        length, size = len(data), b""
        while length > 127:
            size += struct.pack("B", length & 127 | 128)
            length >>= 7
        data = b"\x0a" + size + struct.pack("B", length) + data
    return data
