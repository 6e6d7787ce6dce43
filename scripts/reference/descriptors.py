"""Reads the contracts: protoc makes a FileDescriptorSet with comments, this the data."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.api import annotations_pb2, field_behavior_pb2, http_pb2
from google.protobuf import descriptor_pb2 as descriptors
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from scripts.reference import contracts

_CODES = "google/rpc/code.proto"
_NAMED = (
    FieldDescriptorProto.TYPE_MESSAGE,
    FieldDescriptorProto.TYPE_ENUM,
    FieldDescriptorProto.TYPE_GROUP,
)
_Place = tuple[int, ...]


def compile_contracts(root: Path) -> bytes:
    """The FileDescriptorSet of protos/, with comments, made by protoc.

    Args:
        root: Of the repository.

    Raises:
        subprocess.CalledProcessError: protoc refuses the protos; it says why on stderr.
    """
    script = (
        "source scripts/proto_paths.sh; run_protoc protos --include_imports "
        f'--include_source_info --descriptor_set_out="$1" {_CODES}'
    )
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image.binpb"
        command = ["bash", "-euo", "pipefail", "-c", script, "bash", str(image)]
        # proto_paths.sh takes its Python from there.
        environment = {**os.environ, "PYTHON": sys.executable}
        subprocess.run(command, cwd=root, env=environment, check=True)
        return image.read_bytes()


def read_contracts(image: bytes) -> contracts.Contracts:
    """Reads a serialised FileDescriptorSet that carries comments."""
    files = descriptors.FileDescriptorSet.FromString(image).file
    ours = sorted(
        (each for each in files if each.package == contracts.PACKAGE), key=lambda each: each.name
    )
    codes = [each for each in files if each.name == _CODES]
    statuses = {name: status for each in codes for name, status in _http_statuses(each)}
    return contracts.Contracts(tuple(_Reader(each).file() for each in ours), statuses)


def _http_statuses(file: descriptors.FileDescriptorProto) -> Iterator[tuple[str, int]]:
    for value in (value for enum in _Reader(file).file().enums for value in enum.values):
        if found := re.search(r"HTTP Mapping: (\d+)", value.comment):
            yield value.name, int(found[1])


class _Reader:
    """Reads one file; a path of field numbers leads to each element's comment."""

    def __init__(self, file: descriptors.FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(each.path): each.leading_comments for each in file.source_code_info.location
        }

    def file(self) -> contracts.File:
        proto = self._file
        return contracts.File(
            name=proto.name,
            comment=self._comment((proto.PACKAGE_FIELD_NUMBER,)),
            services=tuple(
                self._service(each, (proto.SERVICE_FIELD_NUMBER, index))
                for index, each in enumerate(proto.service)
            ),
            messages=tuple(self._message(*found) for found in self._found()),
            enums=tuple(self._enums()),
        )

    def _comment(self, place: _Place) -> str:
        """The comment above an element, each paragraph on one line."""
        lines = [line.strip() for line in self._comments.get(place, "").splitlines()]
        groups = itertools.groupby(lines, key=bool)
        return "\n\n".join(" ".join(group) for filled, group in groups if filled)

    def _service(
        self, proto: descriptors.ServiceDescriptorProto, place: _Place
    ) -> contracts.Service:
        methods = tuple(
            self._method(each, (*place, proto.METHOD_FIELD_NUMBER, index))
            for index, each in enumerate(proto.method)
        )
        return contracts.Service(proto.name, self._comment(place), methods)

    def _method(self, proto: descriptors.MethodDescriptorProto, place: _Place) -> contracts.Method:
        return contracts.Method(
            name=proto.name,
            comment=self._comment(place),
            request=proto.input_type.lstrip("."),
            response=proto.output_type.lstrip("."),
            request_streams=proto.client_streaming,
            response_streams=proto.server_streaming,
            bindings=tuple(_bindings(proto.options)),
        )

    def _found(self) -> Iterator[tuple[descriptors.DescriptorProto, _Place, str]]:
        """Every message with its place and name; an inner one is named Outer.Inner."""
        number = self._file.MESSAGE_TYPE_FIELD_NUMBER
        waiting: list[tuple[descriptors.DescriptorProto, _Place, str]] = [
            (each, (number, index), each.name) for index, each in enumerate(self._file.message_type)
        ]
        while waiting:
            proto, place, name = waiting.pop(0)
            yield proto, place, name
            waiting[:0] = [
                (each, (*place, proto.NESTED_TYPE_FIELD_NUMBER, index), f"{name}.{each.name}")
                for index, each in enumerate(proto.nested_type)
            ]

    def _message(
        self, proto: descriptors.DescriptorProto, place: _Place, name: str
    ) -> contracts.Message:
        oneofs = [
            (each.name, self._comment((*place, proto.ONEOF_DECL_FIELD_NUMBER, index)))
            for index, each in enumerate(proto.oneof_decl)
        ]
        fields = tuple(
            self._field(each, oneofs, (*place, proto.FIELD_FIELD_NUMBER, index))
            for index, each in enumerate(proto.field)
        )
        # The end of a range is exclusive.
        numbers = [(each.start, each.end - 1) for each in proto.reserved_range]
        reserved = [str(low) if low == high else f"{low} to {high}" for low, high in numbers]
        return contracts.Message(
            name=name,
            comment=self._comment(place),
            fields=fields,
            oneofs=tuple((name, comment) for name, comment in oneofs if not name.startswith("_")),
            reserved=(*reserved, *proto.reserved_name),
        )

    def _field(
        self, proto: FieldDescriptorProto, oneofs: list[tuple[str, str]], place: _Place
    ) -> contracts.Field:
        behaviors = proto.options.Extensions[field_behavior_pb2.field_behavior]
        repeated = proto.label == FieldDescriptorProto.LABEL_REPEATED
        label = "optional" if proto.proto3_optional else "repeated" if repeated else ""
        # The oneof of an optional field is made up by protoc.
        chosen = proto.HasField("oneof_index") and not proto.proto3_optional
        oneof = oneofs[proto.oneof_index][0] if chosen else ""
        return contracts.Field(
            name=proto.name,
            number=proto.number,
            type=_type_of(proto),
            label=label,
            required=field_behavior_pb2.REQUIRED in behaviors,
            oneof=oneof,
            comment=self._comment(place),
        )

    def _enums(self) -> Iterator[contracts.Enum]:
        for index, proto in enumerate(self._file.enum_type):
            yield self._enum(proto, (self._file.ENUM_TYPE_FIELD_NUMBER, index), proto.name)
        for message, place, name in self._found():
            for index, proto in enumerate(message.enum_type):
                inner = (*place, message.ENUM_TYPE_FIELD_NUMBER, index)
                yield self._enum(proto, inner, f"{name}.{proto.name}")

    def _enum(
        self, proto: descriptors.EnumDescriptorProto, place: _Place, name: str
    ) -> contracts.Enum:
        values = tuple(
            contracts.Value(
                each.name,
                each.number,
                self._comment((*place, proto.VALUE_FIELD_NUMBER, index)),
            )
            for index, each in enumerate(proto.value)
        )
        return contracts.Enum(name, self._comment(place), values)


def _type_of(proto: FieldDescriptorProto) -> str:
    if proto.type in _NAMED:
        return proto.type_name.lstrip(".")
    return FieldDescriptorProto.Type.Name(proto.type).removeprefix("TYPE_").lower()


def _bindings(options: descriptors.MethodOptions) -> Iterator[contracts.Binding]:
    if not options.HasExtension(annotations_pb2.http):
        return
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        verb = each.WhichOneof("pattern")
        yield contracts.Binding(verb.upper(), getattr(each, verb), each.body)
