"""Starts tasks: those whose inputs are there, that are paid for and have a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.deciding.budget import Purse, limit_of, purse_of
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.failing import shunned
from services.meta_agent.deciding.money import within_money
from services.meta_agent.deciding.quota import at_most, is_waiting, pays
from services.meta_agent.deciding.retrying import next_try, workers_closed_until
from services.meta_agent.deciding.routing import choose_route
from services.meta_agent.deciding.stopping import why_stop
from services.meta_agent.deciding.turn import Turn, failure
from services.meta_agent.deciding.valuing import estimate_open, serves_only_others
from services.meta_agent.job.layers import heights
from services.meta_agent.job.state import JobFold, TaskFold


@dataclass(frozen=True, slots=True)
class Unpaid:
    """A ready task that the budget does not pay for now.

    Attributes:
        task: The task.
        limit: Tokens that it could have.
        floor: Tokens below which trying is hopeless.
    """

    task: TaskFold
    limit: int
    floor: int


def dispatch_tasks(turn: Turn) -> None:
    """Starts what can start now, the longest chains first."""
    if not turn.fold.tasks or turn.fold.cancelled is not None:
        return
    if why_stop(turn.fold, turn.now, work_deadline(turn.fold, turn.rules)) is not None:
        return
    ready = in_order(turn.fold) if turn.places > 0 else []
    closed_until = workers_closed_until(turn.fold, turn.rules)
    if ready and turn.now < closed_until:
        _say_what_is_waited_for(turn, closed_until, "")
        turn.wake(closed_until)
        return
    purse = purse_of(turn.fold, turn.rules)
    away: set[str] = set()
    unpaid: list[Unpaid] = []
    for task in ready:
        if turn.places <= 0:
            break
        decided = len(turn.events)
        lacking = _start(turn, task, purse, away)
        if lacking is not None:
            unpaid.append(lacking)
        if len(turn.events) > decided:
            purse = purse_of(turn.fold, turn.rules)
    _say_what_is_waited_for(turn, closed_until, min(away | turn.crowded, default=""))
    # What waits for its next try, or for a route, may leave tokens, too.
    if len(unpaid) == len(ready):
        _do_without(turn, unpaid, purse)


def in_order(fold: JobFold) -> list[TaskFold]:
    """The ready tasks, in the order in which they are to start.

    The longest chains first; then what waits for tokens, the most valuable first: it gets
    what the others leave.
    """
    below = heights(fold)

    def rank(task: TaskFold) -> tuple[bool, float, int, bool]:
        waits = task.uid in fold.deferred
        value = task.value.gain_per_1000_tokens if waits and task.value is not None else 0.0
        return waits, -value, -below[task.uid], task.allotted == 0

    return sorted(ready_tasks(fold), key=rank)


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


WAITING = "waits for "


def _say_what_is_waited_for(turn: Turn, closed_until: float, route: str) -> None:
    """Keeps the job's reason true while its tasks cannot begin.

    Args:
        turn: The turn.
        closed_until: When Workers are asked again; 0 while they take tasks.
        route: A route that a ready task waits for; empty when none does.
    """
    fold = turn.fold
    detail = turn.route_state(route).detail if route else ""
    if closed_until:
        last = next(a for a in reversed(fold.attempts.values()) if a.refused)  # type: ignore[call-overload]
        turn.change_state(fold.state, f"{WAITING}Workers: {last.result.failure.message}")
    elif detail and not any(True for _ in fold.open_attempts()):
        turn.change_state(fold.state, f"{WAITING}route {route}: {detail}")
    elif fold.reason.startswith(WAITING) and not is_waiting(fold):
        turn.change_state(fold.state, "tasks run")


def _start(turn: Turn, task: TaskFold, purse: Purse, away: set[str]) -> Unpaid | None:
    """Starts one task if that is possible now; says so when it is not paid for.

    A route that it would take and that is not ready is added to `away`.
    """
    attempts = turn.fold.attempts_of(task.uid)
    if attempts:
        when = next_try(turn.rules, attempts)
        if turn.now < when:
            turn.wake(when)
            return None
    limit = limit_of(task, purse, turn.fold)
    waits = turn.fold.deferred.get(task.uid)
    if waits is not None:
        # Cheap, for many may wait: what it needs is looked at again once nothing runs.
        hopeless = limit < waits and any(True for _ in turn.fold.open_attempts())
        if hopeless or _serves_what_waits(turn.fold, task):
            return Unpaid(task, limit, waits)
    failed = shunned(turn.fold.created.policy, attempts)
    name, reason = choose_route(task.task, turn.fold, turn.rules, turn.routes, limit, failed)
    if not turn.route_state(name).ready:
        away.add(name)
        return None  # the driver decides again when a route's state changes
    if turn.route_places(name) <= 0:
        turn.crowded.add(name)
        return None  # and when the route has a place again
    limit = within_money(
        limit, turn.fold, turn.rules, name, reserved=purse.reserved_money, task=task
    )
    estimate = estimate_open(task, turn.fold, turn.rules, turn.rules.route(name))
    if limit < estimate.floor:
        return Unpaid(task, limit, estimate.floor)
    # What a grant has too much comes back when the call has settled, unless others
    # need it meanwhile.
    wanted = estimate.tight_grant if turn.fold.deferred else estimate.first_grant
    wanted = at_most(turn, min(wanted, limit), estimate.floor)
    if not pays(turn, wanted, reserved=purse.reserved):
        return None  # the budget pays for it: it waits until more is drawn
    if waits is not None:
        _take_from_pool(turn, task, min(estimate.total, limit), purse)
    turn.start_attempt(
        task.uid,
        common_pb2.ROLE_WORKER,
        route=name,
        tokens=wanted,
        deadline=min(turn.now + _timeout(turn, task), work_deadline(turn.fold, turn.rules)),
        route_reason=reason,
    )
    return None


def _serves_what_waits(fold: JobFold, task: TaskFold) -> bool:
    """Whether a task waits for tokens, and brings nothing but inputs of others that do."""
    name = task.task.id
    return bool(fold.created.items) and serves_only_others(
        task.task, any(name in other.task.depends_on for other in fold.tasks.values())
    )


def _take_from_pool(turn: Turn, task: TaskFold, tokens: int, purse: Purse) -> None:
    """Funds a task that waited for tokens and begins with those that others have left."""
    lacks = tokens - purse.committed.get(task.uid, 0)
    if lacks > 0:
        turn.emit(
            tokens_moved=job_pb2.TokensMoved(
                to_task_uid=task.uid,
                tokens=lacks,
                reason="others left tokens, and it begins with them",
                estimate=task.value,
                pool_tokens=max(purse.pool, 0),
            )
        )


def _do_without(turn: Turn, unpaid: Sequence[Unpaid], purse: Purse) -> None:
    """Skips tasks that nobody can pay for any more, the least valuable first.

    While something runs, they wait for what it leaves.
    """
    running = any(True for _ in turn.fold.open_attempts())
    if not unpaid or running or turn.fold.plan_closed is None:
        return
    # What all of them have set aside together would still pay for none.
    together = max(purse.pool, 0) + sum(purse.committed.get(u.task.uid, 0) for u in unpaid)
    hopeless = [each for each in unpaid if each.floor > together]
    for each in hopeless or [min(unpaid, key=_worth)]:
        words = f"the budget does not pay for it: it needs about {each.floor} tokens"
        turn.settle_task(
            each.task,
            job_pb2.TASK_STATE_SKIPPED,
            failure(common_pb2.FAILURE_CLASS_BUDGET, f"{words}, {each.limit} are left"),
        )


def _worth(unpaid: Unpaid) -> float:
    return unpaid.task.value.gain_per_1000_tokens if unpaid.task.value is not None else 0.0


def _timeout(turn: Turn, task: TaskFold) -> float:
    if not task.task.HasField("timeout"):
        return turn.rules.task_timeout
    return task.task.timeout.ToMilliseconds() / 1000
