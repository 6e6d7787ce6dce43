"""Reads the JSON that a model wrote, whole or not, without asking it again.

A generation that was cut (by `max_tokens`, an interrupt, a broken stream) is a prefix of
valid JSON: what has closed in it can be trusted, what was open cannot. A text that is
broken in the middle is different: a stray quote makes half an answer look closed, so only
objects that decode whole are taken from it.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from typing import Any

import jiter

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPEN_SCALAR = re.compile(r"[0-9A-Za-z+.\-]+\Z")
_CONTROL = dict.fromkeys((*range(32), 127), " ")
_SURROGATE = re.compile("[\ud800-\udfff]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)', re.DOTALL)
_THOUGHT_BEGIN, _THOUGHT_END = "<think>", "</think>"
_MAX_OBJECTS = 1000


class Condition(enum.Enum):
    """What became of a JSON text."""

    WHOLE = "whole"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a text says for certain.

    Attributes:
        condition: What became of the text.
        value: The object or array, as far as it closed; None unless WHOLE or TRUNCATED.
        objects: MALFORMED only: the objects that decode whole, in order.
        open_text: TRUNCATED only: `value` with the string that was being written when the
            text ended, so far as it goes.
    """

    condition: Condition
    value: Any = None
    objects: tuple[dict[str, Any], ...] = ()
    open_text: Any = None


def recover(text: str) -> Recovered:
    """Reads `text` as JSON, dropping fences, prose around it and what had not closed."""
    body = _unwrap(text)
    if not body:
        return Recovered(Condition.EMPTY)
    try:
        value, _ = _DECODER.raw_decode(body)
        return Recovered(Condition.WHOLE, value)
    except (ValueError, RecursionError):
        pass
    if not _is_prefix(body):
        return Recovered(Condition.MALFORMED, objects=_whole_objects(body))
    return Recovered(
        Condition.TRUNCATED,
        jiter.from_json(_without_open_scalar(body).encode(), partial_mode=True),
        open_text=jiter.from_json(body.encode(), partial_mode="trailing-strings"),
    )


def clean(text: str) -> str:
    """`text` without control characters (newline and tab stay) and lone surrogates."""
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return "".join(c for c in text if c >= " " or c in "\n\t").strip()


def _unwrap(text: str) -> str:
    """The text from its first brace on, raw control characters made harmless."""
    text = _after_thoughts(text)
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    if not starts:
        return ""
    return _SURROGATE.sub("?", text[min(starts) :].translate(_CONTROL)).rstrip()


def _after_thoughts(text: str) -> str:
    """What follows the thoughts that some servers leave in the text; they are no answer."""
    if text.lstrip().startswith(_THOUGHT_BEGIN):
        return text.partition(_THOUGHT_END)[2]
    # The chat template may have opened them in the prompt. Inside quotes it is a word.
    bare = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), text)
    at = bare.rfind(_THOUGHT_END)
    return text if at < 0 else text[at + len(_THOUGHT_END) :]


def _is_prefix(body: str) -> bool:
    """Whether `body` is the beginning of a JSON text (not broken, only unfinished)."""
    try:
        jiter.from_json(body.encode(), allow_inf_nan=False)
    except ValueError as error:
        return str(error).startswith("EOF")
    return False


def _without_open_scalar(body: str) -> str:
    """`body` without a number or literal at its end: `12` may have been going to be `125`."""
    if '"' in _STRING.sub("", body):  # ends inside a string, which jiter drops by itself
        return body
    return _OPEN_SCALAR.sub("", body)


def _whole_objects(body: str) -> tuple[dict[str, Any], ...]:
    """Every object of `body` that decodes, outermost first, never two of the same text."""
    found: list[dict[str, Any]] = []
    at = body.find("{")
    while at >= 0 and len(found) < _MAX_OBJECTS:
        try:
            value, end = _DECODER.raw_decode(body, at)
            found.append(value)
        except (ValueError, RecursionError):
            end = at + 1
        at = body.find("{", end)
    return tuple(found)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
