"""Starts tasks: those whose inputs are there, that are paid for and have a place."""

from __future__ import annotations

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.deciding.admitting import dependency_tokens
from services.meta_agent.deciding.budget import Purse, limit_of, purse_of, within_money
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.estimate import estimate_task
from services.meta_agent.deciding.retrying import next_try, workers_closed_until
from services.meta_agent.deciding.routing import choose_route
from services.meta_agent.deciding.stopping import why_stop
from services.meta_agent.deciding.turn import Turn, failure
from services.meta_agent.job.layers import heights
from services.meta_agent.job.state import JobFold, TaskFold


def dispatch_tasks(turn: Turn) -> None:
    """Starts what can start now, the longest chains first."""
    if not turn.fold.tasks or turn.fold.cancelled is not None:
        return
    if why_stop(turn.fold, turn.now, work_deadline(turn.fold, turn.rules)) is not None:
        return
    ready = ready_tasks(turn.fold)
    below = heights(turn.fold)
    ready.sort(key=lambda task: (-below[task.uid], task.allotted == 0))
    closed_until = workers_closed_until(turn.fold, turn.rules)
    _say_whether_workers_answer(turn, closed_until)
    if ready and turn.now < closed_until:
        turn.wake(closed_until)
        return
    purse = purse_of(turn.fold, turn.rules)
    for task in ready:
        if turn.places <= 0:
            break
        decided = len(turn.events)
        _start(turn, task, purse)
        if len(turn.events) > decided:
            purse = purse_of(turn.fold, turn.rules)


def ready_tasks(fold: JobFold) -> list[TaskFold]:
    """Tasks without an open attempt whose inputs are there, in plan order."""
    running = {attempt.uid for attempt in fold.open_attempts()}
    ends = {task.task.id: task.settled for task in fold.tasks.values()}
    waves = fold.created.policy.dispatch == job_pb2.DISPATCH_WAVES
    wave = min((t.layer for t in fold.tasks.values() if not t.settled), default=0)
    ready = []
    for task in fold.tasks.values():
        if task.settled or task.uid in running:
            continue
        if waves:
            free = fold.plan_closed is not None and task.layer == wave
        else:
            free = all(ends.get(name, True) for name in task.task.depends_on)
        if free:
            ready.append(task)
    return ready


WAITING = "waits for Workers"


def _say_whether_workers_answer(turn: Turn, closed_until: float) -> None:
    """Keeps the job's reason true while its tasks cannot begin."""
    fold = turn.fold
    if closed_until:
        last = next(a for a in reversed(fold.attempts.values()) if a.refused)  # type: ignore[call-overload]
        turn.change_state(fold.state, f"{WAITING}: {last.result.failure.message}")
    elif fold.reason.startswith(WAITING):
        turn.change_state(fold.state, "tasks run")


def _start(turn: Turn, task: TaskFold, purse: Purse) -> None:
    """Starts one task if that is possible now."""
    attempts = turn.fold.attempts_of(task.uid)
    if attempts:
        when = next_try(turn.rules, attempts)
        if turn.now < when:
            turn.wake(when)
            return
    limit = limit_of(task, purse, turn.fold)
    failed = frozenset(a.route for a in attempts if not a.refused)
    route, reason = choose_route(
        task.task, turn.fold, turn.rules, turn.observed.routes, limit, failed
    )
    if not turn.route_state(route).ready:
        return  # the driver decides again when a route's state changes
    limit = within_money(limit, turn.fold, turn.rules, route, task)
    estimate = estimate_task(
        task.task, turn.rules.route(route), dependency_tokens(turn.fold, task.task)
    )
    if limit < estimate.floor:
        _do_without(turn, task, limit, estimate.floor)
        return
    deadline = min(turn.now + _timeout(turn, task), work_deadline(turn.fold, turn.rules))
    turn.start_attempt(
        task.uid,
        common_pb2.ROLE_WORKER,
        route=route,
        tokens=min(estimate.first_grant, limit),
        deadline=deadline,
        route_reason=reason,
    )


def _do_without(turn: Turn, task: TaskFold, limit: int, floor: int) -> None:
    """Skips a task that nobody can pay for any more; else it waits for refunds."""
    running = any(True for _ in turn.fold.open_attempts())
    if running or turn.fold.plan_closed is None:
        return
    words = f"the budget does not pay for it: it needs about {floor} tokens, {limit} are left"
    turn.settle_task(
        task, job_pb2.TASK_STATE_SKIPPED, failure(common_pb2.FAILURE_CLASS_BUDGET, words)
    )


def _timeout(turn: Turn, task: TaskFold) -> float:
    if not task.task.HasField("timeout"):
        return turn.rules.task_timeout
    return task.task.timeout.ToMilliseconds() / 1000
