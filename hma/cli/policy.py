"""`--policy NAME=VALUE`: any field of `JobPolicy`, in the words of the API."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from hma.cli.wording import word
from hma.client.requests import duration, seconds
from hma.errors import InvalidRequest
from hma.v1 import common_pb2, job_pb2

Setting = tuple[str, Any]

# Options of their own, and what does not fit one word.
_ELSEWHERE = ("shape", "route", "failure_rules")
_FIELDS: dict[str, FieldDescriptor] = {
    field.name: field
    for field in job_pb2.JobPolicy.DESCRIPTOR.fields
    if field.name not in _ELSEWHERE
}


class PolicyType(click.ParamType[Setting]):
    """A field of `JobPolicy` and its value, such as "max_rounds=2" or "halting=adaptive"."""

    name = "policy"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Setting:
        """Parses `value`; fails as a usage error that names what there is."""
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).partition("=")
        field = _FIELDS.get(name.strip().replace("-", "_"))
        if not separator or field is None:
            self.fail(f"expected NAME=VALUE with one of {', '.join(_FIELDS)}", param, ctx)
        try:
            return field.name, _parse(field, text.strip())
        except (ValueError, InvalidRequest):
            self.fail(f"{field.name}: expected {_expected(field)}, got {text!r}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names, and the values of those that have a list of them."""
        name, separator, _ = incomplete.partition("=")
        field = _FIELDS.get(name)
        words = [f"{each}=" for each in _FIELDS]
        if separator and field is not None and field.enum_type is not None:
            words = [f"{name}={value}" for value in _values(field)]
        return [CompletionItem(each) for each in words if each.startswith(incomplete)]


class FailureRuleType(click.ParamType[job_pb2.FailureRule]):
    """What follows failures of a class, such as "timeout=retry:5" or "refused=stop-job"."""

    name = "rule"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> job_pb2.FailureRule:
        """Parses `value`; fails as a usage error that names what there is."""
        if isinstance(value, job_pb2.FailureRule):
            return value
        name, _, rest = str(value).partition("=")
        action, separator, tries = rest.partition(":")
        rule = job_pb2.FailureRule()
        try:
            rule.failure_class = _classes()[_as_word(name)]  # type: ignore[assignment]
            rule.action = _actions()[_as_word(action)]  # type: ignore[assignment]
            rule.max_attempts = int(tries) if separator else 0
        except ValueError:
            self.fail(
                f"expected CLASS=ACTION[:TRIES], got {value!r}; "
                f"classes: {', '.join(map(_as_name, _classes()))}; "
                f"actions: {', '.join(map(_as_name, _actions()))}",
                param,
                ctx,
            )
        return rule

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Classes, and the actions of one."""
        name, separator, _ = incomplete.partition("=")
        words = [f"{_as_name(each)}=" for each in _classes()]
        if separator:
            words = [f"{name}={_as_name(each)}" for each in _actions()]
        return [CompletionItem(each) for each in words if each.startswith(incomplete)]


def policy_of(
    settings: tuple[Setting, ...], rules: tuple[job_pb2.FailureRule, ...] = ()
) -> job_pb2.JobPolicy | None:
    """The policy that the options describe; None without any."""
    if not settings and not rules:
        return None
    policy = job_pb2.JobPolicy(failure_rules=rules)
    for name, value in settings:
        if name == "layer_timeout":
            policy.layer_timeout.CopyFrom(duration(value))
        else:
            setattr(policy, name, value)
    return policy


def _parse(field: FieldDescriptor, text: str) -> Any:
    if field.enum_type is not None:
        return _values(field)[text.lower()]
    if field.message_type is not None:
        return seconds(text, field.name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return float(text)
    return int(text)


def _values(field: FieldDescriptor) -> dict[str, int]:
    return _words_of(field.enum_type) if field.enum_type is not None else {}


def _words_of(enum: EnumDescriptor) -> dict[str, int]:
    return _Words(
        (word(_Enum(enum), value.number), value.number) for value in enum.values if value.number
    )


def _classes() -> dict[str, int]:
    return _words_of(common_pb2.FailureClass.DESCRIPTOR)


def _actions() -> dict[str, int]:
    return _words_of(job_pb2.FailureAction.DESCRIPTOR)


def _as_word(text: str) -> str:
    return text.strip().lower().replace("-", " ").replace("_", " ")


def _as_name(words: str) -> str:
    return words.replace(" ", "-")


class _Words(dict[str, int]):
    """Values by their words; an unknown one is a ValueError, as for every other kind."""

    def __missing__(self, key: str) -> int:
        raise ValueError(key)


class _Enum:
    """What `word` wants to see of an enum."""

    def __init__(self, descriptor: Any) -> None:
        self.DESCRIPTOR = descriptor


def _expected(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return " or ".join(_values(field))
    if field.message_type is not None:
        return 'a time such as "30s"'
    return "a number"
