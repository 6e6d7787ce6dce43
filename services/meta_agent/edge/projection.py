"""What clients see of a job: the fold as a `Job`, or in lists its row."""

from __future__ import annotations

from hma.v1 import job_pb2
from services.meta_agent.deciding.dispatching import ready_tasks
from services.meta_agent.deciding.receipt import ledger_of
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import JobFold, TaskFold
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.jobs import JobRow


def project(fold: JobFold, rules: Rules, tenant: str = "") -> job_pb2.Job:
    """The job as `GetJob` returns it, ledger rows included."""
    created, finished = fold.created, fold.finished
    job = job_pb2.Job(
        job_id=fold.job_id,
        tenant=tenant or created.tenant,
        state=fold.state,
        state_reason=fold.reason,
        task_description=created.task_description,
        documents=created.documents,
        items=created.items,
        budget=created.budget,
        policy=created.policy,
        tasks=task_statuses(fold),
        ledger=ledger_of(fold, rules, rows=True, settled=fold.ended),
        last_sequence=fold.version,
        create_time=timestamp(fold.create_time),
        deadline_time=timestamp(fold.deadline),
    )
    job.budget.max_tokens = fold.budget
    job.budget.max_cost = fold.max_cost
    if fold.shape is not None:
        job.shape = fold.shape.shape
        job.shape_decision.CopyFrom(fold.shape)
    if fold.plan_closed is not None:
        job.plan_source = fold.plan_closed.source
    if fold.brief is not None:
        job.brief.CopyFrom(fold.brief)
    if fold.best_answer is not None:
        job.answer.CopyFrom(fold.best_answer)
    job.rounds.extend(fold.rounds)
    if fold.start_time:
        job.start_time.CopyFrom(timestamp(fold.start_time))
    if finished is not None:
        job.end_time.CopyFrom(timestamp(fold.end_time))
        job.agent_timings.extend(finished.agent_timings)
        job.layer_barriers.extend(finished.layer_barriers)
        job.concurrency.extend(finished.concurrency)
        job.critical_path.extend(finished.critical_path)
        if finished.HasField("shape_outcome"):
            job.shape_outcome.CopyFrom(finished.shape_outcome)
        if finished.HasField("failure_report"):
            job.failure_report.CopyFrom(finished.failure_report)
        if finished.HasField("failure"):
            job.failure.CopyFrom(finished.failure)
    return job


def task_statuses(fold: JobFold) -> list[job_pb2.TaskStatus]:
    """The tasks, and what became of them, in plan order."""
    ready = {task.uid for task in ready_tasks(fold)}
    spent: dict[str, int] = {}
    routes: dict[str, str] = {}
    for attempt in fold.attempts.values():
        spent[attempt.uid] = spent.get(attempt.uid, 0) + attempt.spent
        routes[attempt.uid] = attempt.route
    path = set(fold.finished.critical_path) if fold.finished is not None else set()
    return [
        job_pb2.TaskStatus(
            task=task.task,
            task_uid=task.uid,
            state=_state(fold, task, ready),
            attempts=task.attempts,
            route=routes.get(task.uid, ""),
            allotted_tokens=task.allotted,
            spent_tokens=spent.get(task.uid, 0),
            layer_id=task.layer,
            failure=task.failure,
            on_critical_path=task.task.id in path,
            result=task.result,
        )
        for task in fold.tasks.values()
    ]


def _state(fold: JobFold, task: TaskFold, ready: set[str]) -> job_pb2.TaskState.ValueType:
    if task.settled:
        return task.state
    if task.uid in ready:
        return job_pb2.TASK_STATE_READY
    if fold.open_attempt(task.uid) is not None:
        return job_pb2.TASK_STATE_RUNNING
    return job_pb2.TASK_STATE_WAITING


def listed(row: JobRow) -> job_pb2.Job:
    """A job as `ListJobs` shows it: what its row knows."""
    job = job_pb2.Job(
        job_id=row.job_id,
        tenant=row.tenant,
        state=row.state,
        state_reason=row.state_reason,
        task_description=row.title,
        last_sequence=row.version,
    )
    job.budget.max_tokens = row.budget_tokens
    job.ledger.budget_tokens = row.budget_tokens
    job.ledger.spent_tokens = row.spent_tokens
    for field, moment in (
        ("create_time", row.create_time),
        ("start_time", row.start_time),
        ("end_time", row.end_time),
        ("deadline_time", row.deadline),
    ):
        if moment is not None:
            getattr(job, field).FromDatetime(moment)
    return job
