"""Makes the answer: merge, extracts, prose; from whatever is there, always."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from hma import stopping
from hma.v1 import attempt_pb2, common_pb2, reducer_pb2, task_pb2
from services.reducer.answer import make_answer
from services.reducer.extracts import Reader, find_extracts
from services.reducer.findings import findings_of
from services.reducer.merging import Entry, Merged, merge
from services.reducer.places import Places
from services.reducer.prose import Prose, Writer, write_prose
from services.reducer.rendering import EXTRACTED, render, render_missing

EXTRACT_SECONDS = 20.0
EXTRACT_SHARE = 0.5
"""Looking for extracts takes at most this part of the time left, and the seconds above."""
STOPPED_SECONDS = 1.0
"""And this long when the answer is wanted now."""

_BREAK = "\n\n"


class Control(Protocol):
    """The attempt (`hma.rpc.attempt.Attempt`)."""

    stop: asyncio.Event
    stop_reason: attempt_pb2.StopReason.ValueType

    def time_left(self) -> float:
        """Seconds until the attempt must have ended."""
        ...

    def progress(self, *, text: str = "", phase: str = "") -> None:
        """Says what is going on; text is the answer as it grows."""
        ...


class Reduction:
    """One answer in the making.

    Args:
        start: What to reduce.
        control: The attempt.
        reader: Reads documents, for extracts.
        writer: Makes calls; None when no model can be asked.
        context_tokens: What one call can hold.
    """

    def __init__(
        self,
        start: reducer_pb2.ReduceStart,
        control: Control,
        reader: Reader,
        writer: Writer | None,
        context_tokens: int,
    ) -> None:
        self._start = start
        self._control = control
        self._reader = reader
        self._writer = writer
        self._context_tokens = context_tokens
        self._places = Places(start.documents)
        self._said = False

    async def run(self) -> attempt_pb2.AttemptResult:
        """Makes the answer.

        Returns:
            SUCCEEDED when it was made as asked; PARTIAL with the merged answer when
            the prose failed, and when there was nothing to answer with.
        """
        self._control.progress(phase="merging")
        merged = await self._fill(merge(self._start.items, self._start.outcomes))
        if merged.empty:
            return self._nothing(merged)
        if self._start.mode == reducer_pb2.REDUCE_MODE_PROSE:
            prose = await self._write(merged)
            if prose.text and 2 * len(prose.lost) <= len(findings_of(merged, self._places)):
                return self._with_prose(merged, prose)
            return self._merged(merged, prose.failure or _lost(prose))
        return self._merged(merged, None)

    async def _fill(self, merged: Merged) -> Merged:
        unanswered = merged.unanswered
        cancelled = self._control.stop_reason in (
            attempt_pb2.STOP_REASON_CANCEL,
            attempt_pb2.STOP_REASON_FENCED,
        )
        if not unanswered or not self._start.documents or cancelled:
            return merged
        self._control.progress(phase="looking for extracts")
        stop = self._control.stop
        most = EXTRACT_SECONDS if not stop.is_set() else STOPPED_SECONDS
        looking = find_extracts(
            unanswered,
            self._start.documents,
            self._reader,
            job_id=self._start.attempt.ref.job_id,
            timeout=min(most, EXTRACT_SHARE * self._control.time_left()),
        )
        extracts = await (looking if stop.is_set() else stopping.unless(stop, looking))
        return merged if extracts is None else merged.with_extracts(extracts)

    async def _write(self, merged: Merged) -> Prose:
        if self._writer is None or self._control.stop.is_set():
            return Prose(
                failure=common_pb2.Failure(
                    failure_class=common_pb2.FAILURE_CLASS_CANCELLED
                    if self._writer is not None
                    else common_pb2.FAILURE_CLASS_INTERNAL,
                    message="There was no model, or no time, for prose.",
                )
            )
        return await write_prose(
            self._writer,
            self._start.brief,
            findings_of(merged, self._places),
            max_tokens=self._start.max_answer_tokens or _DEFAULT_ANSWER_TOKENS,
            context_tokens=self._context_tokens,
            on_text=self._stream,
        )

    def _with_prose(self, merged: Merged, prose: Prose) -> attempt_pb2.AttemptResult:
        """Prose, then by code what it lost, what was not read by a model, what is missing."""
        tail = list(self._after_prose(merged, prose))
        for block in tail:
            self._say(block)
        text = _BREAK.join([prose.text, *tail])
        return self._result(merged, text, common_pb2.ORIGIN_MODEL, prose.failure)

    def _after_prose(self, merged: Merged, prose: Prose) -> list[str]:
        lost = Merged(
            entries=tuple(e for e in merged.entries if e.answer and e.item.item_id in prose.lost),
            parts=tuple(replace(p, missing=()) for p in merged.parts if p.task.id in prose.lost),
        )
        blocks = list(render(_without_reasons(lost), self._places))
        if blocks:
            blocks.insert(0, "**Also found**")
        extracted = [
            f"[{answer.item_id}]"
            for answer in merged.answers
            if answer.origin == common_pb2.ORIGIN_EXTRACT and answer.item_id not in prose.lost
        ]
        if extracted:
            blocks.append(f"*{EXTRACTED}: {', '.join(extracted)}.*")
        return [*blocks, *render_missing(merged)]

    def _merged(
        self, merged: Merged, failure: common_pb2.Failure | None
    ) -> attempt_pb2.AttemptResult:
        blocks = list(render(merged, self._places))
        if self._said:
            self._say("---")
        for block in blocks:
            self._say(block)
        return self._result(merged, _BREAK.join(blocks), common_pb2.ORIGIN_MERGE, failure)

    def _nothing(self, merged: Merged) -> attempt_pb2.AttemptResult:
        """No text, so that nobody takes an excuse for an answer; but the reasons."""
        first = next(iter(merged.missing), task_pb2.Missing(reason="There are no results."))
        failure = common_pb2.Failure(
            failure_class=first.failure_class or common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
            message=f"There is nothing to answer with: {first.reason}",
        )
        return self._result(merged, "", common_pb2.ORIGIN_MERGE, failure)

    def _result(
        self,
        merged: Merged,
        text: str,
        origin: common_pb2.Origin.ValueType,
        failure: common_pb2.Failure | None,
    ) -> attempt_pb2.AttemptResult:
        whole = failure is None
        return attempt_pb2.AttemptResult(
            state=(
                attempt_pb2.ATTEMPT_STATE_SUCCEEDED if whole else attempt_pb2.ATTEMPT_STATE_PARTIAL
            ),
            failure=failure,
            answer=make_answer(merged, self._start.outcomes, self._places, text, origin),
        )

    def _stream(self, text: str) -> None:
        self._said = True
        self._control.progress(text=text)

    def _say(self, block: str) -> None:
        self._stream(_BREAK + block if self._said else block)


_DEFAULT_ANSWER_TOKENS = 512


def _without_reasons(merged: Merged) -> Merged:
    entries = tuple(Entry(entry.item, entry.answer) for entry in merged.entries)
    return replace(merged, entries=entries)


def _lost(prose: Prose) -> common_pb2.Failure:
    return common_pb2.Failure(
        failure_class=common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
        message=f"The prose left out {len(prose.lost)} findings; the merged answer stands.",
    )
