"""What the docstring of a dataclass says about its attributes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing

_NONE = type(None)
_SECTION = re.compile(r"^Attributes:\n((?:    .*\n?|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.+(?:\n     +.+)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute; `default` is empty when there is none."""

    name: str
    kind: str
    default: str
    meaning: str


def attributes(cls: type) -> list[Attribute]:
    """The fields of a dataclass, described by its Google-style docstring.

    Raises:
        KeyError: The docstring leaves one out.
    """
    found = _SECTION.search((inspect.getdoc(cls) or "") + "\n")
    meanings = (
        {name: " ".join(text.split()) for name, text in _ENTRY.findall(found[1])} if found else {}
    )
    hints = typing.get_type_hints(cls)
    return [
        Attribute(field.name, _kind(hints[field.name]), _default(field), meanings[field.name])
        for field in dataclasses.fields(cls)
    ]


def _kind(hint: object) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if dataclasses.is_dataclass(hint):
        return "table"
    if isinstance(hint, types.UnionType):
        return " or ".join(_kind(each) for each in typing.get_args(hint) if each is not _NONE)
    names: dict[object, str] = {str: "text", bool: "true or false", int: "number", float: "number"}
    return names.get(hint, "text")


def _default(field: dataclasses.Field[typing.Any]) -> str:
    if field.default is dataclasses.MISSING or dataclasses.is_dataclass(field.default):
        return ""
    value = field.default
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
