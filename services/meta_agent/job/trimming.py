"""How the plan and its allotments change while a job runs: moves, merges, deferrals."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hma.v1 import job_pb2, task_pb2
from services.meta_agent.job.frozen_maps import put, without
from services.meta_agent.job.state import MOST_TOKENS, JobFold, TaskFold


def tokens_moved(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    """Allotments change; what has no task is the pool, which is what nobody claims."""
    moved = event.tokens_moved
    tasks = fold.tasks
    giver, getter = tasks.get(moved.from_task_uid), tasks.get(moved.to_task_uid)
    if giver is not None:
        less = replace(giver, allotted=max(giver.allotted - moved.tokens, 0))
        tasks = put(tasks, giver.uid, less)
    if getter is not None:
        tasks = put(tasks, getter.uid, replace(getter, allotted=getter.allotted + moved.tokens))
        fold = replace(
            fold,
            deferred=without(fold.deferred, getter.uid),
            added=max(fold.added - moved.tokens, 0),
        )
    return replace(fold, tasks=tasks)


def plan_trimmed(fold: JobFold, event: job_pb2.JobEvent) -> JobFold:
    """Merges what was merged, and notes what waits for money."""
    for trimmed in event.plan_trimmed.tasks:
        if trimmed.action == job_pb2.TRIM_ACTION_MERGE:
            fold = _merge_tasks(fold, trimmed.task_uid, trimmed.into_task_uid)
        elif trimmed.task_uid in fold.tasks:
            needs = put(fold.deferred, trimmed.task_uid, trimmed.value.tokens)
            fold = replace(fold, deferred=needs)
    return fold


def _merge_tasks(fold: JobFold, uid: str, into_uid: str) -> JobFold:
    """One task gets the other's items and allotment, and stands for it in the plan."""
    gone, into = fold.tasks.get(uid), fold.tasks.get(into_uid)
    if gone is None or into is None or gone.settled:
        return fold
    task = task_pb2.Task()
    task.CopyFrom(into.task)
    task.items.extend(gone.task.items)
    for limit in ("max_result_tokens", "max_tokens"):
        both = getattr(task, limit) + getattr(gone.task, limit)
        setattr(task, limit, min(both, MOST_TOKENS))
    task.max_cost += gone.task.max_cost
    task.complexity = max(task.complexity, gone.task.complexity)
    task.critical = task.critical or gone.task.critical
    merged = {
        uid: replace(
            gone, state=job_pb2.TASK_STATE_SKIPPED, merged_into=into_uid, allotted=0, failure=None
        ),
        into_uid: replace(
            into,
            task=task,
            allotted=into.allotted + gone.allotted,
            value=_sum_of(into.value, gone.value),
        ),
    }
    tasks = {
        name: _renamed(merged.get(name, other), gone.task.id, task.id)
        for name, other in fold.tasks.items()
    }
    return replace(fold, tasks=MappingProxyType(tasks), deferred=without(fold.deferred, uid))


def _renamed(task: TaskFold, old: str, new: str) -> TaskFold:
    """The task, needing `new` where it needed `old`."""
    if old not in task.task.depends_on:
        return task
    renamed = task_pb2.Task()
    renamed.CopyFrom(task.task)
    names = [new if name == old else name for name in task.task.depends_on]
    renamed.depends_on[:] = dict.fromkeys(names)
    return replace(task, task=renamed)


def _sum_of(
    one: job_pb2.ValueEstimate | None, other: job_pb2.ValueEstimate | None
) -> job_pb2.ValueEstimate | None:
    if one is None or other is None:
        return one or other
    both = job_pb2.ValueEstimate()
    both.CopyFrom(one)
    both.items += other.items
    both.tokens = min(one.tokens + other.tokens, MOST_TOKENS)
    both.gain += other.gain
    both.gain_per_1000_tokens = 1000 * both.gain / both.tokens if both.tokens else 0.0
    return both
