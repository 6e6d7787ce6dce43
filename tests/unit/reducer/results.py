"""Results to reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hma.text.outline import outline
from hma.v1 import common_pb2, reducer_pb2, task_pb2

HANDBOOK = "# Opening\n\nThe shop opens at nine.\n\n# Prices\n\nA ticket costs ten euros.\n"
DOCUMENT = outline("d1", "handbook.md", "text/markdown", HANDBOOK)


def item(item_id: str, text: str = "") -> task_pb2.Item:
    return task_pb2.Item(item_id=item_id, text=text or f"What is {item_id}?")


def answer(item_id: str, text: str, **more: Any) -> task_pb2.ItemAnswer:
    values = {"origin": common_pb2.ORIGIN_MODEL, **more}
    return task_pb2.ItemAnswer(item_id=item_id, answer=text, **values)


def outcome(
    task_id: str,
    answers: Sequence[task_pb2.ItemAnswer] = (),
    *,
    items: Sequence[str] = (),
    kind: common_pb2.TaskKind.ValueType = common_pb2.TASK_KIND_ANSWER,
    failure: str = "",
    missing: Sequence[task_pb2.Missing] = (),
    notes: str = "",
    depends_on: Sequence[str] = (),
    title: str = "",
    instruction: str = "Do it.",
) -> reducer_pb2.TaskOutcome:
    return reducer_pb2.TaskOutcome(
        task=task_pb2.Task(
            id=task_id,
            title=title or f"Task {task_id}",
            instruction=instruction,
            kind=kind,
            items=[item(name) for name in items],
            depends_on=depends_on,
        ),
        result=task_pb2.TaskResult(items=answers, notes=notes, missing=missing),
        failure=(
            common_pb2.Failure(failure_class=common_pb2.FAILURE_CLASS_TIMEOUT, message=failure)
            if failure
            else None
        ),
    )
