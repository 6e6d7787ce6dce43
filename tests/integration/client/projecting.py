"""A job as GetJob shows it, from its log; as much of it as tests look at."""

from __future__ import annotations

from hma.v1 import job_pb2


def project(job: job_pb2.Job, event: job_pb2.JobEvent) -> None:
    """Folds what tests look at into `job`."""
    job.last_sequence = event.sequence
    kind = event.WhichOneof("payload")
    if kind == "job_created":
        created = event.job_created
        job.task_description = created.task_description
        job.items.extend(created.items)
        if not job.budget.max_tokens:  # what was asked for, and granted since, stands
            job.budget.CopyFrom(created.budget)
        job.create_time.CopyFrom(event.time)
    elif kind == "state_changed":
        job.state = event.state_changed.to
        job.state_reason = event.state_changed.reason
    elif kind == "task_admitted":
        admitted = event.task_admitted
        job.tasks.add(
            task=admitted.task,
            task_uid=admitted.task_uid,
            state=job_pb2.TASK_STATE_READY,
            allotted_tokens=admitted.allotted_tokens,
        )
    elif kind == "task_settled":
        task = next(task for task in job.tasks if task.task_uid == event.task_settled.task_uid)
        task.state = event.task_settled.state
        if event.task_settled.HasField("failure"):
            task.failure.CopyFrom(event.task_settled.failure)
    elif kind == "job_finished":
        _finish(job, event)


def _finish(job: job_pb2.Job, event: job_pb2.JobEvent) -> None:
    finished = event.job_finished
    job.state = finished.state
    job.state_reason = finished.reason
    job.end_time.CopyFrom(event.time)
    if finished.HasField("answer"):
        job.answer.CopyFrom(finished.answer)
    if finished.HasField("failure"):
        job.failure.CopyFrom(finished.failure)
    job.ledger.CopyFrom(finished.ledger)
    job.agent_timings.extend(finished.agent_timings)
    job.layer_barriers.extend(finished.layer_barriers)
    job.concurrency.extend(finished.concurrency)
    job.critical_path.extend(finished.critical_path)
