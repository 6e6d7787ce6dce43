"""The live view's part about attempts: what is dispatched, granted, spent, lost. Pure."""

from __future__ import annotations

from dataclasses import replace

from hma.cli.reading import key_of, tokens, when
from hma.cli.view_state import LOST, AttemptView, JobView, noted, put
from hma.cli.wording import count, word
from hma.v1 import attempt_pb2, job_pb2


def started(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """An attempt was dispatched."""
    start = event.attempt_started
    attempt = AttemptView(
        task_uid=start.ref.task_uid,
        attempt=start.ref.attempt,
        role=start.role,
        route=start.route,
        start=when(event.time),
        call=start.grant.call,
        grant=start.grant.tokens,
    )
    tasks = view.tasks
    task = tasks.get(attempt.task_uid)
    if task is not None:
        tasks = put(tasks, task.task_uid, replace(task, state=job_pb2.TASK_STATE_RUNNING))
    return replace(view, tasks=tasks, attempts=put(view.attempts, key_of(start.ref), attempt))


def granted(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """It got tokens for a call, some of them from the pool perhaps."""
    given = event.call_granted
    attempt = view.attempts.get(key_of(given.ref))
    if attempt is None:
        return view
    view = replace(view, moved=view.moved + given.from_pool_tokens)
    return _with(view, replace(attempt, call=given.grant.call, grant=given.grant.tokens))


def settled_call(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """What a call cost is known."""
    settlement = event.call_settled
    attempt = view.attempts.get(key_of(settlement.ref))
    if attempt is None or attempt.reported:
        return view
    return _with(view, _paid(attempt, settlement.call))


def finished_attempt(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """It ended."""
    end = event.attempt_finished
    return _result(view, end.ref, end.result, when(event.time))


def reported(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """A late report came; of a lost attempt it says what was unknown."""
    report = event.attempt_reported
    return _result(view, report.ref, report.result, when(event.time))


def _result(
    view: JobView, ref: attempt_pb2.AttemptRef, result: attempt_pb2.AttemptResult, at: float
) -> JobView:
    attempt = view.attempts.get(key_of(ref))
    if attempt is None or attempt.reported:
        return view
    for call in result.calls:
        attempt = _paid(attempt, call)
    outcome = word(attempt_pb2.AttemptState, result.state)
    end = at if attempt.end is None else attempt.end
    text = result.answer.text or attempt.text
    done = replace(attempt, end=end, unknown=0, phase="", text=text, outcome=outcome)
    view = _with(view, done)
    if not attempt.unknown:
        return view
    known = f"a late report took back {count(attempt.unknown, 'unknown token')}"
    return noted(view, f"{view.name(attempt.task_uid)}: {known}, it had spent {done.spent:,}")


def _paid(attempt: AttemptView, call: attempt_pb2.CallUsage) -> AttemptView:
    """Books a call once, however often it is reported."""
    if call.call in attempt.settled:
        return attempt
    return replace(attempt, settled=put(attempt.settled, call.call, tokens(call.usage)))


def lost(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """Nothing was heard of it."""
    loss = event.attempt_lost
    attempt = view.attempts.get(key_of(loss.ref))
    if attempt is None or not attempt.running:
        return view
    name = view.name(attempt.task_uid)
    view = _with(
        view,
        replace(
            attempt,
            end=when(event.time),
            unknown=loss.unknown_tokens,
            phase="",
            outcome=LOST,
        ),
    )
    return noted(view, f"{name}: attempt {attempt.attempt} lost: {loss.reason}")


def _with(view: JobView, attempt: AttemptView) -> JobView:
    key = (attempt.task_uid, attempt.attempt)
    return replace(view, attempts=put(view.attempts, key, attempt))
