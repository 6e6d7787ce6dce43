"""The answer when even the Reducer is not there: results by item, put together by code."""

from __future__ import annotations

from hma.v1 import common_pb2, task_pb2
from services.meta_agent.job.state import JobFold


def assemble_answer(fold: JobFold, why: str) -> task_pb2.Answer:
    """What the tasks have answered, as text, with a line that says how it was made.

    Args:
        fold: The job.
        why: Why the Reducer did not make it.
    """
    answers: dict[str, task_pb2.ItemAnswer] = {}
    reasons: dict[str, task_pb2.Missing] = {}
    for task in fold.tasks.values():
        for item in task.result.items if task.result is not None else ():
            answers.setdefault(item.item_id, item)
        for gap in task.result.missing if task.result is not None else ():
            reasons[gap.item_id] = gap
    asked = {item.item_id: item.text for item in fold.created.items}
    lines = [f"**{asked.get(name, name)}**\n{item.answer}" for name, item in answers.items()]
    if not lines:
        return task_pb2.Answer()
    lines.append(f"*Put together without the Reducer: {why}.*")
    missing = [
        reasons.get(name)
        or task_pb2.Missing(
            item_id=name, reason=why, failure_class=common_pb2.FAILURE_CLASS_TIMEOUT
        )
        for name in asked
        if name not in answers
    ]
    total = max(len(answers) + len(missing), 1)
    return task_pb2.Answer(
        text="\n\n".join(lines),
        items=list(answers.values()),
        missing=missing,
        confidence=sum(_weight(item) for item in answers.values()) / total,
        origin=common_pb2.ORIGIN_MERGE,
    )


def _weight(item: task_pb2.ItemAnswer) -> float:
    if item.origin == common_pb2.ORIGIN_EXTRACT:
        return 0.25
    return 1.0 if item.grounded else 0.5
