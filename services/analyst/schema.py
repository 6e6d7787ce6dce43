"""The JSON schema that a plan is decoded under.

Only keywords that xgrammar, guidance and llama.cpp all know: no uniqueItems,
pattern, contains or multipleOf. Sizes are bounded everywhere, so that a plan cannot
run on. Order matters: it is the order in which the model writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.analyst.brief import MAX_AUDIENCE, MAX_ENTRY

_MAX_DO = 300
_MAX_INPUTS = 12
_MAX_AFTER = 12
_MAX_BRIEF_OBJECTIVE = 400
_MAX_BRIEF_ENTRIES = 5


def plan_schema(
    *, readable: Sequence[str], items: Sequence[str], max_tasks: int, standing: int = 0
) -> dict[str, Any]:
    """The schema of a plan.

    Args:
        readable: Ids of documents and sections that a task may name.
        items: Ids of items that a task may claim.
        max_tasks: Most tasks to write.
        standing: How many tasks there are already. When there are any, only the tail
            of a plan is asked for, without a brief.
    """
    task: dict[str, Any] = {"do": _text(_MAX_DO)}
    if readable:
        task["in"] = _list({"type": "string", "enum": list(readable)}, _MAX_INPUTS)
    last = standing + max_tasks
    if last > 1:
        positions = {"type": "integer", "enum": list(range(1, last))}
        task["after"] = _list(positions, min(_MAX_AFTER, last - 1))
    task["size"] = {"type": "string", "enum": ["low", "medium", "high"]}
    task["kind"] = {"type": "string", "enum": ["answer", "extract", "summarize", "write"]}
    if items:
        task["items"] = _list({"type": "string", "enum": list(items)}, len(items))
    plan: dict[str, Any] = {}
    if not standing:
        plan["brief"] = _object(
            {
                "objective": _text(_MAX_BRIEF_OBJECTIVE),
                "audience": _text(MAX_AUDIENCE),
                "constraints": _list(_text(MAX_ENTRY), _MAX_BRIEF_ENTRIES),
                "acceptance": _list(_text(MAX_ENTRY), _MAX_BRIEF_ENTRIES),
                "dropped": _list(_text(MAX_ENTRY), _MAX_BRIEF_ENTRIES),
            }
        )
    plan["shape"] = {"type": "string", "enum": ["single", "team"]}
    plan["n"] = {"type": "integer", "enum": list(range(1, max_tasks + 1))}
    plan["tasks"] = {**_list(_object(task), max_tasks), "minItems": 1}
    return _object(plan)


def _text(limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit}


def _list(of: dict[str, Any], limit: int) -> dict[str, Any]:
    return {"type": "array", "items": of, "maxItems": limit}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
