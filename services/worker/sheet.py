"""The answer sheet of one attempt: which items have an answer, and why others have none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hma.errors import FailureClass
from hma.v1 import attempt_pb2, common_pb2, task_pb2

_MAX_NOTES = 2_000


class Sheet:
    """Collects answers; the first answer to an item stands.

    Args:
        items: The task's items, in order.
        done: What an earlier attempt brought. Its answers are not done again; extracts that
            no model has looked at only stand in until there is something better.
    """

    def __init__(
        self, items: Sequence[task_pb2.Item], done: Iterable[task_pb2.ItemAnswer] = ()
    ) -> None:
        self.items = tuple(items)
        self._answers: dict[str, task_pb2.ItemAnswer] = {}
        self._reasons: dict[str, tuple[str, FailureClass.ValueType]] = {}
        self._unread: set[str] = set()
        self._notes: list[str] = []
        self._structured: dict[str, Any] | None = None
        self._standing_in: list[task_pb2.ItemAnswer] = []
        for answer in done:
            if is_unread(answer):
                self._standing_in.append(answer)
            else:
                self.put(answer)

    @property
    def open(self) -> tuple[task_pb2.Item, ...]:
        """The items without an answer, in order."""
        return tuple(item for item in self.items if item.item_id not in self._answers)

    def put(self, answer: task_pb2.ItemAnswer) -> None:
        """Enters an answer that stands for what was asked."""
        if any(item.item_id == answer.item_id for item in self.items):
            self._answers.setdefault(answer.item_id, answer)

    def put_extract(self, answer: task_pb2.ItemAnswer) -> None:
        """Enters a makeshift: the item counts as not done by a model."""
        if answer.item_id not in self._answers:
            self.put(answer)
            self._unread.add(answer.item_id)

    def put_structured(self, value: dict[str, Any]) -> None:
        """Enters the output in the task's own schema."""
        self._structured = value

    def note(self, text: str) -> None:
        """Adds a remark."""
        if text and text not in self._notes:
            self._notes.append(text)

    def explain(self, item_ids: Iterable[str], reason: str, why: FailureClass.ValueType) -> None:
        """Says why items have no answer so far; a later reason replaces an earlier one."""
        for item_id in item_ids:
            self._reasons[item_id] = (reason, why)

    def reason(self, item_id: str) -> tuple[str, FailureClass.ValueType] | None:
        """Why an item has no answer so far; None when nothing was said."""
        return self._reasons.get(item_id)

    def result(self) -> task_pb2.TaskResult:
        """What the task produced, whole or in part."""
        result = task_pb2.TaskResult(
            items=[
                self._answers[item.item_id] for item in self.items if item.item_id in self._answers
            ],
            notes=" ".join(self._notes)[:_MAX_NOTES],
            missing=[self._missing(item) for item in self.open],
        )
        if self._structured is not None:
            result.structured.update(self._structured)
        return result

    def conclude(self, failure: common_pb2.Failure | None) -> attempt_pb2.AttemptResult:
        """The attempt's last word.

        SUCCEEDED when every item was done. PARTIAL when some were, or when the money or the
        time for them ran out and extracts stand in. FAILED when nothing was done; extracts
        that there are come along, for the case that there is no other attempt.

        Args:
            failure: Why the attempt ended early; None when it went through.
        """
        for answer in self._standing_in:
            self.put_extract(answer)
        unfinished = [*self.open, *(i for i in self.items if i.item_id in self._unread)]
        result = self.result()
        if not unfinished and failure is None:
            return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, task=result)
        failure = failure or self._failure(unfinished)
        done = len(self.items) > len(unfinished)
        ended = failure.failure_class in _ENDED_EARLY
        partial = done or (ended and bool(result.items)) or self._structured is not None
        outcome = attempt_pb2.AttemptResult(
            state=(
                attempt_pb2.ATTEMPT_STATE_PARTIAL if partial else attempt_pb2.ATTEMPT_STATE_FAILED
            ),
            failure=failure,
        )
        if result.items or self._structured is not None or result.missing:
            outcome.task.CopyFrom(result)
        return outcome

    def _missing(self, item: task_pb2.Item) -> task_pb2.Missing:
        reason, why = self._reasons.get(
            item.item_id, ("The attempt ended before this item.", common_pb2.FAILURE_CLASS_INTERNAL)
        )
        return task_pb2.Missing(item_id=item.item_id, reason=reason, failure_class=why)

    def _failure(self, unfinished: Sequence[task_pb2.Item]) -> common_pb2.Failure:
        """The first item's reason speaks for all."""
        reasons = [self._reasons[i.item_id] for i in unfinished if i.item_id in self._reasons]
        reason, why = reasons[0] if reasons else ("No answer.", common_pb2.FAILURE_CLASS_INTERNAL)
        return common_pb2.Failure(
            failure_class=why,
            message=f"{len(unfinished)} of {len(self.items)} items not done. {reason}",
            role=common_pb2.ROLE_WORKER,
        )


def is_unread(answer: task_pb2.ItemAnswer) -> bool:
    """Whether an answer was copied for want of a model; with one, its call is measured."""
    return answer.origin == common_pb2.ORIGIN_EXTRACT and answer.mean_logprob == 0


_ENDED_EARLY = (
    common_pb2.FAILURE_CLASS_BUDGET,
    common_pb2.FAILURE_CLASS_CANCELLED,
    common_pb2.FAILURE_CLASS_TIMEOUT,
)
