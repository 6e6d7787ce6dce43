"""The contracts with their comments, as plain data.

A comment is one string, its paragraphs separated by empty lines. Types are full names:
a scalar's ("int32") or a message's or an enum's ("hma.v1.Job").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PACKAGE = "hma.v1"


@dataclass(frozen=True, slots=True)
class Field:
    """A field; `label` is "repeated", "optional" or empty, `oneof` what it belongs to."""

    name: str
    number: int
    type: str
    label: str
    required: bool
    oneof: str
    comment: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `oneofs` are (name, comment), `reserved` is what may not be used."""

    name: str
    comment: str
    fields: tuple[Field, ...]
    oneofs: tuple[tuple[str, str], ...]
    reserved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an enum."""

    name: str
    number: int
    comment: str


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum."""

    name: str
    comment: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """How a method is called by HTTP; `body` is a field, "*" for all, or empty for none."""

    verb: str
    path: str
    body: str


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC."""

    name: str
    comment: str
    request: str
    response: str
    request_streams: bool
    response_streams: bool
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A service."""

    name: str
    comment: str
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class File:
    """A file of the package."""

    name: str
    comment: str
    services: tuple[Service, ...]
    messages: tuple[Message, ...]
    enums: tuple[Enum, ...]


@dataclass(frozen=True, slots=True)
class Contracts:
    """The package.

    Attributes:
        files: In the order of their names.
        http_statuses: HTTP status of each gRPC status code, by name.
    """

    files: tuple[File, ...]
    http_statuses: Mapping[str, int]
