"""Schema-valid JSON without a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def value_for(schema: Mapping[str, Any], prompt: str) -> Any:
    """A plausible value of a JSON schema.

    Arrays of objects whose `id` is an enum get one element per id; strings are
    taken from the prompt's last lines; everything keeps to its limits. Optional
    properties are given too.
    """
    return _Builder(schema, prompt).build(schema, "")


class _Builder:
    def __init__(self, root: Mapping[str, Any], prompt: str) -> None:
        self._root = root
        self._words = re.findall(r"\w+", prompt.rsplit("<|im_start|>assistant", 1)[0]) or ["text"]

    def build(self, schema: Mapping[str, Any], name: str) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        if kind == "object":
            properties = schema.get("properties", {})
            return {key: self.build(part, key) for key, part in properties.items()}
        if kind == "array":
            return self._array(schema, name)
        if kind in ("integer", "number"):
            return self._number(schema)
        if kind == "boolean":
            return True
        return None if kind == "null" else self._string(schema)

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while True:
            if "$ref" in schema:
                target: Any = self._root
                for part in schema["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                schema = target
            elif "anyOf" in schema or "oneOf" in schema:
                schema = (schema.get("anyOf") or schema["oneOf"])[0]
            else:
                return schema

    def _array(self, schema: Mapping[str, Any], name: str) -> list[Any]:
        if "prefixItems" in schema:
            return [self.build(part, name) for part in schema["prefixItems"]]
        element = self._resolve(schema.get("items", {"type": "string"}))
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        key = self._resolve(element.get("properties", {}).get("id", {}))
        if "enum" in key:
            built = [{**self.build(element, name), "id": one} for one in key["enum"]]
        elif "enum" in element:
            built = list(element["enum"])
        elif element.get("type") in ("integer", "number"):
            built = [self.build(element, name) for _ in range(low)]
        else:
            built = [self.build(element, name) for _ in range(max(low, 1))]
        return built if high is None else built[:high]

    def _number(self, schema: Mapping[str, Any]) -> int | float:
        value = schema.get("minimum", 1)
        if "exclusiveMinimum" in schema:
            value = schema["exclusiveMinimum"] + 1
        if "maximum" in schema:
            value = min(value, schema["maximum"])
        return int(value) if schema.get("type") == "integer" else value

    def _string(self, schema: Mapping[str, Any]) -> str:
        text = " ".join(self._words[-6:])
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        text = text.ljust(low, "x")
        return text if high is None else text[:high]
