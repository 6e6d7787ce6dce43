"""How much thought a piece of work needs and what it produces, judged by its words."""

from __future__ import annotations

import re

from hma.v1 import common_pb2

_HARD = re.compile(
    r"\b(why|explain|compare|contrast|versus|trade-?offs?|analy[sz]e|evaluate|assess|design|"
    r"recommend|justify|derive|prove|calculate|comput|estimate|plan|strateg|implications?|"
    r"how (?:would|should|could)|what if|pros and cons|step by step)",
    re.IGNORECASE,
)
_EASY = re.compile(
    r"^\W*(who|when|where|which|what (?:is|are|was|were|year|day|date|kind|type|name|port)|"
    r"how (?:many|much|old|long|far|often)|is|are|was|were|does|do|did|name|find|give)\b",
    re.IGNORECASE,
)
_EASY_WORDS = 25
_HARD_WORDS = 80
_KINDS = (
    (
        re.compile(r"\b(summar|overview|digest|abstract|condense|tl;?dr)", re.IGNORECASE),
        "SUMMARIZE",
    ),
    (re.compile(r"\b(extract|list all|collect|pull out|find all)", re.IGNORECASE), "EXTRACT"),
    (
        re.compile(
            r"\b(write|draft|compose|compare|contrast|recommend|propose|essay|report|letter|"
            r"e-?mail|translate|rewrite)",
            re.IGNORECASE,
        ),
        "WRITE",
    ),
)


def complexity_of(text: str) -> common_pb2.Complexity.ValueType:
    """LOW for a look-up, HIGH for several steps of reasoning, else MEDIUM."""
    words = len(text.split())
    if words > _HARD_WORDS or _HARD.search(text):
        return common_pb2.COMPLEXITY_HIGH
    if words <= _EASY_WORDS and _EASY.match(text):
        return common_pb2.COMPLEXITY_LOW
    return common_pb2.COMPLEXITY_MEDIUM


def kind_of(text: str) -> common_pb2.TaskKind.ValueType:
    """What a request produces; ANSWER when its words do not say."""
    found = [
        (match.start(), kind) for pattern, kind in _KINDS if (match := pattern.search(text[:2_000]))
    ]
    # The verb that comes first is the main one: "Write a report that compares …".
    return common_pb2.TaskKind.Value(f"TASK_KIND_{min(found)[1] if found else 'ANSWER'}")
