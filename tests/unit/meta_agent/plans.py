"""Plans of clients, for jobs in the simulated world."""

from __future__ import annotations

from collections.abc import Sequence

from hma.v1 import common_pb2, task_pb2


def itemised_plan(sizes: Sequence[int], chain: int = 0) -> task_pb2.Plan:
    """A plan of tasks t0, t1, … that answer q1, q2, … in this order.

    Args:
        sizes: How many items each task has.
        chain: Tasks per chain, in which each needs the one before; 0: none needs any.
    """
    tasks, first = [], 1
    for index, size in enumerate(sizes):
        items = [task_pb2.Item(item_id=f"q{n}", text="?") for n in range(first, first + size)]
        first += size
        after = [f"t{index - 1}"] if chain and index % chain else []
        tasks.append(
            task_pb2.Task(
                id=f"t{index}",
                instruction="do it",
                kind=common_pb2.TASK_KIND_ANSWER,
                items=items,
                depends_on=after,
            )
        )
    return task_pb2.Plan(tasks=tasks)
