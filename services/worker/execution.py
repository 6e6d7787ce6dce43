"""Executes one task: read, ask, check, ask again for what is missing, conclude.

Whatever happens on the way, the attempt ends with what there is: answers that closed,
extracts for what no model answered, and a reason for everything that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from hma.errors import CallFailed
from hma.llm.budgeted import BudgetedLLM
from hma.rpc.attempt import Attempt, AttemptStopped
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from services.worker.asking import Asked, Asker, Purpose
from services.worker.grounding import extract, ground
from services.worker.plain import plain_answer
from services.worker.reading import Source
from services.worker.recover import clean
from services.worker.schemas import Size, call_size, is_prose
from services.worker.sheet import Sheet
from services.worker.structured import (
    Draft,
    read_drafts,
    read_output,
    schema_fault,
    whole_sentences,
)
from services.worker.tools import MAX_ROUNDS, TOOLS, Toolbox, unknown_tools

_INVALID = common_pb2.FAILURE_CLASS_INVALID_OUTPUT
_STOPPED = common_pb2.Failure(failure_class=common_pb2.FAILURE_CLASS_CANCELLED)
"""The session says in words why: it knows the reason of the stop."""

_LEFT_OUT = ("it left these items out, or was not the JSON object asked for",)

_OF_ONE_CALL = (
    common_pb2.FAILURE_CLASS_REFUSED,
    common_pb2.FAILURE_CLASS_CONTEXT_OVERFLOW,
    common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
)
"""What one call fails of, the next one may not."""


class Execution:
    """One attempt at one task.

    Args:
        start: What to do.
        attempt: Grants, progress, stop.
        source: What it reads.
        llm: Makes calls within grants.
    """

    def __init__(
        self,
        start: worker_pb2.ExecuteStart,
        attempt: Attempt,
        source: Source,
        llm: BudgetedLLM,
    ) -> None:
        self._start = start
        self._task = start.task
        self._attempt = attempt
        self._source = source
        self._profile = llm.route.profile
        self._plain = self._profile.answer_style == "plain"
        self._sheet = Sheet(items_of(start.task), start.done)
        self._asker = Asker(start, attempt, source, llm)

    async def run(self) -> attempt_pb2.AttemptResult:
        """The attempt, to its last word."""
        failure = None
        try:
            await self._work()
        except AttemptStopped:
            failure = _STOPPED
        except CallFailed as error:
            failure = _failure_of(error)
        if failure is not None:
            reason = failure.message or "The attempt was stopped before this item."
            ids = [item.item_id for item in self._sheet.open if not self._was_read(item)]
            self._sheet.explain(ids, reason, failure.failure_class)
        if failure is not None and failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET:
            await self._extract_rest()
        return self._sheet.conclude(failure)

    async def _work(self) -> None:
        if not self._sheet.open:
            return
        await self._use_tools()
        if self._task.output_schema:
            await self._fill_own_schema()
            return
        for batch in self._batches(self._sheet.open):
            await self._answer(batch, attempt_pb2.CALL_PURPOSE_WORK)
        await self._ask_again()
        await self._extract_rest()

    async def _ask_again(self) -> None:
        """Asks for missing ids only; every call is one re-ask of the job's pool."""
        # In plain text it would be the same prompt, and at temperature 0 the same answer.
        left = 0 if self._plain else self._start.max_reasks
        while left > 0:
            again = [item for item in self._sheet.open if self._worth_asking_again(item)]
            if not again:
                return
            for batch in list(self._batches(again))[:left]:
                await self._answer(batch, attempt_pb2.CALL_PURPOSE_REASK)
                left -= 1

    def _worth_asking_again(self, item: task_pb2.Item) -> bool:
        """A broken or missing output may go better; "not in the material" will not."""
        reason = self._sheet.reason(item.item_id)
        return reason is not None and reason[1] == _INVALID

    def _was_read(self, item: task_pb2.Item) -> bool:
        """Whether a model has looked for the item and said that it is not there."""
        reason = self._sheet.reason(item.item_id)
        return reason is not None and reason[1] == common_pb2.FAILURE_CLASS_REFUSED

    def _batches(self, items: Sequence[task_pb2.Item]) -> Iterator[Sequence[task_pb2.Item]]:
        # Plain answers have no ids, so they cannot be told apart.
        size = 1 if self._plain else max(self._profile.max_batch, 1)
        for first in range(0, len(items), size):
            yield items[first : first + size]

    # ---- answers by item

    async def _answer(self, items: Sequence[task_pb2.Item], purpose: Purpose) -> None:
        """One call about some items; its answers go onto the sheet."""
        size = call_size(self._task, self._profile, len(items), len(self._sheet.items))
        try:
            if self._plain:
                asked = await self._asker.plainly(items[0], size, purpose)
                await self._take_text(items[0], asked)
            else:
                again = purpose == attempt_pb2.CALL_PURPOSE_REASK
                asked = await self._asker.items(items, size, purpose, _LEFT_OUT if again else ())
                self._take_items(items, asked)
            if asked.cut_by is not None:
                raise asked.cut_by
        except CallFailed as error:
            if error.failure_class not in _OF_ONE_CALL:
                raise
            open_ids = set(_ids(self._sheet.open))
            ids = [item_id for item_id in _ids(items) if item_id in open_ids]
            self._sheet.explain(ids, error.message, error.failure_class)

    def _take_items(self, items: Sequence[task_pb2.Item], asked: Asked) -> None:
        drafts = read_drafts(asked.text, _ids(items), prose=is_prose(self._task))
        self._sheet.explain(_ids(items), "The output did not hold an answer to it.", _INVALID)
        for draft in drafts.items:
            if draft.answer:
                self._sheet.put(ground(draft, asked.excerpts, asked.logprob))
            else:
                self._sheet.explain(
                    [draft.item_id],
                    "The material does not hold an answer.",
                    common_pb2.FAILURE_CLASS_REFUSED,
                )
            if draft.cut:
                self._sheet.note(f"{draft.item_id} is cut off.")
        self._sheet.note(drafts.notes)

    async def _take_text(self, item: task_pb2.Item, asked: Asked) -> None:
        prose = is_prose(self._task)
        if not prose:
            # Half a name is a wrong answer; a line that ran too long is judged below.
            answer = plain_answer(asked.text) if asked.cut_by is None else ""
        elif asked.whole:
            answer = clean(asked.text)
        else:
            answer = whole_sentences(asked.text)
            self._sheet.note(f"{item.item_id} is cut off.")
        if not answer:
            self._sheet.explain([item.item_id], "The model gave no answer.", _INVALID)
            return
        given = ground(Draft(item.item_id, answer), asked.excerpts, asked.logprob)
        if not prose and asked.excerpts and not given.grounded:
            # A small model's words that do not stand in the source are worth less than the
            # source's own. They are as good as it gets: the model has read it.
            found = await extract(item, self._source)
            if found is not None:
                found.mean_logprob = asked.logprob
                given = found
        self._sheet.put(given)

    # ---- tools, schemas of the task's own, extracts

    async def _use_tools(self) -> None:
        """Lets the model find things out, for a few rounds."""
        unknown = unknown_tools(self._task.tools)
        if unknown:
            raise CallFailed(
                f"This Worker has no tool {', '.join(unknown)}; it has {', '.join(TOOLS)}.",
                common_pb2.FAILURE_CLASS_INTERNAL,
            )
        if not self._task.tools:
            return
        if not self._profile.tools:
            self._sheet.note("The route's model cannot use tools.")
            return
        toolbox = Toolbox(self._source, self._task.tools)
        for _ in range(MAX_ROUNDS):
            try:
                asked = await self._asker.tools(self._sheet.open)
            except CallFailed as error:
                if error.failure_class != common_pb2.FAILURE_CLASS_BUDGET:
                    raise
                self._sheet.note("No tokens were left for another round of tools.")
                return
            if asked.cut_by is not None:
                raise asked.cut_by
            if not asked.tool_calls:
                return
            names = ", ".join(call.name for call in asked.tool_calls[:3])
            self._attempt.progress(phase=f"tool: {names[:80]}")
            self._asker.findings.extend(await toolbox.run(asked.tool_calls))

    async def _fill_own_schema(self) -> None:
        """One object in the task's own schema, asked for again when it breaks it."""
        schema = _own_schema(self._task)
        items = self._sheet.items
        usual = call_size(self._task, self._profile, len(items), len(items)).most
        most = self._task.max_result_tokens or usual
        size = Size(most, max(most // 2, 1))
        purpose = attempt_pb2.CALL_PURPOSE_WORK
        faults: tuple[str, ...] = ()
        for _ in range(1 + self._start.max_reasks):
            asked = await self._asker.object(items, size, purpose, schema, faults)
            output = read_output(asked.text, schema)
            if output.value is not None:
                self._sheet.put_structured(output.value)
                if not output.faults:
                    text = json.dumps(output.value, ensure_ascii=False)
                    for item in self._sheet.open:
                        draft = Draft(item.item_id, text)
                        self._sheet.put(ground(draft, asked.excerpts, asked.logprob))
                    return
            faults = output.faults
            reason = "The output breaks its schema: " + "; ".join(faults)
            self._sheet.explain(_ids(items), reason, _INVALID)
            if asked.cut_by is not None:
                raise asked.cut_by
            purpose = attempt_pb2.CALL_PURPOSE_REASK

    async def _extract_rest(self) -> None:
        """Extracts for look-ups without an answer; they cost no token and say what they are."""
        if is_prose(self._task) or self._task.output_schema or not self._source.sections:
            return
        for item in self._sheet.open:
            if self._was_read(item):
                continue
            found = await extract(item, self._source)
            if found is not None:
                self._sheet.put_extract(found)


def items_of(task: task_pb2.Task) -> list[task_pb2.Item]:
    """The task's items; the instruction is the only one when it has none."""
    return list(task.items) or [task_pb2.Item(item_id=task.id, text=task.instruction)]


def _own_schema(task: task_pb2.Task) -> dict[str, Any]:
    try:
        schema = json.loads(task.output_schema)
    except (ValueError, RecursionError):
        schema = None
    fault = schema_fault(schema)
    if fault is not None:
        raise CallFailed(f"The task's output_schema cannot be used: {fault}.", _INVALID)
    own: dict[str, Any] = schema
    return own


def _failure_of(error: CallFailed) -> common_pb2.Failure:
    failure = common_pb2.Failure(
        failure_class=error.failure_class, message=error.message, role=common_pb2.ROLE_WORKER
    )
    if error.retry_after is not None:
        failure.retry_after.FromMilliseconds(int(error.retry_after * 1000))
    return failure


def _ids(items: Sequence[task_pb2.Item]) -> list[str]:
    return [item.item_id for item in items]
