"""Merges results by item, without a model: one answer each, and why one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hma.v1 import common_pb2, reducer_pb2, task_pb2

_FOLDS_IN = (common_pb2.TASK_KIND_SUMMARIZE, common_pb2.TASK_KIND_WRITE)


@dataclass(frozen=True, slots=True)
class Entry:
    """An item of the job and the best answer to it.

    Attributes:
        item: The item.
        answer: The answer; None when there is none.
        missing: Why no model answered it; also set when an extract stands in.
    """

    item: task_pb2.Item
    answer: task_pb2.ItemAnswer | None = None
    missing: task_pb2.Missing | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What a task without items came to.

    Attributes:
        task: The task.
        answers: Its answers.
        result: All that it produced.
        missing: Why it is not whole.
        folded: Its result went into a later text, which stands for it.
    """

    task: task_pb2.Task
    answers: tuple[task_pb2.ItemAnswer, ...] = ()
    result: task_pb2.TaskResult | None = None
    missing: tuple[task_pb2.Missing, ...] = ()
    folded: bool = False

    @property
    def empty(self) -> bool:
        """Whether it has nothing to show."""
        return not self.answers and not (self.result and _has_more(self.result))


@dataclass(frozen=True, slots=True)
class Merged:
    """All results, in order.

    Attributes:
        entries: One for each item.
        parts: One for each task without items, in plan order.
        notes: Remarks of tasks with items: the task's title and the remark.
    """

    entries: tuple[Entry, ...] = ()
    parts: tuple[Part, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def answers(self) -> list[task_pb2.ItemAnswer]:
        """All answers: the items' first."""
        by_item = [entry.answer for entry in self.entries if entry.answer is not None]
        return by_item + [answer for part in self.parts for answer in part.answers]

    @property
    def missing(self) -> list[task_pb2.Missing]:
        """What no model answered, and why."""
        by_item = [entry.missing for entry in self.entries if entry.missing is not None]
        return by_item + [missing for part in self.parts for missing in part.missing]

    @property
    def unanswered(self) -> list[task_pb2.Item]:
        """What an extract could stand in for, with the words to look for."""
        items = [entry.item for entry in self.entries if entry.answer is None]
        for part in self.parts:
            if part.empty and part.task.kind not in _FOLDS_IN:
                text = part.task.instruction or part.task.title
                items.append(task_pb2.Item(item_id=part.task.id, text=text))
        return items

    @property
    def empty(self) -> bool:
        """Whether there is nothing at all to answer with."""
        return not self.answers and all(part.empty for part in self.parts)

    def with_extracts(self, extracts: Mapping[str, task_pb2.ItemAnswer]) -> Merged:
        """The same with extracts, by item id or task id, where an answer is missing."""
        entries = tuple(
            replace(entry, answer=extracts[entry.item.item_id])
            if entry.answer is None and entry.item.item_id in extracts
            else entry
            for entry in self.entries
        )
        parts = tuple(
            replace(part, answers=(extracts[part.task.id],))
            if part.empty and part.task.id in extracts
            else part
            for part in self.parts
        )
        return replace(self, entries=entries, parts=parts)


def merge(items: Iterable[task_pb2.Item], outcomes: Sequence[reducer_pb2.TaskOutcome]) -> Merged:
    """Merges what the tasks produced.

    Args:
        items: The items of the job, in the order they are answered in. Items that
            only a task knows (a client's own plan) follow, in plan order.
        outcomes: In plan order.
    """
    asked = {item.item_id: item for item in items}
    for outcome in outcomes:
        for item in outcome.task.items:
            asked.setdefault(item.item_id, item)
    entries = tuple(_entry(item, outcomes) for item in asked.values())
    shown = {outcome.task.id for outcome in outcomes if outcome.task.kind in _FOLDS_IN}
    parts = [
        part
        for part in (_part(outcome, asked) for outcome in outcomes if not outcome.task.items)
        # One that answered items of the job has shown what it has.
        if not part.empty or part.missing
    ]
    folded = {
        name
        for part in parts
        if part.task.id in shown and not part.empty
        for name in part.task.depends_on
    }
    notes = tuple(
        (outcome.task.title or outcome.task.id, outcome.result.notes.strip())
        for outcome in outcomes
        if outcome.task.items and outcome.result.notes.strip()
    )
    return Merged(
        entries=entries,
        parts=tuple(replace(part, folded=part.task.id in folded) for part in parts),
        notes=notes,
    )


def preference(answer: task_pb2.ItemAnswer) -> tuple[bool, float, bool]:
    """Sorts answers to the same item: grounded, then the surer, then a model's."""
    # 0 means that the probability is not known, not that it is 1.
    sure = answer.mean_logprob if answer.mean_logprob < 0 else float("-inf")
    return answer.grounded, sure, answer.origin != common_pb2.ORIGIN_EXTRACT


def _entry(item: task_pb2.Item, outcomes: Sequence[reducer_pb2.TaskOutcome]) -> Entry:
    answers = [
        answer
        for outcome in outcomes
        for answer in outcome.result.items
        if answer.item_id == item.item_id and answer.answer.strip()
    ]
    if answers:
        # max() keeps the first of equals: the earliest task's.
        return Entry(item, max(answers, key=preference))
    return Entry(item, missing=_why_missing(item.item_id, outcomes))


def _why_missing(item_id: str, outcomes: Sequence[reducer_pb2.TaskOutcome]) -> task_pb2.Missing:
    reason, failure_class = "No task has worked on it.", common_pb2.FAILURE_CLASS_CANCELLED
    for outcome in outcomes:
        for missing in outcome.result.missing:
            if missing.item_id == item_id:
                return missing
        if any(item.item_id == item_id for item in outcome.task.items):
            reason = outcome.failure.message or "Its task gave no answer to it."
            failure_class = outcome.failure.failure_class or common_pb2.FAILURE_CLASS_INVALID_OUTPUT
    return task_pb2.Missing(item_id=item_id, reason=reason, failure_class=failure_class)


def _part(outcome: reducer_pb2.TaskOutcome, asked: Mapping[str, task_pb2.Item]) -> Part:
    result = outcome.result
    answered = [answer for answer in result.items if answer.answer.strip()]
    own = tuple(answer for answer in answered if answer.item_id not in asked)
    missing = tuple(m for m in result.missing if m.item_id not in asked)
    if not missing and outcome.HasField("failure"):
        missing = (_lack(outcome, "The task is not whole."),)
    elif not missing and not answered and not _has_more(result):
        missing = (_lack(outcome, "The task produced nothing."),)
    return Part(outcome.task, own, result, missing)


def _lack(outcome: reducer_pb2.TaskOutcome, otherwise: str) -> task_pb2.Missing:
    failure = outcome.failure
    return task_pb2.Missing(
        item_id=outcome.task.id,
        reason=failure.message or otherwise,
        failure_class=failure.failure_class or common_pb2.FAILURE_CLASS_INVALID_OUTPUT,
    )


def _has_more(result: task_pb2.TaskResult) -> bool:
    return bool(result.notes.strip()) or bool(result.structured.fields)
