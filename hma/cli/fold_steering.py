"""The live view's part about what steers a job: stops, moves, trims, rounds, requests. Pure."""

from __future__ import annotations

from dataclasses import replace

from hma.cli.view_state import JobView, noted
from hma.cli.wording import count, seconds, span, word
from hma.v1 import attempt_pb2, job_pb2


def stopped(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """An attempt was told to stop: by what led to it."""
    told = event.attempt_stopped
    name = view.name(told.ref.task_uid)
    if told.cause == job_pb2.INTERRUPT_CAUSE_STRAGGLER:
        late = f"after {seconds(span(told.elapsed))}"
        if told.HasField("expected"):
            late += f" (expected {seconds(span(told.expected))})"
        waits = count(told.waiting_tasks, "task")
        verb = "waits" if told.waiting_tasks == 1 else "wait"
        return noted(view, f"{name}: interrupted {late}, {waits} {verb} for it")
    why = word(attempt_pb2.StopReason, told.reason)
    if told.cause:
        why = word(job_pb2.InterruptCause, told.cause)
    note = f": {told.note}" if told.note else ""
    return noted(view, f"{name}: told to stop ({why}){note}")


def moved(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """Tokens moved. It is counted; a notice would push out what matters more."""
    move = event.tokens_moved
    tasks = dict(view.tasks)
    for uid, tokens in ((move.from_task_uid, -move.tokens), (move.to_task_uid, move.tokens)):
        task = tasks.get(uid)
        if task is not None:
            tasks[uid] = replace(task, allotted=max(0, task.allotted + tokens))
    given = move.tokens if move.to_task_uid else 0
    return replace(view, tasks=tasks, moved=view.moved + given)


def trimmed(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """Work was merged or waits, because the budget does not pay for it."""
    trim = event.plan_trimmed
    merged = [task for task in trim.tasks if task.action == job_pb2.TRIM_ACTION_MERGE]
    parts = []
    if merged:
        parts.append(f"{count(len(merged), 'task')} merged into others")
    left = len(trim.tasks) - len(merged)
    if left:
        parts.append(f"{count(left, 'task')} {'waits' if left == 1 else 'wait'} for tokens")
    tasks = dict(view.tasks)
    for task in merged:
        gone, into = tasks.get(task.task_uid), tasks.get(task.into_task_uid)
        if gone is None or into is None:
            continue
        skipped = job_pb2.TASK_STATE_SKIPPED
        why = f"merged into {into.task_id}"
        tasks[task.task_uid] = replace(gone, state=skipped, problem=why, allotted=0)
        tasks[task.into_task_uid] = replace(into, allotted=into.allotted + gone.allotted)
    needs = f"tasks need {trim.needed_tokens:,} tokens, {trim.available_tokens:,} are there"
    return noted(replace(view, tasks=tasks), f"{needs}: {', '.join(parts) or 'nothing is left'}")


def judged(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """The answer was judged: halt, or another round."""
    judgement = event.round_judged
    verdict = "another round" if judgement.another_round else "halt"
    why = f", because {judgement.reason}" if judgement.reason else ""
    # One round that is the last, as asked, is nothing to tell.
    if judgement.round == 1 and judgement.features.max_rounds == 1:
        return view
    return noted(view, f"round {judgement.round} judged: {verdict}{why}")


def drawn(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """The job waits for its tenant's quota. What it draws otherwise is no news."""
    draw = event.quota_drawn
    said = f"waits for quota: {draw.limit} has no room"
    if not draw.limit or (view.notices and view.notices[-1].startswith(said)):
        return view
    when = f" until {draw.retry_time.ToDatetime():%H:%M:%S} UTC" if draw.retry_time.seconds else ""
    return noted(view, said + when)


def deferred(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """A call waits for its tenant's quota."""
    waits = event.call_deferred
    tokens = waits.intent.prompt_tokens + waits.intent.max_completion_tokens
    name = view.name(waits.ref.task_uid)
    return noted(view, f"{name}: its call of {count(tokens, 'token')} waits for quota")


def interrupt(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """A client wants the answer now."""
    return noted(view, _asked("an answer was asked for now", event.interrupt_requested.reason))


def cancel(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """A client wants no answer any more."""
    return noted(view, _asked("cancelling was asked for", event.cancel_requested.reason))


def _asked(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def topped_up(view: JobView, event: job_pb2.JobEvent) -> JobView:
    """A client added tokens, money, or both."""
    added = event.budget_granted
    parts = [f"{added.tokens:,} tokens"] if added.tokens or not added.cost else []
    if added.cost:
        parts.append(f"{added.cost:g} of money")
    view = replace(view, budget=view.budget + added.tokens)
    if view.max_cost:
        view = replace(view, max_cost=view.max_cost + added.cost)
    return noted(view, f"{' and '.join(parts)} were added to the budget")
