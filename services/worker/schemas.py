"""Output schemas by kind of task, and how long an output may be.

Ordered for salvage: the answer is the first thing after an item's id, prose comes last,
so that a text cut anywhere still holds whole answers. Only keywords that vLLM (xgrammar)
and llama.cpp both compile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hma.llm.profiles import Profile
from hma.v1 import common_pb2, task_pb2

PROSE_KINDS = (common_pb2.TASK_KIND_SUMMARIZE, common_pb2.TASK_KIND_WRITE)
_CHARACTERS_PER_TOKEN = 8
_NOTES_TOKENS = 24
# llama.cpp refuses grammars with longer repetitions.
_MAX_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class _Shape:
    """How long the answers of a kind are.

    Attributes:
        answers: In typical answers of the route's profile.
        evidence: Most characters of an item's evidence; 0: the kind quotes nothing.
    """

    answers: int
    evidence: int


_SHAPES: Mapping[int, _Shape] = {
    common_pb2.TASK_KIND_ANSWER: _Shape(1, 300),
    common_pb2.TASK_KIND_EXTRACT: _Shape(2, 400),
    common_pb2.TASK_KIND_SUMMARIZE: _Shape(4, 0),
    common_pb2.TASK_KIND_WRITE: _Shape(8, 0),
}
_COMPLEXITY: Mapping[int, float] = {
    common_pb2.COMPLEXITY_LOW: 0.8,
    common_pb2.COMPLEXITY_HIGH: 1.5,
}


@dataclass(frozen=True, slots=True)
class Size:
    """Completion tokens of a call.

    Attributes:
        most: The max_tokens to ask for.
        least: Below it the call is not worth its prompt.
    """

    most: int
    least: int


def is_prose(task: task_pb2.Task) -> bool:
    """Whether the task's answers are texts of their own rather than words of the source."""
    return task.kind in PROSE_KINDS


def longest_answer(size: Size) -> int:
    """Most characters of an answer under the schema, which closes it there: it may be cut."""
    return min(size.most * _CHARACTERS_PER_TOKEN, _MAX_LENGTH)


def answer_schema(task: task_pb2.Task, item_ids: Sequence[str], size: Size) -> dict[str, Any]:
    """The schema of one call's output.

    Args:
        task: Its kind decides.
        item_ids: The ids that this call answers.
        size: Bounds the length of the answers.
    """
    shape = _shape(task)
    item: dict[str, Any] = {
        "id": {"type": "string", "enum": list(item_ids)},
        "answer": {"type": "string", "maxLength": longest_answer(size)},
    }
    if shape.evidence:
        item["evidence"] = {"type": "string", "maxLength": shape.evidence}
    return {
        "type": "object",
        "properties": {
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": item,
                    "required": list(item),
                    "additionalProperties": False,
                },
                "minItems": len(item_ids),
                "maxItems": len(item_ids),
            },
            "notes": {"type": "string", "maxLength": _NOTES_TOKENS * _CHARACTERS_PER_TOKEN},
        },
        "required": ["items", "notes"],
        "additionalProperties": False,
    }


def call_size(task: task_pb2.Task, profile: Profile, items: int, of: int) -> Size:
    """How long the output of one call may be, thoughts not counted.

    The same reckoning as the MetaAgent's estimate, so that the first grant covers it.

    Args:
        task: Its kind, complexity and cap.
        profile: How long this model's answers typically are.
        items: Items of this call.
        of: Items of the whole task, which share its cap.
    """
    one = profile.answer_tokens * _shape(task).answers
    most = math.ceil(items * one * _COMPLEXITY.get(task.complexity, 1.0))
    if profile.answer_style == "json":
        most += _NOTES_TOKENS
    if task.max_result_tokens:
        most = min(most, max(task.max_result_tokens * items // max(of, items), 1))
    return Size(most, min(most, max(math.ceil(one / 2), most // 2)))


def _shape(task: task_pb2.Task) -> _Shape:
    return _SHAPES.get(task.kind, _SHAPES[common_pb2.TASK_KIND_ANSWER])
