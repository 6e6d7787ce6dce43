"""What several attempts at a task have answered, put together."""

from __future__ import annotations

from hma.v1 import common_pb2, task_pb2


def merged(before: task_pb2.TaskResult, after: task_pb2.TaskResult) -> task_pb2.TaskResult:
    """Both attempts' answers; a model's stands over an extract, else the later one."""
    answers = {item.item_id: item for item in before.items}
    for item in after.items:
        old = answers.get(item.item_id)
        if old is None or _is_read(item) or not _is_read(old):
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


def _is_read(item: task_pb2.ItemAnswer) -> bool:
    return item.origin != common_pb2.ORIGIN_EXTRACT
