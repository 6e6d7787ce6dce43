"""The first frame of an attempt: all that a service needs to know, from the fold."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from hma.v1 import analyst_pb2, attempt_pb2, common_pb2, reducer_pb2, task_pb2, worker_pb2
from services.meta_agent.deciding.admitting import unclaimed_items
from services.meta_agent.deciding.budget import purse_of
from services.meta_agent.deciding.estimate import estimate_task
from services.meta_agent.deciding.reducing import funded_mode
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import AttemptFold, JobFold, TaskFold

Start = analyst_pb2.PlanStart | worker_pb2.ExecuteStart | reducer_pb2.ReduceStart

BRIEF_CHARACTERS = 2000
"""A brief that nobody wrote is the beginning of the request."""

PRIORITIES = {common_pb2.ROLE_REDUCER: -2, common_pb2.ROLE_ANALYST: -1}
"""At the inference server, lower is earlier: an answer that waits for one call goes before
planning, and planning before work. A job's own priority is not in it: the server's queue
does not know tenants, and between tenants it means nothing."""

MAX_REASKS = 2
"""Re-asks of one attempt; each is granted from the job's pool, or not."""


def start_frame(fold: JobFold, attempt: AttemptFold, now: float, rules: Rules) -> Start:
    """The start message of an attempt that the state wants to be open."""
    start = attempt_pb2.AttemptStart(
        ref=attempt_pb2.AttemptRef(
            job_id=fold.job_id,
            epoch=attempt.epoch,
            task_uid=attempt.uid,
            attempt=attempt.number,
        ),
        time_left=_duration(max(attempt.deadline - now, 0.001)),
        grant=attempt.grant,
        route=attempt.route,
        priority=PRIORITIES.get(attempt.role, 0),
    )
    if attempt.role == common_pb2.ROLE_ANALYST:
        return _plan_start(fold, start, rules)
    if attempt.role == common_pb2.ROLE_REDUCER:
        return _reduce_start(fold, attempt, start, rules)
    return _execute_start(fold, attempt, start)


def brief_of(fold: JobFold) -> task_pb2.Brief:
    """The Analyst's brief, or the beginning of the request when there is none."""
    if fold.brief is not None:
        return fold.brief
    return task_pb2.Brief(
        objective=fold.created.task_description[:BRIEF_CHARACTERS],
        origin=common_pb2.ORIGIN_MERGE,
    )


def _plan_start(
    fold: JobFold, start: attempt_pb2.AttemptStart, rules: Rules
) -> analyst_pb2.PlanStart:
    purse = purse_of(fold, rules)
    route = rules.route(start.route)
    least = estimate_task(task_pb2.Task(), route).minimum
    pool = max(purse.pool, 0)
    return analyst_pb2.PlanStart(
        attempt=start,
        task_description=fold.created.task_description,
        documents=fold.created.documents,
        items=unclaimed_items(fold),
        max_tasks=max(1, min(rules.max_plan_tasks, pool // least, 500)),
        task_budget_tokens=pool,
    )


def _execute_start(
    fold: JobFold, attempt: AttemptFold, start: attempt_pb2.AttemptStart
) -> worker_pb2.ExecuteStart:
    task = fold.tasks[attempt.uid]
    wanted = set(task.task.documents)
    sections = [name for name in task.task.documents if "#" in name]
    documents = [
        d
        for d in fold.created.documents
        if not wanted
        or d.document_id in wanted
        or any(section.section_id in wanted for section in d.sections)
    ]
    # A document that is named as a whole is read as a whole.
    sections += [s.section_id for d in documents if d.document_id in wanted for s in d.sections]
    return worker_pb2.ExecuteStart(
        attempt=start,
        task=task.task,
        brief=brief_of(fold),
        documents=documents,
        section_ids=sections if any("#" in name for name in wanted) else (),
        dependencies=_dependencies(fold, task.task),
        done=task.result.items if task.result is not None else (),
        max_reasks=MAX_REASKS,
    )


def _dependencies(fold: JobFold, task: task_pb2.Task) -> list[worker_pb2.DependencyResult]:
    found = (fold.task_by_id(name) for name in task.depends_on)
    return [
        worker_pb2.DependencyResult(task_id=t.task.id, title=t.task.title, result=t.result)
        for t in found
        if t is not None and t.result is not None
    ]


def _reduce_start(
    fold: JobFold, attempt: AttemptFold, start: attempt_pb2.AttemptStart, rules: Rules
) -> reducer_pb2.ReduceStart:
    return reducer_pb2.ReduceStart(
        attempt=start,
        brief=brief_of(fold),
        items=fold.created.items,
        outcomes=[
            reducer_pb2.TaskOutcome(task=t.task, result=t.result, failure=t.failure)
            for t in fold.tasks.values()
            if not t.merged_into and not _is_redone(fold, t)
        ],
        documents=fold.created.documents,
        mode=funded_mode(attempt.grant.tokens),
        max_answer_tokens=rules.answer_tokens,
    )


def _is_redone(fold: JobFold, task: TaskFold) -> bool:
    """Whether a task without items has come to nothing, and one of a later round has not."""
    if task.task.items or task.result is not None:
        return False
    return any(t.redoes == task.uid and t.result is not None for t in fold.tasks.values())


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(int(seconds * 1e6))
    return duration
