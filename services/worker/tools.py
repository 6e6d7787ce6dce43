"""What a model may do besides writing: search the documents, read a section, calculate.

Tool rounds come first and the constrained call last, because servers cannot do both in
one call. What a tool answers is data: it never changes budget, route or tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hma.llm.base import ToolCall, ToolSpec
from services.worker.calculator import NotArithmetic, calculate
from services.worker.reading import Source
from services.worker.recover import clean

MAX_ROUNDS = 3
"""Calls in which the model may ask for tools, per task."""

MAX_CALLS = 8
"""Tool calls that are carried out per round; more are answered with a refusal."""

_RESULT_CHARACTERS = 2000
_FOUND = 3
_NAME = 64


def _spec(name: str, description: str, argument: str, meaning: str) -> ToolSpec:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": meaning}},
        "required": [argument],
        "additionalProperties": False,
    }
    return ToolSpec(name, description, parameters)


TOOLS: Mapping[str, ToolSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            _spec(
                "search_documents",
                "Finds the passages of the documents that match a query best.",
                "query",
                "What to look for, in a few words.",
            ),
            _spec(
                "read_section",
                "Reads one section of a document.",
                "section_id",
                'The id of a section, for example "d1#3".',
            ),
            _spec(
                "calculate",
                "Computes an arithmetic expression exactly.",
                "expression",
                'For example "(1200 - 80) * 0.19".',
            ),
        )
    }
)
"""All tools by name."""


def specs_of(names: Sequence[str]) -> tuple[ToolSpec, ...]:
    """The tools that a task names and that there are, each once."""
    return tuple(TOOLS[name] for name in dict.fromkeys(names) if name in TOOLS)


def unknown_tools(names: Sequence[str]) -> list[str]:
    """The names that no tool has."""
    return [name for name in dict.fromkeys(names) if name not in TOOLS]


class Toolbox:
    """Carries out what a model asks for.

    Args:
        source: What may be read.
        allowed: Names of the tools that the task may use.
    """

    def __init__(self, source: Source, allowed: Sequence[str]) -> None:
        self._source = source
        self._allowed = frozenset(allowed) & frozenset(TOOLS)

    async def run(self, calls: Sequence[ToolCall]) -> list[tuple[str, str]]:
        """Answers the calls of one round, in order.

        Returns:
            For each call, how it was made and what came of it; a call that cannot be
            carried out is answered with the reason, for the model to read.
        """
        findings = []
        for number, call in enumerate(calls):
            shown = clean(f"{call.name[:_NAME]}({call.arguments[:200]})")
            if number >= MAX_CALLS:
                findings.append((shown, f"not carried out: at most {MAX_CALLS} calls a round"))
            else:
                findings.append((shown, (await self._answer(call))[:_RESULT_CHARACTERS]))
        return findings

    async def _answer(self, call: ToolCall) -> str:
        if call.name not in self._allowed:
            known = ", ".join(sorted(self._allowed))
            return f"there is no tool {call.name[:_NAME]!r} for this task; there are: {known}"
        argument = _argument(call, TOOLS[call.name])
        if argument is None:
            return "the arguments are not the JSON object that the tool takes"
        if call.name == "calculate":
            try:
                return calculate(argument)
            except NotArithmetic as error:
                return f"cannot be computed: {error}"
        if call.name == "read_section":
            return self._section(argument)
        found = await self._source.best(argument[:1000], _FOUND, "paragraph")
        return "\n".join(f"[{e.section_id}] {e.text}" for e in found) or "nothing matches"

    def _section(self, section_id: str) -> str:
        for section in self._source.sections:
            if section.section_id == section_id.strip():
                return section.text
        known = ", ".join(section.section_id for section in self._source.sections[:40])
        return f"there is no section {section_id[:40]!r}; there are: {known}"


def _argument(call: ToolCall, spec: ToolSpec) -> str | None:
    """The tool's only argument; None when it is not there."""
    try:
        arguments: Any = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
    name = next(iter(spec.parameters["properties"]))
    value = arguments.get(name) if isinstance(arguments, dict) else None
    return clean(value) or None if isinstance(value, str) else None
