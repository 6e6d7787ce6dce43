"""Takes planned tasks into the job: ids, items, dependencies, layer, allotment.

A plan comes from a model, from code or from a client; what is admitted is sound in
any case: dependencies name earlier tasks only, an item belongs to the first task
that claims it, and nothing is allotted that the budget does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable

from hma.v1 import analyst_pb2, attempt_pb2, job_pb2, reducer_pb2, task_pb2
from services.meta_agent.deciding.budget import purse_of, reduce_mode
from services.meta_agent.deciding.estimate import (
    RESULT_TOKENS,
    Estimate,
    dependency_tokens,
    estimate_task,
)
from services.meta_agent.deciding.routing import choose_route
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.deciding.valuing import value_of
from services.meta_agent.job.state import AttemptFold, JobFold


def admit_fragment(turn: Turn, attempt: AttemptFold, fragment: analyst_pb2.PlanFragment) -> None:
    """Takes a piece of the Analyst's plan."""
    if fragment.HasField("brief") and turn.fold.brief is None:
        turn.emit(brief_written=job_pb2.BriefWritten(brief=fragment.brief))
    if fragment.HasField("task"):
        # A second try at planning counts its tasks from the start again.
        suffix = f".{attempt.number}" if attempt.number > 1 else ""
        task = task_pb2.Task()
        task.CopyFrom(fragment.task)
        task.id += suffix
        task.depends_on[:] = [name + suffix for name in fragment.task.depends_on]
        admit_task(turn, task, fragment.source)


def admit_task(
    turn: Turn,
    task: task_pb2.Task,
    source: attempt_pb2.PlanSource.ValueType,
    *,
    redoes: str = "",
) -> bool:
    """Adds a task to the plan.

    Args:
        turn: The decision in the making.
        task: As it was planned.
        source: Who planned it.
        redoes: Uid of the task of an earlier round whose open items it has.

    Returns:
        False when there was nothing left for it to do or no room for it.
    """
    fold = turn.fold
    if len(fold.tasks) >= turn.rules.max_plan_tasks or fold.task_by_id(task.id) is not None:
        return False
    sound = _sound(fold, task)
    if task.items and not sound.items:
        return False
    name, _ = choose_route(sound, fold, turn.rules, turn.observed.routes)
    route = turn.rules.route(name)
    before = dependency_tokens(fold, sound)
    estimate = estimate_task(sound, route, before, turn.rules.history)
    if not sound.max_result_tokens:
        usual = max(estimate.completion, estimate.usual)
        sound.max_result_tokens = max(2 * estimate.calls * usual, RESULT_TOKENS)
    generation = sum(task.generation == fold.round for task in fold.tasks.values())
    turn.emit(
        task_admitted=job_pb2.TaskAdmitted(
            task_uid=f"{fold.round}.{generation + 1}",
            task=sound,
            allotted_tokens=_allotment(turn, sound, estimate),
            layer_id=_layer(fold, sound),
            source=source,
            expected_prompt_tokens=estimate.prompt * estimate.calls,
            expected_completion_tokens=estimate.completion * estimate.calls,
            redoes_task_uid=redoes,
            value=value_of(sound, len(sound.items) or 1, estimate, route, fold, turn.rules),
        )
    )
    return True


def unclaimed_items(fold: JobFold) -> list[task_pb2.Item]:
    """Items of the job that no task of this round has."""
    claimed = {
        item.item_id
        for task in fold.tasks.values()
        if task.generation == fold.round
        for item in task.task.items
    }
    return [item for item in fold.created.items if item.item_id not in claimed]


def _sound(fold: JobFold, task: task_pb2.Task) -> task_pb2.Task:
    """The task without what is unknown, forward or already claimed."""
    sound = task_pb2.Task()
    sound.CopyFrom(task)
    sound.depends_on[:] = [
        name for name in _once(task.depends_on) if fold.task_by_id(name) is not None
    ]
    inputs = {d.document_id for d in fold.created.documents}
    inputs |= {s.section_id for d in fold.created.documents for s in d.sections}
    sound.documents[:] = [name for name in _once(task.documents) if name in inputs]
    free = {item.item_id for item in unclaimed_items(fold)}
    known = {item.item_id for item in fold.created.items}
    del sound.items[:]
    sound.items.extend(i for i in task.items if i.item_id in free or i.item_id not in known)
    return sound


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _layer(fold: JobFold, task: task_pb2.Task) -> int:
    # A later round's layers come after all of those before: each has a time of its own.
    needs = set(task.depends_on)
    before = [
        t.layer for t in fold.tasks.values() if t.task.id in needs or t.generation < fold.round
    ]
    return max(before, default=-1) + 1


def _allotment(turn: Turn, task: task_pb2.Task, estimate: Estimate) -> int:
    """What the task gets set aside: its estimate, or what is there.

    Zero when not even one call is affordable now; it then waits for tokens that
    others leave.
    """
    pool = purse_of(turn.fold, turn.rules).pool
    if reduce_mode(turn.fold, turn.rules) == reducer_pb2.REDUCE_MODE_PROSE:
        pool -= task.max_result_tokens
    wanted = min(estimate.total, task.max_tokens) if task.max_tokens else estimate.total
    return min(wanted, pool) if pool >= estimate.floor else 0
