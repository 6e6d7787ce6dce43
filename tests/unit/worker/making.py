"""Documents, tasks and sources for the Worker's unit tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hma.text.outline import outline
from hma.v1 import common_pb2, task_pb2
from services.worker.reading import Source

FACTS = (
    "# Mills\n\nThe mill on the Erne was built in 1764. Anna Hale paid for it.\n\n"
    "# Metals\n\nCopper melts at 1,085 degrees. Iron is magnetic.\n"
)


def source(contents: Mapping[str, str] | None = None, **more: Any) -> Source:
    """A source over documents by id."""
    documents = [
        (outline(key, f"{key}.md", "text/markdown", text), text)
        for key, text in (contents or {"d1": FACTS}).items()
    ]
    return Source(documents, **more)


def items(*questions: str) -> list[task_pb2.Item]:
    """Items q1, q2 … with these words."""
    return [task_pb2.Item(item_id=f"q{n}", text=q) for n, q in enumerate(questions, 1)]


def task(*questions: str, **more: Any) -> task_pb2.Task:
    """A task that answers questions."""
    values = {"id": "t", "instruction": "Answer.", "kind": common_pb2.TASK_KIND_ANSWER, **more}
    return task_pb2.Task(items=items(*questions), **values)


def model_answer(item_id: str, text: str = "yes") -> task_pb2.ItemAnswer:
    """An answer of a model."""
    return task_pb2.ItemAnswer(
        item_id=item_id, answer=text, origin=common_pb2.ORIGIN_MODEL, mean_logprob=-0.1
    )


def unread_extract(item_id: str, text: str = "words") -> task_pb2.ItemAnswer:
    """An extract that no model has looked at."""
    return task_pb2.ItemAnswer(item_id=item_id, answer=text, origin=common_pb2.ORIGIN_EXTRACT)
