"""Plans one job: by the model where it can, by code where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from hma.errors import CallFailed
from hma.llm.base import Completion, Prompt
from hma.rpc.attempt import AttemptStopped
from hma.text.tokens import approximate_tokens
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2
from services.analyst.assembly import PlanAssembler
from services.analyst.inputs import Inputs
from services.analyst.parsing import PlanReader
from services.analyst.prompts import ID_TOKENS, completion_tokens, plan_prompt, tail_prompt

# Classes of failure after which asking the same model again can help.
_WORTH_ASKING_AGAIN = frozenset(
    {
        common_pb2.FAILURE_CLASS_TRANSIENT,
        common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
    }
)
# Stops after which nobody will act on the rest of a plan.
_NOBODY_LISTENS = (attempt_pb2.STOP_REASON_CANCEL, attempt_pb2.STOP_REASON_FENCED)


class Planner(Protocol):
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
    ) -> Completion:
        """Makes one call."""
        ...


class Output(Protocol):
    """Where a plan goes, and when it has to end (`hma.rpc.attempt.Attempt`)."""

    stop: asyncio.Event
    stop_reason: attempt_pb2.StopReason.ValueType

    async def emit(self, fragment: analyst_pb2.PlanFragment) -> None:
        """Sends a piece of the plan."""
        ...


@dataclass(frozen=True, slots=True)
class _Break:
    """Why a model's plan is not whole.

    Attributes:
        reason: For the log.
        again: Whether asking for the rest can help.
        cut_at: Completion tokens at which the plan was cut; 0: its length did not end it.
    """

    reason: str
    again: bool
    cut_at: int = 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a call is to bring.

    Attributes:
        most: Most completion tokens that are worth asking for.
        least: Least of them.
        items: Items that it is to find tasks for.
    """

    most: int
    least: int
    items: int


def why_by_code(inputs: Inputs) -> str:
    """Why the model is not asked for a plan; empty when it is."""
    if inputs.no_model:
        return inputs.no_model
    if not inputs.profile.can_plan:
        return "the route's model is too weak to plan"
    if inputs.max_tasks == 1:
        return "the budget allows one task only"
    prompt = sum(approximate_tokens(m.content) for m in plan_prompt(inputs).messages)
    if prompt + _completion(inputs, 0) > inputs.context_tokens:
        return "the request and the outline exceed the model's context"
    return ""


async def plan(
    inputs: Inputs, planner: Planner | None, output: Output
) -> attempt_pb2.AttemptResult:
    """Plans a job and streams the plan.

    Without a planner, or where the model cannot help, the plan is made by code.
    Whatever happens, the fragments sent are a valid plan; unless nobody listens any
    more they end as one that covers every item.

    Returns:
        SUCCEEDED with the outcome; PARTIAL when the attempt was stopped for good.
    """
    assembler = PlanAssembler(inputs)
    reason = why_by_code(inputs)
    broken = False
    if not reason and planner is not None:
        reason, broken = await _plan_by_model(inputs, planner, output, assembler)
    stopped = output.stop.is_set() and output.stop_reason in _NOBODY_LISTENS
    if not stopped:
        uncovered = len(assembler.unclaimed)
        before = len(assembler.tasks)
        for fragment in assembler.complete(broken=broken):
            await output.emit(fragment)
        if not reason and len(assembler.tasks) > before:
            reason = f"the model's plan left out {uncovered} of {len(inputs.items)} items"
    result = attempt_pb2.AttemptResult(
        state=(
            attempt_pb2.ATTEMPT_STATE_PARTIAL if stopped else attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        ),
        plan=attempt_pb2.PlanOutcome(
            source=assembler.source,
            reason="" if assembler.source == attempt_pb2.PLAN_SOURCE_MODEL else reason,
            tasks=len(assembler.tasks),
        ),
    )
    if stopped:
        result.failure.failure_class = common_pb2.FAILURE_CLASS_CANCELLED
        result.failure.message = "Planning was stopped."
        result.failure.role = common_pb2.ROLE_ANALYST
    return result


async def _plan_by_model(
    inputs: Inputs, planner: Planner, output: Output, assembler: PlanAssembler
) -> tuple[str, bool]:
    """Returns why the plan is not the model's alone, and whether it broke off."""
    call = _Call(planner, output, assembler, most=inputs.max_tasks)
    wanted = _wanted(inputs, 0, len(inputs.items))
    broke = await call.make(plan_prompt(inputs), attempt_pb2.CALL_PURPOSE_PLAN, wanted)
    if broke is None:
        return "", False
    open_ends = bool(assembler.unclaimed) or not assembler.tasks
    has_room = len(assembler.tasks) < inputs.max_tasks
    if not (broke.again and open_ends and has_room):
        return broke.reason, True
    standing = len(assembler.tasks)
    if standing:
        wanted = _wanted(inputs, standing, len(assembler.unclaimed))
    elif broke.cut_at >= wanted.most:
        return broke.reason, True  # the same words would be cut at the same place
    else:
        wanted = replace(wanted, least=min(wanted.most, max(wanted.least, 2 * broke.cut_at)))
    assembler.renumber()
    prompt = (
        tail_prompt(inputs, assembler.tasks, assembler.unclaimed)
        if standing
        else plan_prompt(inputs)
    )
    again = await call.make(prompt, attempt_pb2.CALL_PURPOSE_REASK, wanted)
    if again is None:
        return "", False
    return f"{broke.reason}; asked again: {again.reason}", True


class _Call:
    """Calls of the model whose plan is taken in, and sent on, while it is written."""

    def __init__(
        self, planner: Planner, output: Output, assembler: PlanAssembler, *, most: int
    ) -> None:
        self._planner = planner
        self._output = output
        self._assembler = assembler
        self._most = most

    async def make(
        self, prompt: Prompt, purpose: attempt_pb2.CallPurpose.ValueType, wanted: _Wanted
    ) -> _Break | None:
        """Makes a call; returns why its plan broke off, None when it was closed."""
        # Never full: the assembler takes one brief and `most` tasks, and the end is one.
        fragments: asyncio.Queue[analyst_pb2.PlanFragment | None] = asyncio.Queue(self._most + 2)

        def take(text: str) -> None:
            for closed in reader.feed(text):
                take_in = self._assembler.brief if closed.part == "brief" else self._assembler.task
                for fragment in take_in(closed.value):
                    fragments.put_nowait(fragment)

        with closing(PlanReader()) as reader:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(fragments))
                try:
                    return await self._complete(prompt, purpose, wanted, take, reader)
                finally:
                    fragments.put_nowait(None)

    async def _complete(
        self,
        prompt: Prompt,
        purpose: attempt_pb2.CallPurpose.ValueType,
        wanted: _Wanted,
        take: Callable[[str], None],
        reader: PlanReader,
    ) -> _Break | None:
        try:
            completion = await self._planner.complete(
                prompt,
                purpose=purpose,
                max_completion=wanted.most,
                min_completion=wanted.least,
                on_text=take,
                items=wanted.items,
            )
        except CallFailed as error:
            if reader.complete:
                return None
            again = error.failure_class in _WORTH_ASKING_AGAIN
            return _Break(f"the plan call failed: {error.message}", again)
        except AttemptStopped:
            return _Break("planning was stopped", again=False)
        if reader.complete:
            return None
        if self._output.stop.is_set():
            return _Break("planning was stopped", again=False)
        if completion.finish_reason == "length":
            cut_at = completion.max_tokens
            return _Break("the model's plan was cut off at its grant", again=True, cut_at=cut_at)
        return _Break("the model did not write a plan", again=True)

    async def _send(self, fragments: asyncio.Queue[analyst_pb2.PlanFragment | None]) -> None:
        try:
            while (fragment := await fragments.get()) is not None:
                await self._output.emit(fragment)
        except AttemptStopped:
            return  # nobody listens; the call learns of it from `stop`


def _wanted(inputs: Inputs, standing: int, items: int) -> _Wanted:
    return _Wanted(_completion(inputs, standing), completion_tokens(1, brief=not standing), items)


def _completion(inputs: Inputs, standing: int) -> int:
    """Completion tokens for the tasks still to be written: as many as items want."""
    wanted = len(inputs.items) or max(4, 2 * len(inputs.documents))
    tasks = min(inputs.max_tasks, wanted) - standing
    ids = ID_TOKENS * len(inputs.items)
    return completion_tokens(tasks, brief=not standing) + ids
