"""The dependency graph of a plan: order, layers, heights."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter

from hma.v1 import task_pb2
from services.meta_agent.job.state import JobFold


def topological_order(tasks: Iterable[task_pb2.Task]) -> list[task_pb2.Task]:
    """The tasks with every dependency before its dependents, else as given.

    Raises:
        graphlib.CycleError: The plan has a cycle; validation refuses those.
    """
    by_id = {task.id: task for task in tasks}
    graph = {
        task.id: [name for name in task.depends_on if name in by_id] for task in by_id.values()
    }
    return [by_id[name] for name in TopologicalSorter(graph).static_order()]


def heights(fold: JobFold) -> dict[str, int]:
    """For each task uid, how many tasks the longest chain below it has.

    Tasks are admitted after what they depend on, so one pass backwards suffices.
    """
    uid_of = {task.task.id: task.uid for task in fold.tasks.values()}
    below = dict.fromkeys(fold.tasks, 0)
    for task in reversed(list(fold.tasks.values())):
        for name in task.task.depends_on:
            dependency = uid_of.get(name)
            if dependency is not None:
                below[dependency] = max(below[dependency], below[task.uid] + 1)
    return below
