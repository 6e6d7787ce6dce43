"""One call of a task: what it reads, what it says, and what can be kept of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hma.errors import CallFailed
from hma.llm.base import CallBroken, Completion, Message, Prompt, ToolCall
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
_TOO_DEAR = "The tokens did not pay for thoughts; it was answered without them."
_NO_ROOM = "The model's context had no room for thoughts; it was answered without them."
_TOO_LONG = "The model thought for too long and was asked to answer at once."

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
        cut_at: Completion tokens, thoughts not counted, at which the text was cut; 0 when
            its length did not end it.
        tool_calls: The tools that it wants called.
    """

    text: str
    excerpts: Sequence[Excerpt]
    logprob: float
    whole: bool = False
    cut_by: CallFailed | AttemptStopped | None = None
    cut_at: int = 0
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class _Call:
    """What a call is for.

    Attributes:
        purpose: The ledger's class of spending.
        size: Completion tokens, thoughts not counted.
        items: How many items it is about.
        calls_left: Calls that the attempt expects to make after it.
    """

    purpose: Purpose
    size: Size
    items: int
    calls_left: int


class Asker:
    """Makes the calls of one task, each within its grant and the route's context.

    Args:
        start: The task, and what it may look at.
        attempt: Says what is granted already, and when to stop.
        source: What it reads.
        llm: Makes calls within grants.
        note: Gets remarks that belong into the result.

    Attributes:
        findings: What tools have answered so far; part of every later prompt.
    """

    def __init__(
        self,
        start: worker_pb2.ExecuteStart,
        attempt: Attempt,
        source: Source,
        llm: BudgetedLLM,
        note: Callable[[str], None],
    ) -> None:
        self.findings: list[tuple[str, str]] = []
        self._start = start
        self._task = start.task
        self._attempt = attempt
        self._source = source
        self._llm = llm
        self._note = note
        self._profile = llm.route.profile
        self._plain = self._profile.answer_style == "plain"
        self._short_of_tokens = False
        self._thoughts = self._profile.think_tokens if llm.route.reasoning else 0

    async def items(
        self,
        items: Sequence[task_pb2.Item],
        size: Size,
        purpose: Purpose,
        faults: Sequence[str] = (),
        *,
        calls_left: int = 0,
    ) -> Asked:
        """Asks for items as JSON."""
        schema = answer_schema(self._task, [item.item_id for item in items], size)

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            return Prompt(self._messages(items, excerpts, faults=faults), schema=schema)

        return await self._ask(build, items, size, purpose, calls_left)

    async def plainly(
        self, item: task_pb2.Item, size: Size, purpose: Purpose, *, calls_left: int = 0
    ) -> Asked:
        """Asks for one item as plain text."""

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            return plain_prompt(self._task, item, excerpts, self._examples)

        return await self._ask(build, [item], size, purpose, calls_left)

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

        return await self._ask(build, items, size, purpose, 0)

    async def tools(self, items: Sequence[task_pb2.Item], *, calls_left: int) -> Asked:
        """Asks which tools to call; no answers yet."""
        specs = specs_of(self._task.tools)

        def build(excerpts: Sequence[Excerpt]) -> Prompt:
            asked = tool_message(self._task, items, self._material(excerpts))
            return Prompt((self._shared, asked), tools=specs)

        tool = attempt_pb2.CALL_PURPOSE_TOOL
        return await self._ask(build, items, _TOOL_SIZE, tool, calls_left, may_think=False)

    # ---- the call

    async def _ask(
        self,
        build: Builder,
        items: Sequence[task_pb2.Item],
        size: Size,
        purpose: Purpose,
        calls_left: int,
        *,
        may_think: bool = True,
    ) -> Asked:
        """Makes the call; without thoughts or with less material if it has to be so.

        A call that was all thoughts is followed by one that answers without them.
        """
        room = self._room(items, size)
        overthought = False
        while True:
            excerpts = await self._attempt.unless_stopped(self._excerpts(items, room))
            least = size.least if not self._short_of_tokens else -(-size.least // len(items))
            call = _Call(purpose, Size(size.most, least), len(items), calls_left)
            thoughts = self._thoughts if may_think else 0
            try:
                completion = await self._complete(build(excerpts), call, thoughts)
            except CallBroken as error:
                return Asked(error.partial, excerpts, self._last_logprob, cut_by=error)
            except CallFailed as error:
                if thoughts and error.failure_class == common_pb2.FAILURE_CLASS_BUDGET:
                    self._stop_thinking(_TOO_DEAR)
                    continue
                smaller = self._smaller(error, sum(excerpt.tokens for excerpt in excerpts))
                if smaller is None and thoughts and _is_too_long(error):
                    self._stop_thinking(_NO_ROOM)
                    smaller = self._room(items, size)
                if smaller is None and overthought:
                    raise _after_thoughts(error) from error
                if smaller is None:
                    raise
                room = smaller
                continue
            if thoughts and completion.only_thoughts and not self._attempt.stop.is_set():
                self._stop_thinking(_TOO_LONG)
                overthought, purpose = True, attempt_pb2.CALL_PURPOSE_REASK
                continue
            return self._asked(completion, excerpts)

    def _stop_thinking(self, why: str) -> None:
        """For the rest of the attempt: what did not go well once would cost as much again."""
        self._thoughts = 0
        self._note(why)

    def _smaller(self, error: CallFailed, shown: int) -> int | None:
        """Room for another try of a call that cost nothing; None: there is no use in it.

        What is too long is halved again and again. What cannot be paid is tried once
        more with the least that makes sense, and so are the task's later calls: few
        answers are better than none.
        """
        if error.failure_class == common_pb2.FAILURE_CLASS_BUDGET and not self._short_of_tokens:
            self._short_of_tokens = True
            return _LEAST_ROOM
        if not _is_too_long(error) or shown < _LEAST_ROOM or self._by_sentence:
            return None
        return shown // 2

    async def _complete(self, prompt: Prompt, call: _Call, thoughts: int) -> Completion:
        least = call.size.least
        if thoughts:
            # Half an answer after whole thoughts is a waste: the answer is never clamped.
            # Where a server does not end thoughts by itself, short ones would mostly be
            # cut, and cut thoughts are lost.
            share = 4 if self._profile.honours_think_budget else 2
            least = call.size.most + -(-thoughts // share)
        return await self._llm.complete(
            prompt,
            purpose=call.purpose,
            max_completion=call.size.most + thoughts,
            min_completion=least,
            think=thoughts > 0,
            answer_tokens=call.size.most,
            items=call.items,
            calls_left=call.calls_left,
        )

    def _asked(self, completion: Completion, excerpts: Sequence[Excerpt]) -> Asked:
        stopped = completion.finish_reason == "abort" and self._attempt.stop.is_set()
        cut = completion.finish_reason == "length"
        return Asked(
            completion.text,
            excerpts,
            completion.mean_logprob,
            completion.finish_reason == "stop",
            AttemptStopped(self._attempt.stop_reason) if stopped else None,
            cut_at=max(completion.max_tokens - completion.usage.reasoning_tokens, 1) if cut else 0,
            tool_calls=completion.tool_calls,
        )

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


def _is_too_long(error: CallFailed) -> bool:
    return error.failure_class == common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW


def _after_thoughts(error: CallFailed) -> CallFailed:
    """Why there is no answer after thoughts that were cut."""
    return CallFailed(
        f"The model thought for too long, and answering without thoughts failed: {error.message}",
        error.failure_class,
        retry_after=error.retry_after,
    )
