"""Makes a valid plan of whatever a model says: every prefix of it can be acted on.

Ids are positions, so the model cannot invent or repeat one; `after` names earlier
positions only, so there are no cycles; the first task to claim an item owns it; what
no task claimed gets structural tasks at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hma.v1 import analyst_pb2, attempt_pb2, common_pb2, task_pb2
from services.analyst.brief import brief_by_code, brief_of_model
from services.analyst.complexity import complexity_of, kind_of
from services.analyst.inputs import Inputs
from services.analyst.structural import (
    result_tokens,
    task_id,
    tasks_for_documents,
    tasks_for_items,
)
from services.analyst.wording import MAX_INSTRUCTION, MAX_TITLE, line

_MODEL = attempt_pb2.PLAN_SOURCE_MODEL
_STRUCTURAL = attempt_pb2.PLAN_SOURCE_STRUCTURAL
_SIZES = {
    "low": common_pb2.COMPLEXITY_LOW,
    "medium": common_pb2.COMPLEXITY_MEDIUM,
    "high": common_pb2.COMPLEXITY_HIGH,
}
_KINDS = {
    "answer": common_pb2.TASK_KIND_ANSWER,
    "extract": common_pb2.TASK_KIND_EXTRACT,
    "summarize": common_pb2.TASK_KIND_SUMMARIZE,
    "write": common_pb2.TASK_KIND_WRITE,
}
_PROSE = (common_pb2.TASK_KIND_SUMMARIZE, common_pb2.TASK_KIND_WRITE)


class PlanAssembler:
    """Turns raw briefs and tasks into fragments of one plan.

    Attributes:
        tasks: The tasks so far, in order.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.tasks: list[task_pb2.Task] = []
        self._inputs = inputs
        self._index = 0
        self._briefed = False
        self._sources: set[attempt_pb2.PlanSource.ValueType] = set()
        self._owners: dict[str, str] = {}
        # Where the model's positions ended up; None when a task was not taken.
        self._positions: list[str | None] = []

    @property
    def unclaimed(self) -> list[task_pb2.Item]:
        """Items that no task covers yet, in order."""
        return [item for item in self._inputs.items if item.item_id not in self._owners]

    @property
    def source(self) -> attempt_pb2.PlanSource.ValueType:
        """Who made the tasks so far."""
        if len(self._sources) > 1:
            return attempt_pb2.PLAN_SOURCE_MIXED
        return next(iter(self._sources), _STRUCTURAL)

    def brief(self, raw: Mapping[str, Any]) -> Iterator[analyst_pb2.PlanFragment]:
        """Takes the model's brief; the first one counts."""
        if not self._briefed:
            yield self._brief(brief_of_model(raw, self._inputs))

    def task(self, raw: Mapping[str, Any]) -> Iterator[analyst_pb2.PlanFragment]:
        """Takes a task of the model, as far as it makes sense; else yields nothing."""
        task = self._read(raw)
        self._positions.append(task.id if task is not None else None)
        if task is not None:
            yield from self._lead_in()
            yield self._append(task, _MODEL)

    def renumber(self) -> None:
        """From now on the model's positions begin after the tasks that stand."""
        self._positions = [task.id for task in self.tasks]

    def complete(self, *, broken: bool) -> Iterator[analyst_pb2.PlanFragment]:
        """Covers what no task claims, and sees that there is a task at all.

        Args:
            broken: The model's plan broke off. Without items, documents that no task
                reads are covered then; a plan that was closed has left them out on
                purpose.
        """
        yield from self._lead_in()
        first, room = len(self.tasks) + 1, self._inputs.max_tasks - len(self.tasks)
        if unclaimed := self.unclaimed:
            rest = tasks_for_items(
                self._inputs, unclaimed, first=first, limit=max(1, room), owners=self._owners
            )
        elif not self.tasks or (broken and room > 0 and not self._inputs.items):
            claimed = self._claimed_documents()
            rest = (
                tasks_for_documents(self._inputs, first=first, limit=room, claimed=claimed)
                if claimed is not None
                else []
            )
        else:
            rest = []
        for task in rest:
            yield self._append(task, _STRUCTURAL)

    def _lead_in(self) -> Iterator[analyst_pb2.PlanFragment]:
        if not self._briefed:
            yield self._brief(brief_by_code(self._inputs))

    def _brief(self, brief: task_pb2.Brief) -> analyst_pb2.PlanFragment:
        self._briefed = True
        self._index += 1
        by_model = brief.origin == common_pb2.ORIGIN_MODEL
        return analyst_pb2.PlanFragment(
            index=self._index, brief=brief, source=_MODEL if by_model else _STRUCTURAL
        )

    def _append(
        self, task: task_pb2.Task, source: attempt_pb2.PlanSource.ValueType
    ) -> analyst_pb2.PlanFragment:
        self.tasks.append(task)
        self._owners.update((item.item_id, task.id) for item in task.items)
        self._sources.add(source)
        self._index += 1
        return analyst_pb2.PlanFragment(index=self._index, task=task, source=source)

    def _read(self, raw: Mapping[str, Any]) -> task_pb2.Task | None:
        named = _texts(raw.get("items"))
        items = [item for item in self.unclaimed if item.item_id in named]
        kind = _choice(_KINDS, raw.get("kind"))
        do = line(raw.get("do"), MAX_INSTRUCTION)
        if kind is None:
            kind = kind_of(do) if not items else common_pb2.TASK_KIND_ANSWER
        # Its items are somebody else's: it would do the same work again. Prose over
        # them is other work.
        repeats = bool(named) and not items and kind not in _PROSE
        if repeats or not (do or items) or not self._has_room(len(items)):
            return None
        do = do or "Answer the items."
        title = line(items[0].text, MAX_TITLE) if len(items) == 1 else line(do, MAX_TITLE)
        size = _choice(_SIZES, raw.get("size"))
        return task_pb2.Task(
            id=task_id(len(self.tasks) + 1),
            title=title,
            instruction=do,
            complexity=complexity_of(do) if size is None else size,
            depends_on=self._earlier(raw.get("after")),
            documents=self._documents(raw.get("in")),
            kind=kind,
            items=items,
            max_result_tokens=result_tokens(self._inputs, len(items), kind),
        )

    def _has_room(self, items: int) -> bool:
        """Whether a task fits, with one left for items that nobody claims."""
        rest = len(self.unclaimed) > items
        return len(self.tasks) + 1 + rest <= self._inputs.max_tasks

    def _earlier(self, after: object) -> list[str]:
        found: dict[str, None] = {}
        for position in after if isinstance(after, list) else ():
            # type(), because True is an int to isinstance.
            if type(position) is int and 1 <= position <= len(self._positions):
                task = self._positions[position - 1]
                if task is not None:
                    found[task] = None
        return list(found)

    def _documents(self, names: object) -> list[str]:
        """Known ids, in the model's order; [] (all) when every document is named."""
        known = [name for name in _texts(names) if name in self._inputs.readable]
        whole = {d.document_id for d in self._inputs.documents} & set(known)
        if len(whole) == len(self._inputs.documents):
            return []
        return [name for name in known if name in whole or name.partition("#")[0] not in whole]

    def _claimed_documents(self) -> frozenset[str] | None:
        """What the tasks read; None when one of them reads everything."""
        if any(not task.documents for task in self.tasks):
            return None
        return frozenset(name for task in self.tasks for name in task.documents)


def _texts(values: object) -> dict[str, None]:
    """The texts of a list, in order, once each; nothing when it is no list."""
    entries = values if isinstance(values, list) else []
    return dict.fromkeys(entry for entry in entries if isinstance(entry, str))


def _choice(table: Mapping[str, Any], value: object) -> Any:
    return table.get(value.lower()) if isinstance(value, str) else None
