"""Which tasks can be done as one, so that a prompt is paid for once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hma.v1 import task_pb2
from services.meta_agent.job.state import TaskFold


def merge_candidates(tasks: Iterable[TaskFold], max_batch: int) -> list[tuple[TaskFold, TaskFold]]:
    """Pairs of a task and the earlier one that is to have its items.

    Tasks can be merged when nothing but their items tells them apart and one call still
    answers all of the items well.

    Args:
        tasks: Tasks that have not begun, in plan order.
        max_batch: Items that a call answers well.
    """
    groups: dict[tuple[object, ...], list[TaskFold]] = defaultdict(list)
    for task in tasks:
        if task.task.items and not task.task.output_schema:
            groups[_alike(task.task)].append(task)
    pairs = []
    for group in groups.values():
        into: TaskFold | None = None
        items = 0
        for task in group:
            more = len(task.task.items)
            if into is not None and items + more <= max_batch:
                pairs.append((task, into))
                items += more
            else:
                into, items = task, more
    return pairs


def _alike(task: task_pb2.Task) -> tuple[object, ...]:
    return (
        task.kind,
        task.role,
        task.route,
        task.instruction,
        task.max_tokens,
        task.max_cost,
        task.timeout.SerializeToString(),
        tuple(task.tools),
        tuple(task.documents),
        tuple(task.depends_on),
    )
