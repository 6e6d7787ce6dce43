"""Prose by the model over merged results, and what is done when it loses some of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hma.errors import CallFailed
from hma.llm.base import Completion, Prompt
from hma.rpc.attempt import AttemptStopped
from hma.text.tokens import approximate_tokens
from hma.v1 import attempt_pb2, common_pb2, task_pb2
from services.reducer.findings import Finding, cited, group
from services.reducer.prompts import condense_prompt, write_prompt

MAX_LEVELS = 3
"""Most rounds of condensing; each makes the findings several times shorter."""

_LEAST = 64
_MARGIN = 64
# Estimated tokens are an estimate: prompts are planned below the context by this.
_SAFETY = 0.75
_LEAST_ROOM = 128
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]*_]*(?=\s)|\n")


class Writer(Protocol):
    """Makes calls within grants (`hma.llm.budgeted.BudgetedLLM`)."""

    async def complete(
        self,
        prompt: Prompt,
        *,
        purpose: attempt_pb2.CallPurpose.ValueType,
        max_completion: int,
        min_completion: int,
        on_text: Callable[[str], None] | None = None,
        items: int = 0,
        calls_left: int = 0,
    ) -> Completion:
        """Makes one call."""
        ...


@dataclass(frozen=True, slots=True)
class Prose:
    """What the model wrote.

    Attributes:
        text: The prose, cut to whole sentences where it broke off; empty when there
            is none that can be used.
        lost: Ids of findings that it does not name.
        failure: Why it is not whole; None when it is.
    """

    text: str = ""
    lost: frozenset[str] = frozenset()
    failure: common_pb2.Failure | None = None


async def write_prose(
    writer: Writer,
    brief: task_pb2.Brief,
    findings: Sequence[Finding],
    *,
    max_tokens: int,
    context_tokens: int,
    on_text: Callable[[str], None],
) -> Prose:
    """Writes the answer; condenses the findings first while they exceed the context.

    Args:
        writer: Makes the calls.
        brief: What was asked.
        findings: What to write about.
        max_tokens: Most completion tokens of the answer.
        context_tokens: What one call can hold.
        on_text: Gets the answer while it is written.
    """
    ids = frozenset(name for finding in findings for name in finding.ids)
    written: list[str] = []

    def take(text: str) -> None:
        written.append(text)
        on_text(text)

    failure: common_pb2.Failure | None = None
    try:
        short = await _condense(writer, brief, findings, max_tokens, context_tokens)
        if not short:
            raise CallFailed(
                "The notes about the results were cut off.", common_pb2.FAILURE_CLASS_BUDGET
            )
        completion = await writer.complete(
            write_prompt(brief, short),
            purpose=attempt_pb2.CALL_PURPOSE_REDUCE,
            max_completion=max_tokens,
            min_completion=min(_LEAST, max_tokens),
            on_text=take,
            items=len(ids),
        )
        if completion.finish_reason != "stop":
            failure = _cut_off(completion.finish_reason)
        text = completion.text
    except CallFailed as error:
        text = "".join(written)
        failure = common_pb2.Failure(failure_class=error.failure_class, message=error.message)
    except AttemptStopped:
        text = "".join(written)
        failure = _cut_off("abort")
    text = text.strip() if failure is None else whole_sentences(text)
    return Prose(text, ids - cited(text, ids), failure)


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence."""
    end = max((match.end() for match in _SENTENCE_END.finditer(text)), default=0)
    return text[:end].strip()


async def _condense(
    writer: Writer,
    brief: task_pb2.Brief,
    findings: Sequence[Finding],
    max_tokens: int,
    context_tokens: int,
) -> Sequence[Finding]:
    """Tree reduction: notes over groups, until one call can hold them all."""
    prompt = sum(approximate_tokens(m.content) for m in write_prompt(brief, ()).messages)
    limit = int((context_tokens - max_tokens - prompt - _MARGIN) * _SAFETY)
    limit = max(limit, _LEAST_ROOM)
    for _ in range(MAX_LEVELS):
        groups = group(findings, limit)
        if len(groups) <= 1:
            return groups[0] if groups else []
        share = max(_LEAST, limit // len(groups))
        notes = []
        for number, members in enumerate(groups, 1):
            names = tuple(name for member in members for name in member.ids)
            completion = await writer.complete(
                condense_prompt(brief, members),
                purpose=attempt_pb2.CALL_PURPOSE_REDUCE,
                max_completion=min(share, max_tokens),
                min_completion=min(_LEAST, share, max_tokens),
                on_text=_keep_to_itself,
                items=len(names),
                # The other groups and the answer; another level is hardly ever needed.
                calls_left=len(groups) - number + 1,
            )
            if completion.finish_reason == "abort":
                raise CallFailed("The reducing was stopped.", common_pb2.FAILURE_CLASS_CANCELLED)
            whole = completion.finish_reason == "stop"
            # Half a name is a wrong answer; what a cut note lacks is added by code.
            text = completion.text.strip() if whole else whole_sentences(completion.text)
            if text:
                notes.append(Finding(names, text))
        findings = notes
    return next(iter(group(findings, limit)), [])


def _keep_to_itself(text: str) -> None:
    """Notes are not part of the answer: nobody sees them grow."""


def _cut_off(finish_reason: str) -> common_pb2.Failure:
    if finish_reason == "length":
        return common_pb2.Failure(
            failure_class=common_pb2.FAILURE_CLASS_BUDGET,
            message="The prose was cut off at its grant.",
        )
    return common_pb2.Failure(
        failure_class=common_pb2.FAILURE_CLASS_CANCELLED, message="The writing was stopped."
    )
