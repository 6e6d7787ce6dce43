"""One call of a task: what it reads, what it says, and what can be kept of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hma.errors import CallFailed
from hma.llm.base import CallBroken, Message, Prompt, ToolCall
from hma.llm.budgeted import BudgetedLLM
from hma.rpc.attempt import Attempt, AttemptStopped
from hma.text.tokens import approximate_tokens
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from services.worker.excerpts import find_excerpts, leading_excerpts
from services.worker.plain import plain_prompt
from services.worker.prompts import (
    Material,
    result_text,
    shared_message,
    task_message,
    tool_message,
)
from services.worker.reading import Excerpt, Source
from services.worker.schemas import Size, answer_schema, is_prose
from services.worker.tools import specs_of

_ROOM_PER_ITEM = 250
"""Estimated tokens of material that each item of a batch after the first may add."""

_LEAST_ROOM = 120
"""Room of a call that must be small: a sentence or two for each item."""

_PROSE_PROMPTS = 4
"""A text about the whole of a source may read this many typical prompts of the route."""

_MARGIN = 64
_TOOL_SIZE = Size(most=200, least=16)

Purpose: TypeAlias = attempt_pb2.CallPurpose.ValueType
Builder: TypeAlias = Callable[[Sequence[Excerpt]], Prompt]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a call.

    Attributes:
        text: What the model wrote, whole or cut.
        excerpts: What it was shown of the source.
        logprob: Mean log-probability of the text; 0 when not known.
        whole: The model came to an end by itself.
        cut_by: What ended the call before the model did; None when nothing but its own
            length did.
        tool_calls: The tools that it wants called.
    """

    text: str
    excerpts: Sequence[Excerpt]
    logprob: float
    whole: bool = False
    cut_by: CallFailed | AttemptStopped | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Asker:
    """Makes the calls of one task, each within its grant and the route's context.

    Args:
        start: The task, and what it may look at.
        attempt: Says what is granted already, and when to stop.
        source: What it reads.
        llm: Makes calls within grants.

    Attributes:
        findings: What tools have answered so far; part of every later prompt.
    """

    def __init__(
        self,
        start: worker_pb2.ExecuteStart,
        attempt: Attempt,
        source: Source,
        llm: BudgetedLLM,
    ) -> None:
        self.findings: list[tuple[str, str]] = []
        self._start = start
        self._task = start.task
        self._attempt = attempt
        self._source = source
        self._llm = llm
        self._profile = llm.route.profile
        self._plain = self._profile.answer_style == "plain"
        self._short_of_tokens = False

    async def items(
        self,
        items: Sequence[task_pb2.Item],
        size: Size,
        purpose: Purpose,
        faults: Sequence[str] = (),
    ) -> Asked:
        """Asks for items as JSON."""
        schema = answer_schema(self._task, [item.item_id for item in items], size)

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            return Prompt(self._messages(items, excerpts, faults=faults), schema=schema)

        return await self._ask(build, items, size, purpose)

    async def plainly(self, item: task_pb2.Item, size: Size, purpose: Purpose) -> Asked:
        """Asks for one item as plain text."""

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            return plain_prompt(self._task, item, excerpts, self._examples)

        return await self._ask(build, [item], size, purpose)

    async def object(
        self,
        items: Sequence[task_pb2.Item],
        size: Size,
        purpose: Purpose,
        schema: Mapping[str, Any],
        faults: Sequence[str] = (),
    ) -> Asked:
        """Asks for an object in the task's own schema."""

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            messages = self._messages(items, excerpts, own_schema=schema, faults=faults)
            return Prompt(messages, schema=schema)

        return await self._ask(build, items, size, purpose)

    async def tools(self, items: Sequence[task_pb2.Item]) -> Asked:
        """Asks which tools to call; no answers yet."""
        specs = specs_of(self._task.tools)

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            asked = tool_message(self._task, items, self._material(excerpts))
            return Prompt((self._shared, asked), tools=specs)

        return await self._ask(
            build, items, _TOOL_SIZE, attempt_pb2.CALL_PURPOSE_TOOL, may_think=False
        )

    # ---- the call

    async def _ask(
        self,
        build: Builder,
        items: Sequence[task_pb2.Item],
        size: Size,
        purpose: Purpose,
        *,
        may_think: bool = True,
    ) -> Asked:
        """Makes the call; with less material when it does not fit or cannot be paid."""
        room = self._room(items, size)
        while True:
            excerpts = await self._excerpts(items, room)
            least = size.least if not self._short_of_tokens else -(-size.least // len(items))
            bounds = Size(size.most, least)
            try:
                return await self._call(build(excerpts), excerpts, bounds, purpose, may_think)
            except CallFailed as error:
                shown = sum(excerpt.tokens for excerpt in excerpts)
                smaller = self._smaller(error, shown)
                if smaller is None:
                    raise
                room = smaller

    def _smaller(self, error: CallFailed, shown: int) -> int | None:
        """Room for another try of a call that cost nothing; None: there is no use in it.

        What is too long is halved again and again. What cannot be paid is tried once
        more with the least that makes sense, and so are the task's later calls: few
        answers are better than none.
        """
        if error.failure_class == common_pb2.FAILURE_CLASS_BUDGET and not self._short_of_tokens:
            self._short_of_tokens = True
            return _LEAST_ROOM
        too_long = error.failure_class == common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW
        if not too_long or shown < _LEAST_ROOM or self._by_sentence:
            return None
        return shown // 2

    async def _call(
        self,
        prompt: Prompt,
        excerpts: Sequence[Excerpt],
        size: Size,
        purpose: Purpose,
        may_think: bool,
    ) -> Asked:
        think = self._thoughts if may_think else 0
        # A server that does not end thoughts by itself could spend all on them.
        unbounded = 0 if self._profile.honours_think_budget else think // 2
        try:
            completion = await self._llm.complete(
                prompt,
                purpose=purpose,
                max_completion=size.most + think,
                min_completion=size.least + unbounded,
                think=think > 0,
            )
        except CallBroken as error:
            return Asked(error.partial, excerpts, self._last_logprob, cut_by=error)
        stopped = completion.finish_reason == "abort" and self._attempt.stop.is_set()
        return Asked(
            completion.text,
            excerpts,
            completion.mean_logprob,
            completion.finish_reason == "stop",
            AttemptStopped(self._attempt.stop_reason) if stopped else None,
            completion.tool_calls,
        )

    @property
    def _thoughts(self) -> int:
        return self._profile.think_tokens if self._llm.route.reasoning else 0

    @property
    def _last_logprob(self) -> float:
        return self._attempt.calls[-1].mean_logprob if self._attempt.calls else 0.0

    # ---- what it says

    @property
    def _shared(self) -> Message:
        return shared_message(self._start.brief, self._examples)

    @property
    def _examples(self) -> int:
        examples = self._profile.examples
        return min(examples, 1) if self._short_of_tokens else examples

    def _material(self, excerpts: Sequence[Excerpt]) -> Material:
        return Material(excerpts, self._start.dependencies, self.findings)

    def _messages(
        self,
        items: Sequence[task_pb2.Item],
        excerpts: Sequence[Excerpt],
        *,
        own_schema: Mapping[str, Any] | None = None,
        faults: Sequence[str] = (),
    ) -> tuple[Message, ...]:
        material = self._material(excerpts)
        asked = task_message(self._task, items, material, own_schema=own_schema, faults=faults)
        return self._shared, asked

    # ---- what it reads

    @property
    def _by_sentence(self) -> bool:
        """A small model gets one passage per question; more would only confuse it."""
        return self._plain and not is_prose(self._task) and not self._task.output_schema

    async def _excerpts(self, items: Sequence[task_pb2.Item], room: int) -> list[Excerpt]:
        """The words of the source that the call shows, as many as it has room for."""
        if self._by_sentence:
            best = await self._source.best(items[0].text, 1, self._profile.retrieval)
            return best or self._results() or leading_excerpts(self._source, _LEAST_ROOM)
        if is_prose(self._task):
            results = self._results() if self._plain else []
            return results + leading_excerpts(self._source, room)
        unit = "sentence" if self._short_of_tokens else self._profile.retrieval
        found = await find_excerpts(self._source, items, unit, room)
        # "What is this about?" shares no word with the answer.
        return found or leading_excerpts(self._source, room)

    def _results(self) -> list[Excerpt]:
        """Results of other tasks as material; prompts in JSON carry them by themselves."""
        return [
            Excerpt("", dependency.title or dependency.task_id, "", "", result_text(dependency))
            for dependency in self._start.dependencies
        ]

    def _room(self, items: Sequence[task_pb2.Item], size: Size) -> int:
        """Estimated tokens for the material: what the grant at hand and the context allow."""
        context = self._llm.route.context_tokens
        fixed = sum(approximate_tokens(m.content) for m in self._messages(items, ()))
        wanted = self._profile.prompt_tokens + _ROOM_PER_ITEM * (len(items) - 1)
        held = self._attempt.held(len(self._attempt.calls) + 1)
        if self._short_of_tokens:
            wanted = _LEAST_ROOM
        elif is_prose(self._task):
            # It is about the whole, so it asks for more than is held if need be.
            wanted = min(context // 2, _PROSE_PROMPTS * self._profile.prompt_tokens)
        elif held:
            # The estimate behind `room` is rough: what it misses is asked for.
            wanted = min(wanted, max(held - size.most - fixed, _LEAST_ROOM))
        return max(min(wanted, context - size.most - self._thoughts - fixed - _MARGIN), 0)
