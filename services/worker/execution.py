"""Executes one task: read, ask, check, ask again for what is missing, conclude.

Whatever happens on the way, the attempt ends with what there is: answers that closed,
extracts for what no model answered, and a reason for everything that is missing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hma.errors import CallFailed, FailureClass
from hma.llm.budgeted import BudgetedLLM
from hma.rpc.attempt import Attempt, AttemptStopped
from hma.v1 import attempt_pb2, common_pb2, task_pb2, worker_pb2
from services.worker.asking import Asked, Asker, Purpose
from services.worker.cuts import Cuts
from services.worker.grounding import extract, ground
from services.worker.plain import plain_answer
from services.worker.reading import Source
from services.worker.recover import clean
from services.worker.schemas import Size, call_size, is_prose, longest_answer
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
        self._asker = Asker(start, attempt, source, llm, self._sheet.note)
        self._cuts = Cuts(plain=self._plain)
        self._cut_short: list[str] = []

    async def run(self) -> attempt_pb2.AttemptResult:
        """The attempt, to its last word."""
        failure = None
        try:
            await self._work()
        except AttemptStopped:
            failure = _STOPPED
            self._explain_rest(*self._why_stopped())
        except CallFailed as error:
            failure = _failure_of(error)
            self._explain_rest(error.message, error.failure_class)
        if failure is not None and failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET:
            with contextlib.suppress(AttemptStopped):
                await self._extract_rest()
        return self._sheet.conclude(failure or self._of_cut_texts())

    def _explain_rest(self, reason: str, why: FailureClass.ValueType) -> None:
        ids = [item.item_id for item in self._sheet.open if not self._was_read(item)]
        self._sheet.explain(ids, reason, why)

    def _why_stopped(self) -> tuple[str, FailureClass.ValueType]:
        if self._attempt.stop_reason == attempt_pb2.STOP_REASON_TIMEOUT:
            return "The attempt's time was up before this item.", common_pb2.FAILURE_CLASS_TIMEOUT
        return "The attempt was stopped before this item.", common_pb2.FAILURE_CLASS_CANCELLED

    def _of_cut_texts(self) -> common_pb2.Failure | None:
        """Texts that a grant smaller than asked has cut are not all that was asked."""
        if not self._cut_short:
            return None
        return common_pb2.Failure(
            failure_class=common_pb2.FAILURE_CLASS_BUDGET,
            message=f"The tokens granted cut off: {', '.join(self._cut_short)}.",
            role=common_pb2.ROLE_WORKER,
        )

    async def _work(self) -> None:
        if not self._sheet.open:
            return
        if self._attempt.stop.is_set():
            raise AttemptStopped(self._attempt.stop_reason)
        await self._use_tools()
        if self._task.output_schema:
            await self._fill_own_schema()
            return
        await self._answer_all(self._sheet.open, attempt_pb2.CALL_PURPOSE_WORK)
        await self._ask_again()
        await self._extract_rest()

    async def _ask_again(self) -> None:
        """Asks for missing ids only; every call is one re-ask of the job's pool."""
        left = self._start.max_reasks
        while left > 0:
            again = [item for item in self._sheet.open if self._worth_asking_again(item)]
            if not again:
                return
            left -= await self._answer_all(again, attempt_pb2.CALL_PURPOSE_REASK, left)

    def _worth_asking_again(self, item: task_pb2.Item) -> bool:
        """A broken or missing output may go better; "not in the material" will not."""
        reason = self._sheet.reason(item.item_id)
        if reason is None or reason[1] != _INVALID:
            return False
        return self._cuts.may_go_better(item.item_id, self._size([item]).most)

    def _size(self, items: Sequence[task_pb2.Item]) -> Size:
        usual = call_size(self._task, self._profile, len(items), len(self._sheet.items))
        limit = self._task.max_result_tokens * len(items) // len(self._sheet.items)
        return self._cuts.size(_ids(items), usual, limit)

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

    async def _answer_all(
        self, items: Sequence[task_pb2.Item], purpose: Purpose, most: int | None = None
    ) -> int:
        """Asks for items in batches, `most` of them; says how many were asked."""
        batches = list(self._batches(items))[:most]
        for number, batch in enumerate(batches, 1):
            await self._answer(batch, purpose, calls_left=len(batches) - number)
        return len(batches)

    async def _answer(
        self, items: Sequence[task_pb2.Item], purpose: Purpose, *, calls_left: int
    ) -> None:
        """One call about some items; its answers go onto the sheet."""
        size = self._size(items)
        try:
            if self._plain:
                asked = await self._asker.plainly(items[0], size, purpose, calls_left=calls_left)
                await self._take_text(items[0], asked, size)
            else:
                again = purpose == attempt_pb2.CALL_PURPOSE_REASK
                faults = _LEFT_OUT if again else ()
                asked = await self._asker.items(items, size, purpose, faults, calls_left=calls_left)
                self._take_items(items, asked, size)
            if asked.cut_by is not None:
                raise asked.cut_by
        except CallFailed as error:
            if error.failure_class not in _OF_ONE_CALL:
                raise
            self._sheet.explain(self._open_of(items), error.message, error.failure_class)

    def _open_of(self, items: Sequence[task_pb2.Item]) -> list[str]:
        open_ids = set(_ids(self._sheet.open))
        return [item_id for item_id in _ids(items) if item_id in open_ids]

    def _take_items(self, items: Sequence[task_pb2.Item], asked: Asked, size: Size) -> None:
        drafts = read_drafts(
            asked.text, _ids(items), prose=is_prose(self._task), longest=longest_answer(size)
        )
        reason = "The output did not hold an answer to it."
        if asked.cut_at:
            reason = f"The output was cut off at {asked.cut_at} tokens, before an answer to it."
        self._sheet.explain(_ids(items), reason, _INVALID)
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
                self._note_cut(draft.item_id, asked, size)
        self._cuts.record(self._open_of(items), len(items), asked.cut_at, size)
        self._sheet.note(drafts.notes)

    def _note_cut(self, item_id: str, asked: Asked, size: Size) -> None:
        self._sheet.note(f"{item_id} is cut off.")
        if 0 < asked.cut_at < size.most:
            self._cut_short.append(item_id)

    async def _take_text(self, item: task_pb2.Item, asked: Asked, size: Size) -> None:
        prose = is_prose(self._task)
        reason = "The model gave no answer."
        if not prose:
            # Half a name is a wrong answer. A line that ran beyond the full size is judged
            # below; cut before that, it may still become an answer.
            clamped = 0 < asked.cut_at < size.most
            answer = plain_answer(asked.text) if asked.cut_by is None and not clamped else ""
            if clamped:
                reason = f"The answer was cut off at {asked.cut_at} of {size.most} tokens."
            self._cuts.record([item.item_id], 1, asked.cut_at, size)
        elif asked.whole:
            answer = clean(asked.text)
        else:
            answer = whole_sentences(asked.text)
            if answer:
                self._note_cut(item.item_id, asked, size)
        if not answer:
            self._sheet.explain([item.item_id], reason, _INVALID)
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
        answers = 1 if self._task.output_schema else len(list(self._batches(self._sheet.open)))
        for rounds_left in reversed(range(MAX_ROUNDS)):
            try:
                calls_left = rounds_left + answers
                asked = await self._asker.tools(self._sheet.open, calls_left=calls_left)
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
            found = await self._attempt.unless_stopped(toolbox.run(asked.tool_calls))
            self._asker.findings.extend(found)

    async def _fill_own_schema(self) -> None:
        """One object in the task's own schema, asked for again when it breaks it."""
        schema = _own_schema(self._task)
        items = self._sheet.items
        most = self._task.max_result_tokens
        most = most or call_size(self._task, self._profile, len(items), len(items)).most
        size = usual = Size(most, max(most // 2, 1))
        ids = _ids(items)
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
            self._sheet.explain(ids, reason, _INVALID)
            if asked.cut_by is not None:
                raise asked.cut_by
            self._cuts.record(ids, len(ids), asked.cut_at, size)
            size = self._cuts.size(ids, usual, self._task.max_result_tokens)
            purpose = attempt_pb2.CALL_PURPOSE_REASK

    async def _extract_rest(self) -> None:
        """Extracts for look-ups without an answer; they cost no token and say what they are."""
        if is_prose(self._task) or self._task.output_schema or not self._source.sections:
            return
        unread = [item for item in self._sheet.open if not self._was_read(item)]
        await self._attempt.unless_stopped(self._extract(unread))

    async def _extract(self, items: Sequence[task_pb2.Item]) -> int:
        for item in items:
            found = await extract(item, self._source)
            if found is not None:
                self._sheet.put_extract(found)
        return len(items)


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
