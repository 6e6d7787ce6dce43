"""Whether the model can plan and reduce: two small tries of each, both must be good."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hma.llm.base import Message, Prompt
from hma.llm.probing.calling import Caller
from hma.llm.probing.findings import Finding

_PLAN_TOKENS = 480
_PLAN_LEAST = 160
_REDUCE_TOKENS = 320
_REDUCE_LEAST = 120

_PLAN_RULES = """\
You plan work for a team of readers. You see a request and the outline of its documents, never \
the documents. Reply with one JSON object.
shape: "single" when one reader should do everything, else "team". n: number of tasks.
tasks: do = one instruction that can be followed without seeing the request; in = ids of the \
sections to read, [] for all; after = positions (from 1) of earlier tasks whose results are \
needed, mostly []; size = low, medium or high; items = ids of the items that this task answers.
Every item belongs to exactly one task, which reads the sections that answer it."""

_REDUCE_RULES = """\
You write the final answer to a request from the findings of a team, as one coherent text \
without preamble. Keep the id of every finding in brackets, like [q1], right after the words \
that rest on it. Use every finding, and nothing but the findings."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A request whose right sections are obvious from their headings.

    Attributes:
        text: What is wanted.
        sections: Headings by id.
        items: Questions by id.
        reads: The section that answers each item.
    """

    text: str
    sections: Mapping[str, str]
    items: Mapping[str, str]
    reads: Mapping[str, str]


_REQUESTS = (
    _Request(
        "Prepare the new night porter of the guest house.",
        {"d1#1": "Keys and locks", "d1#2": "Fire drill", "d2#1": "Breakfast", "d2#2": "Laundry"},
        {
            "q1": "Where are the spare keys kept?",
            "q2": "When is breakfast served?",
            "q3": "Where do people gather in a fire?",
            "q4": "Which detergent does the laundry use?",
        },
        {"q1": "d1#1", "q2": "d2#1", "q3": "d1#2", "q4": "d2#2"},
    ),
    _Request(
        "Answer what the council asks about the harbour.",
        {"d1#1": "Fees of the berths", "d2#1": "Dredging in spring", "d3#1": "The crane accident"},
        {
            "q1": "What does a berth cost?",
            "q2": "How deep is the channel to be dredged?",
            "q3": "Who was hurt by the crane?",
        },
        {"q1": "d1#1", "q2": "d2#1", "q3": "d3#1"},
    ),
)

# A finding and the words of it that an answer must hold.
_FINDINGS = (
    (
        "What should the board know about the boiler house?",
        (
            ("The boiler was last serviced on 3 March", "3 March"),
            ("The service firm is Kolbe and Sons", "Kolbe"),
            ("The pressure valve must be replaced this year", "valve"),
            ("A new valve costs 480 euros", "480"),
        ),
    ),
    (
        "Report on the school garden.",
        (
            ("Class 5 planted beans and pumpkins", "pumpkins"),
            ("Slugs ate half of the lettuce", "lettuce"),
            ("The rain barrel holds 300 litres", "300"),
        ),
    ),
)


async def can_plan(caller: Caller) -> Finding:
    """Whether the model writes plans that could be worked by."""
    for request in _REQUESTS:
        called = await caller.call(
            "can_plan", _plan_prompt(request), most=_PLAN_TOKENS, least=_PLAN_LEAST
        )
        fault = _fault_of_plan(called.completion.text, request)
        if fault:
            return Finding.measured("can_plan", False, fault)
    return Finding.measured("can_plan", True, f"{len(_REQUESTS)} of {len(_REQUESTS)} plans stand")


async def can_reduce(caller: Caller) -> Finding:
    """Whether the model writes prose over findings without losing one."""
    for request, findings in _FINDINGS:
        called = await caller.call(
            "can_reduce",
            _reduce_prompt(request, findings),
            most=_REDUCE_TOKENS,
            least=_REDUCE_LEAST,
        )
        text = called.completion.text
        if called.completion.finish_reason != "stop":
            return Finding.measured("can_reduce", False, "it did not come to an end")
        ids = [f"[q{n}]" for n in range(1, len(findings) + 1)]
        lost = [each for each in ids if each not in text]
        if lost:
            return Finding.measured("can_reduce", False, f"it lost {', '.join(lost)}")
        vague = [word for _, word in findings if word.lower() not in text.lower()]
        if vague:
            return Finding.measured("can_reduce", False, f"it lost {', '.join(vague)}")
    return Finding.measured("can_reduce", True, "every finding is in the text, with its id")


def _plan_prompt(request: _Request) -> Prompt:
    sections = "\n".join(f"{key}: {heading}" for key, heading in request.sections.items())
    items = "\n".join(f"{key}: {text}" for key, text in request.items.items())
    user = f"Documents:\n{sections}\n\nRequest:\n{request.text}\n\nItems:\n{items}"
    return Prompt((Message("system", _PLAN_RULES), Message("user", user)), _plan_schema(request))


def _plan_schema(request: _Request) -> dict[str, Any]:
    most = len(request.items)
    task = {
        "do": {"type": "string", "maxLength": 200},
        "in": _list({"type": "string", "enum": list(request.sections)}, len(request.sections)),
        "after": _list({"type": "integer", "enum": list(range(1, most))}, most - 1),
        "size": {"type": "string", "enum": ["low", "medium", "high"]},
        "items": _list({"type": "string", "enum": list(request.items)}, most),
    }
    return _object(
        {
            "shape": {"type": "string", "enum": ["single", "team"]},
            "n": {"type": "integer", "enum": list(range(1, most + 1))},
            "tasks": {**_list(_object(task), most), "minItems": 1},
        }
    )


def _fault_of_plan(text: str, request: _Request) -> str:
    """What is wrong with a plan; empty when nothing is."""
    try:
        tasks = json.loads(text)["tasks"]
        claims = [(item, task) for task in tasks for item in task["items"]]
        if sorted(item for item, _ in claims) != sorted(request.items):
            return "its tasks do not have every item once"
        for number, task in enumerate(tasks, 1):
            if len(task["do"].split()) < 3:
                return f"task {number} does not say what to do"
            if any(before >= number for before in task["after"]):
                return f"task {number} waits for a later one"
        lost = [i for i, task in claims if task["in"] and request.reads[i] not in task["in"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "it is not a plan"
    return f"{lost[0]} is answered without the section that answers it" if lost else ""


def _reduce_prompt(request: str, findings: Sequence[tuple[str, str]]) -> Prompt:
    listed = "\n".join(f"[q{n}] {text}." for n, (text, _) in enumerate(findings, 1))
    user = f"Request: {request}\n\nFindings:\n\n{listed}"
    return Prompt((Message("system", _REDUCE_RULES), Message("user", user)))


def _list(of: Mapping[str, Any], limit: int) -> dict[str, Any]:
    return {"type": "array", "items": dict(of), "maxItems": limit}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
