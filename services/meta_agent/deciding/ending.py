"""Seals a job: settles the ledger, judges the end, writes the last event."""

from __future__ import annotations

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.assembling import assemble_answer
from services.meta_agent.deciding.deadlines import LAST_MOMENT
from services.meta_agent.deciding.failure_report import failure_report
from services.meta_agent.deciding.receipt import ledger_of
from services.meta_agent.deciding.reducing import (
    answered,
    failed_for,
    fell_back,
    gave_up,
    left_behind,
    work_is_over,
)
from services.meta_agent.deciding.shape import shape_outcome
from services.meta_agent.deciding.turn import Turn, failure
from services.meta_agent.deciding.valuing import next_tokens
from services.meta_agent.job.figures import (
    agent_timings,
    concurrency_figures,
    critical_path,
    layer_barriers,
)
from services.meta_agent.job.state import JobFold, TaskFold


def end_job(turn: Turn) -> None:
    """Ends the job if it is answered, cancelled, or out of time."""
    fold = turn.fold
    out_of_time = turn.now >= fold.deadline - LAST_MOMENT
    if fold.cancelled is not None:
        _end_cancelled(turn, fold.cancelled, out_of_time)
    elif answered(fold) and len(fold.rounds) == fold.round:
        _finish_with(turn, fold.answer or task_pb2.Answer(), fell_back(fold))
    elif out_of_time or (work_is_over(fold) and gave_up(turn)):
        _end_without_reducer(turn)
    if not turn.fold.ended:
        turn.wake(fold.deadline - LAST_MOMENT)


def _end_cancelled(turn: Turn, why: str, out_of_time: bool) -> None:
    """Once every service has said what it spent, or there is no time to wait for it."""
    if out_of_time:
        _abandon_attempts(turn)
    if any(True for _ in turn.fold.open_attempts()):
        return
    _settle_rest(turn)
    reason = f"cancelled: {why}" if why else "cancelled"
    _finish(turn, job_pb2.JOB_STATE_CANCELLED, reason, None)


def _abandon_attempts(turn: Turn) -> None:
    for attempt in list(turn.fold.open_attempts()):
        cancel, cause = attempt_pb2.STOP_REASON_CANCEL, job_pb2.INTERRUPT_CAUSE_DEADLINE
        turn.stop_attempt(attempt, cancel, "the deadline is here", cause)
        turn.lose_attempt(attempt, "the deadline is here")


def _end_without_reducer(turn: Turn) -> None:
    """An answer always: from what there is, by code, and it says so."""
    _abandon_attempts(turn)
    _settle_rest(turn)
    previous = turn.fold.previous_answer
    left = left_behind(turn.fold) if turn.fold.answer is None else None
    answer = turn.fold.answer or left
    if answer is not None:
        # There was no time to judge it.
        better = previous is not None and previous.confidence > answer.confidence
        best = previous if previous is not None and better else answer
        _finish_with(turn, best, failed_for(turn.fold) if best is left else fell_back(turn.fold))
        return
    why = failed_for(turn.fold)
    short = f"the answer was put together without the Reducer: {why}"
    assembled = assemble_answer(turn.fold, why)
    if previous is not None and previous.confidence >= assembled.confidence:
        # What the round before has written is worth more than a list.
        _finish_with(turn, previous, fell_back(turn.fold))
        return
    _finish_with(turn, assembled, short)


def _settle_rest(turn: Turn) -> None:
    why = failure(common_pb2.FAILURE_CLASS_TIMEOUT, "the job ended before it did")
    if turn.fold.cancelled is not None:
        why = failure(common_pb2.FAILURE_CLASS_CANCELLED, "the job was cancelled")
    for task in list(turn.fold.tasks.values()):
        if not task.settled:
            partial = task.result is not None and len(task.result.items) > 0
            state = job_pb2.TASK_STATE_PARTIAL if partial else job_pb2.TASK_STATE_SKIPPED
            turn.settle_task(task, state, why)


def _finish_with(turn: Turn, answer: task_pb2.Answer, short: str) -> None:
    state, reason = judge(turn.fold, answer, short)
    _finish(turn, state, reason, answer if answer.text or answer.items else None)


def judge(
    fold: JobFold, answer: task_pb2.Answer, short: str = ""
) -> tuple[job_pb2.JobState.ValueType, str]:
    """How a job with this answer ended, and why.

    SUCCEEDED when every task did, nothing is missing and the answer was made as it
    should be; PARTIAL when there is an answer at all; FAILED otherwise.

    Args:
        fold: The job.
        answer: Its answer.
        short: What is wrong with how the answer was made; empty when nothing is.
    """
    unfinished = _unfinished(fold, answer)
    if not answer.text and not answer.items:
        words = "there is nothing to answer with"
        return job_pb2.JOB_STATE_FAILED, _first_reason(unfinished, fold, words)
    if answer.missing or unfinished or fold.unfunded:
        count = len(answer.missing) or len(unfinished) or len(fold.unfunded)
        words = f"{count} parts are not whole"
        return job_pb2.JOB_STATE_PARTIAL, _first_reason(unfinished, fold, words)
    if short:
        return job_pb2.JOB_STATE_PARTIAL, short
    return job_pb2.JOB_STATE_SUCCEEDED, "everything that was asked is answered"


def _unfinished(fold: JobFold, answer: task_pb2.Answer) -> list[TaskFold]:
    """Tasks that did not succeed and for which no other one stands."""
    read = {i.item_id for i in answer.items if i.origin != common_pb2.ORIGIN_EXTRACT}
    done = job_pb2.TASK_STATE_SUCCEEDED
    redone = {t.redoes for t in fold.tasks.values() if t.state == done}
    unfinished = []
    for task in fold.tasks.values():
        elsewhere = bool(task.task.items) and all(i.item_id in read for i in task.task.items)
        stands = task.state == done or bool(task.merged_into) or task.uid in redone
        if not stands and not elsewhere:
            unfinished.append(task)
    return unfinished


def _first_reason(unfinished: list[TaskFold], fold: JobFold, otherwise: str) -> str:
    for task in unfinished:
        if task.failure is not None and task.failure.message:
            return f"task {task.task.id}: {task.failure.message}"
    if fold.unfunded:
        return fold.unfunded[0].reason
    return otherwise


def _finish(
    turn: Turn,
    state: job_pb2.JobState.ValueType,
    reason: str,
    answer: task_pb2.Answer | None,
) -> None:
    fold = turn.fold
    why = None
    if state == job_pb2.JOB_STATE_FAILED:
        first = next((t.failure for t in fold.tasks.values() if t.failure is not None), None)
        why = first or failure(common_pb2.FAILURE_CLASS_INTERNAL, reason)
    turn.emit(
        job_finished=job_pb2.JobFinished(
            state=state,
            reason=reason,
            answer=answer,
            ledger=ledger_of(fold, turn.rules, rows=True, settled=True),
            agent_timings=agent_timings(fold),
            layer_barriers=layer_barriers(fold),
            concurrency=concurrency_figures(fold),
            critical_path=critical_path(fold),
            failure=why,
            shape_outcome=shape_outcome(fold),
            next_1000_tokens=next_tokens(fold, turn.rules),
            failure_report=failure_report(fold),
        )
    )
