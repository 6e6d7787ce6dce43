"""What several attempts at a task have answered, put together."""

from __future__ import annotations

from hma.v1 import common_pb2, task_pb2


def merged(before: task_pb2.TaskResult, after: task_pb2.TaskResult) -> task_pb2.TaskResult:
    """Both attempts' answers: of two to one item the better, of equals the later."""
    answers = {item.item_id: item for item in before.items}
    for item in after.items:
        old = answers.get(item.item_id)
        if old is None or _rank(item) >= _rank(old):
            answers[item.item_id] = item
    merged = task_pb2.TaskResult()
    merged.CopyFrom(after)
    if before.HasField("structured") and not after.HasField("structured"):
        merged.structured.CopyFrom(before.structured)
    del merged.items[:]
    merged.items.extend(answers.values())
    missing = [gap for gap in after.missing if gap.item_id not in answers]
    del merged.missing[:]
    merged.missing.extend(missing)
    return merged


def _rank(item: task_pb2.ItemAnswer) -> tuple[bool, bool, bool]:
    """Something over nothing, a model's over an extract, what stands in the source first."""
    read = item.origin != common_pb2.ORIGIN_EXTRACT
    return bool(item.answer.strip()), read, item.grounded
