"""Settings: frozen dataclasses whose fields say which environment variable sets them.

A process reads its settings once, in `__main__`, and passes the object on:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class WorkerSettings:
        port: int = setting("HMA_WORKER_PORT", 50053, "gRPC port", check=is_port)

    settings = load(WorkerSettings, os.environ)

`load` reports every fault at once, by variable name. `describe` yields what the
documentation tables and `--help` texts are made of.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from hma.errors import SettingsError

T = TypeVar("T")
Check = Callable[[Any], str | None]
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
"""Addresses that only this machine reaches."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "": 1,
    "k": 1 << 10,
    "ki": 1 << 10,
    "m": 1 << 20,
    "mi": 1 << 20,
    "g": 1 << 30,
    "gi": 1 << 30,
}


class Secret(str):
    """Text that never shows itself in logs, reprs or errors. `reveal()` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')" if self else "Secret('')"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return format(repr(self), format_spec)

    def reveal(self) -> str:
        """The text itself."""
        return str.__str__(self)


class Seconds(float):
    """A duration in seconds; written "250ms", "30s", "2m", "1h" or a plain number."""


class Bytes(int):
    """A size in bytes; written "512Ki", "10Mi", "2Gi" or a plain number."""


@dataclass(frozen=True, slots=True)
class Description:
    """One setting, for documentation.

    Attributes:
        variable: The environment variable.
        kind: What its value looks like.
        default: The default as text; empty when the setting is required.
        help: What it does, with unit and limits.
    """

    variable: str
    kind: str
    default: str
    help: str


def setting(variable: str, default: Any, help: str, *, check: Check | None = None) -> Any:
    """A dataclass field that `variable` sets.

    Args:
        variable: Environment variable.
        default: Value when the variable is unset or empty; None for a field of type
            `T | None`.
        help: What it does, with unit and limits.
        check: Returns what is wrong with a value, or None.
    """
    meta = {"variable": variable, "help": help, "check": check}
    return dataclasses.field(default=default, metadata=meta)


def load(cls: type[T], environ: Mapping[str, str]) -> T:
    """Reads `cls` from the environment.

    Raises:
        SettingsError: One or more variables are wrong; the message names each.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(hints[field.name]):
            try:
                values[field.name] = load(hints[field.name], environ)
            except SettingsError as error:
                faults.append(error.message)
            continue
        variable = field.metadata.get("variable")
        if variable is None:
            continue
        text = environ.get(variable, "").strip()
        try:
            value = parse(required(hints[field.name]), text) if text else field.default
        except ValueError as error:
            faults.append(f"{variable}: {error}")
            continue
        check = field.metadata["check"]
        fault = check(value) if check is not None and value is not None else None
        if fault:
            faults.append(f"{variable}: {fault}")
        values[field.name] = value
    if faults:
        raise SettingsError("; ".join(faults))
    return cls(**values)


def describe(cls: type) -> Iterator[Description]:
    """Every setting of `cls`, nested ones included, in order."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from describe(hints[field.name])
        elif "variable" in field.metadata:
            default = "" if field.default is MISSING else _show(field.default)
            hint = required(hints[field.name])
            kind = getattr(hint, "__name__", str(hint)).lower()
            yield Description(field.metadata["variable"], kind, default, field.metadata["help"])


def required(kind: Any) -> Any:
    """`T` for `T | None`: what a setting is when it is set."""
    kinds = [each for each in typing.get_args(kind) if each is not types.NoneType]
    return kinds[0] if isinstance(kind, types.UnionType) and len(kinds) == 1 else kind


def parse(kind: Any, text: str) -> Any:
    """Parses `text` as `kind` (str, Secret, bool, int, float, Seconds, Bytes, tuple).

    Raises:
        ValueError: The text is not of that kind; the message says what is.
    """
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(f"expected true or false, got {text!r}")
    if kind is Seconds:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text)
        if not match:
            raise ValueError(f'expected a duration such as "30s", "2m" or "1h", got {text!r}')
        return Seconds(float(match[1]) * _UNITS[match[2] or "s"])
    if kind is Bytes:
        match = re.fullmatch(r"(\d+)\s*([kKmMgG]i?)?[bB]?", text)
        if not match:
            raise ValueError(f'expected a size such as "512Ki" or "10Mi", got {text!r}')
        return Bytes(int(match[1]) * _SIZES[(match[2] or "").lower()])
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"expected a number, got {text!r}") from None
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return kind(text)


def is_port(value: int) -> str | None:
    """Checks a TCP port."""
    return None if 0 <= value <= 65535 else f"expected a port from 0 to 65535, got {value}"


def at_least(low: float) -> Check:
    """Checks that a number is `low` or more."""
    return lambda value: None if value >= low else f"expected {low} or more, got {value}"


def one_of(*allowed: str) -> Check:
    """Checks that a text is one of a few."""
    return lambda value: (
        None if value in allowed else f"expected one of {', '.join(allowed)}, got {value!r}"
    )


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Secret):
        return "" if not value.reveal() else "***"
    if isinstance(value, Seconds):
        return f"{value:g}s"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
