"""What results are worth, counted in answered items (see `ValueEstimate`)."""

from __future__ import annotations

from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.valuing import weight_of


def answered(result: task_pb2.TaskResult | None) -> int:
    """Items that a model has answered."""
    if result is None:
        return 0
    return sum(item.origin != common_pb2.ORIGIN_EXTRACT for item in result.items)


def gain_since(
    before: task_pb2.TaskResult | None,
    after: task_pb2.TaskResult | None,
    estimate: job_pb2.ValueEstimate | None,
) -> float:
    """What `after` has brought over `before`, never below 0.

    Args:
        before: The result at some moment; None when there was none.
        after: The result now.
        estimate: Says what an item without an answer counts (an extract may stand
            in for it); None: nothing.
    """
    if after is None:
        return 0.0
    nothing = estimate.weight_now if estimate is not None else 0.0
    had = {item.item_id: weight_of(item) for item in before.items} if before is not None else {}
    gain = sum(weight_of(item) - had.get(item.item_id, nothing) for item in after.items)
    return max(gain, 0.0)
