"""gateway/openapi.json: the HTTP surface as an OpenAPI 3.1 document, from the contracts.

Types follow the JSON mapping of protobuf (https://protobuf.dev/programming-guides/json/),
with the fields' names as in the protos. What is in path, body and query follows
google.api.http, as Envoy's transcoder reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from scripts.reference.contracts import (
    PACKAGE,
    Binding,
    Contracts,
    Enum,
    Field,
    Message,
    Method,
    Service,
)

PUBLIC = ("MetaAgentService", "AdminService")
_INT32 = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32 = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1}
_INT64 = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_DURATION = {
    "type": "string",
    "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$",
    "examples": ["60s", "1.5s"],
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "double": {"type": "number", "format": "double"},
    "float": {"type": "number", "format": "float"},
    **dict.fromkeys(("int32", "sint32", "sfixed32"), _INT32),
    **dict.fromkeys(("uint32", "fixed32"), _UINT32),
    # In JSON a number of 64 bits is a string, lest a reader rounds it.
    **dict.fromkeys(("int64", "sint64", "sfixed64", "uint64", "fixed64"), _INT64),
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": _DURATION,
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
}
_ERRORS = {
    "400": "The request is at fault, or the job's state does not allow it.",
    "401": "Credentials are missing or wrong.",
    "403": "The caller may not do this.",
    "404": "No such job, key or method.",
    "408": "The request was not sent in time.",
    "409": "The same request_id came with another request, or two changes met.",
    "413": "The request is too large.",
    "429": "A limit or a quota is reached; Retry-After says when to try again.",
    "503": "Nothing serves now; try again.",
    "504": "The time limit of the call has passed.",
}
_STATUS = {
    "type": "object",
    "description": "google.rpc.Status: what went wrong.",
    "properties": {
        "code": {"type": "integer", "description": "google.rpc.Code"},
        "message": {"type": "string", "description": "For people."},
        "details": {
            "type": "array",
            "description": "ErrorInfo always, when a service answered; BadRequest names the "
            "fields at fault, RetryInfo and QuotaFailure say more of limits.",
            "items": _SCHEMAS["google.protobuf.Any"],
        },
    },
}


def render(contracts: Contracts) -> str:
    """The document."""
    return json.dumps(document(contracts), indent=1, ensure_ascii=False) + "\n"


def document(contracts: Contracts) -> dict[str, Any]:
    """The document, as data."""
    types = _Types(contracts)
    services = [each for file in contracts.files for each in file.services if each.name in PUBLIC]
    services.sort(key=lambda each: PUBLIC.index(each.name))
    paths: dict[str, dict[str, Any]] = {}
    for service in services:
        for method in service.methods:
            for number, binding in enumerate(method.bindings):
                operation = _operation(service, method, binding, types)
                if number:
                    operation["operationId"] += str(number + 1)
                paths.setdefault(binding.path, {})[binding.verb.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HMA",
            "version": PACKAGE.rpartition(".")[2],
            "description": "Teams of LLM agents under a hard token budget. The same methods are "
            "served as gRPC and gRPC-Web.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [{"name": each.name, "description": each.comment} for each in services],
        "paths": paths,
        "components": {
            "schemas": {"Status": _STATUS, **dict(sorted(types.schemas.items()))},
            "responses": {status: _error(status, text) for status, text in _ERRORS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a JSON Web Token where the installation "
                    "takes them.",
                },
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "An API key.",
                },
            },
        },
    }


def _error(status: str, description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Status"}
    response: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }
    if status == "429":
        response["headers"] = {
            "retry-after": {"description": "Seconds.", "schema": {"type": "integer"}},
        }
    return response


def _operation(service: Service, method: Method, binding: Binding, types: _Types) -> dict[str, Any]:
    request = types.message(method.request)
    in_path = re.findall(r"\{(\w+)\}", binding.path)
    rest = [each for each in request.fields if each.name not in (*in_path, binding.body)]
    operation: dict[str, Any] = {
        "operationId": method.name,
        "tags": [service.name],
        "summary": method.comment.split(". ")[0].split("\n")[0].rstrip(".") + ".",
        "description": method.comment,
        "responses": {
            "200": _answer(method, types),
            **{each: {"$ref": f"#/components/responses/{each}"} for each in _ERRORS},
        },
    }
    parameters = [_parameter(types.field(request, name), "path", types) for name in in_path]
    if binding.body == "*":
        name = f"{method.name}Body"
        types.schemas[name] = types.object(request.comment, rest, request.oneofs)
        operation["requestBody"] = _body(name)
    else:
        parameters += [_parameter(each, "query", types) for each in rest]
        if binding.body:
            field = types.field(request, binding.body)
            operation["requestBody"] = {**_body(types.reference(field.type)), "required": True}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _body(schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"content": content, "required": True}


def _answer(method: Method, types: _Types) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{types.reference(method.response)}"}}
    comment = types.message(method.response).comment
    if not method.response_streams:
        return {"description": comment, "content": {"application/json": content}}
    return {
        "description": f"{comment} One object after the other, each on a line; with "
        "`accept: text/event-stream` each as the data of an event.",
        "content": {"application/json": content, "text/event-stream": content},
    }


def _parameter(field: Field, place: str, types: _Types) -> dict[str, Any]:
    schema = types.schema(field, described=False)
    if place == "path":
        schema = {**schema, "minLength": 1, "pattern": "^[^/:]+$"}
    return {
        "name": field.name,
        "in": place,
        "description": field.comment,
        "required": place == "path" or field.required,
        "schema": schema,
    }


class _Types:
    """Schemas of messages and enums; those that were asked for are in `schemas`."""

    def __init__(self, contracts: Contracts) -> None:
        self._messages = {
            f"{PACKAGE}.{each.name}": each for file in contracts.files for each in file.messages
        }
        self._enums = {
            f"{PACKAGE}.{each.name}": each for file in contracts.files for each in file.enums
        }
        self.schemas: dict[str, dict[str, Any]] = {}

    def message(self, name: str) -> Message:
        """A message by its full name."""
        return self._messages[name]

    def field(self, message: Message, name: str) -> Field:
        """A field of a message by its name."""
        return next(each for each in message.fields if each.name == name)

    def reference(self, name: str) -> str:
        """The name of a type's schema, which is made with all that it needs."""
        short = name.removeprefix(f"{PACKAGE}.")
        if short not in self.schemas:
            self.schemas[short] = {}  # a type may hold itself
            if name in self._enums:
                self.schemas[short] = _enum(self._enums[name])
            else:
                message = self._messages[name]
                self.schemas[short] = self.object(message.comment, message.fields, message.oneofs)
        return short

    def object(
        self, comment: str, fields: Iterable[Field], oneofs: Iterable[tuple[str, str]]
    ) -> dict[str, Any]:
        """The schema of an object with these fields."""
        fields = list(fields)
        schema: dict[str, Any] = {
            "type": "object",
            "description": "\n\n".join((comment, *_choices(fields, oneofs))).strip(),
            "properties": {each.name: self.schema(each) for each in fields},
        }
        if required := [each.name for each in fields if each.required]:
            schema["required"] = required
        return schema

    def schema(self, field: Field, *, described: bool = True) -> dict[str, Any]:
        """The schema of a field's value."""
        schema = _SCHEMAS.get(field.type)
        if schema is None:
            schema = {"$ref": f"#/components/schemas/{self.reference(field.type)}"}
        if field.label == "repeated":
            schema = {"type": "array", "items": schema}
        if described and field.comment:
            schema = {**schema, "description": field.comment}
        return schema


def _choices(fields: list[Field], oneofs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, comment in oneofs:
        members = ", ".join(f"`{each.name}`" for each in fields if each.oneof == name)
        yield f"At most one of {members}: {comment}"


def _enum(enum: Enum) -> dict[str, Any]:
    lines = [f"* `{each.name}`: {each.comment}" for each in enum.values]
    return {
        "type": "string",
        "description": "\n".join((enum.comment, "", *lines)),
        "enum": [each.name for each in enum.values],
    }
