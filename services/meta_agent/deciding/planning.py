"""From an accepted job to a closed plan: shape, Analyst, or a plan without it."""

from __future__ import annotations

from hma.llm.routes import Route
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.admitting import admit_task, unclaimed_items
from services.meta_agent.deciding.budget import plan_limit, purse_of
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.money import within_money
from services.meta_agent.deciding.quota import at_most, is_waiting, pays
from services.meta_agent.deciding.retrying import counted, is_full, next_try
from services.meta_agent.deciding.routing import planning_route
from services.meta_agent.deciding.shape import decide_shape, single_task
from services.meta_agent.deciding.stopping import why_stop
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.layers import topological_order
from services.meta_agent.job.state import AttemptFold

PLAN_TRIES = 3

FIRST_GRANT = 2000
"""Tokens that the Analyst begins with when they have to be drawn."""


def advance_plan(turn: Turn) -> None:
    """Moves planning on as far as it goes now."""
    if turn.fold.plan_closed is not None or turn.fold.cancelled is not None:
        return
    why = why_stop(turn.fold, turn.now, work_deadline(turn.fold, turn.rules))
    if why is not None:
        if turn.fold.open_attempt(turn.fold.plan_uid) is None:
            _close(turn, attempt_pb2.PLAN_SOURCE_UNSPECIFIED, why.message, why)
        return
    if turn.fold.shape is None and not _begin(turn):
        return
    if turn.fold.created.HasField("plan"):
        _admit_callers_plan(turn)
    elif turn.fold.shape is not None and turn.fold.shape.shape == job_pb2.JOB_SHAPE_SINGLE:
        items = turn.fold.created.items
        admit_task(turn, single_task(turn.fold.created, items), attempt_pb2.PLAN_SOURCE_SINGLE)
        _close(turn, attempt_pb2.PLAN_SOURCE_SINGLE, "")
    else:
        _ask_analyst(turn)


def _begin(turn: Turn) -> bool:
    """Decides the shape, once the model server is there."""
    route = planning_route(turn.fold, turn.rules, turn.routes)
    state = turn.route_state(route.name)
    if not state.ready:
        turn.change_state(job_pb2.JOB_STATE_QUEUED, state.detail or f"route {route.name} is away")
        return False
    turn.emit(shape_decided=decide_shape(turn.fold, turn.rules))
    return True


def _admit_callers_plan(turn: Turn) -> None:
    for task in topological_order(turn.fold.created.plan.tasks):
        admit_task(turn, task, attempt_pb2.PLAN_SOURCE_CALLER)
    _close(turn, attempt_pb2.PLAN_SOURCE_CALLER, "")


def _ask_analyst(turn: Turn) -> None:
    """Starts the Analyst, tries again where that helps, or does without it."""
    attempts = turn.fold.attempts_of(turn.fold.plan_uid)
    if attempts and attempts[-1].open:
        return
    if not attempts:
        if not _lacks_route(turn):
            if turn.fold.state != job_pb2.JOB_STATE_PLANNING or not is_waiting(turn.fold):
                turn.change_state(job_pb2.JOB_STATE_PLANNING, "the Analyst plans")
            _start(turn)
        return
    last = attempts[-1]
    if last.result is not None and last.result.HasField("plan"):
        _accept_outcome(turn, last.result.plan)
        return
    tries = [a for a in counted(attempts, turn.fold.created.policy) if not a.refused]
    if turn.fold.tasks and not unclaimed_items(turn.fold):
        # All that was asked has a task: another plan would only ask for it again.
        reason = f"the Analyst ended before its last word: {_why(last)}"
        _close(turn, attempt_pb2.PLAN_SOURCE_MIXED, reason)
        return
    # While Analysts are only full, one is waited for; one that is not there, not for long.
    asked = [a for a in attempts if not is_full(a)]
    patient = not is_full(last) or turn.now < _half_time(turn, attempts[0].start)
    if len(tries) < PLAN_TRIES and len(asked) < 4 * PLAN_TRIES and patient:
        when = next_try(turn.rules, attempts)
        if turn.now < when:
            turn.wake(when)
        elif not _lacks_route(turn):
            _start(turn)
        return
    _plan_without_analyst(turn, f"the Analyst failed: {_why(last)}")


def _lacks_route(turn: Turn) -> bool:
    """Whether planning cannot go on for want of a route: it waits, or is done without one.

    It was there when the shape was decided; in the half of the job's time that planning may
    take, it may come back. A plan by code needs none.
    """
    route = planning_route(turn.fold, turn.rules, turn.routes)
    state = turn.route_state(route.name)
    if state.ready or not _limit(turn, route):
        return False
    end = _half_time(turn, turn.fold.start_time)
    if turn.now >= end:
        _plan_without_analyst(turn, f"route {route.name} could not be used: {state.detail}")
        return True
    turn.wake(end)  # and the driver decides again when a route's state changes
    if not turn.fold.tasks:
        words = f"planning waits for route {route.name}: {state.detail}"
        turn.change_state(job_pb2.JOB_STATE_PLANNING, words)
    return True


def _limit(turn: Turn, route: Route) -> int:
    """Most tokens that planning on a route may cost; 0 where code plans."""
    return plan_limit(turn.fold, turn.rules) if route.profile.can_plan else 0


def _start(turn: Turn) -> None:
    route = planning_route(turn.fold, turn.rules, turn.routes)
    tokens = _limit(turn, route)
    reserved = purse_of(turn.fold, turn.rules).reserved_money
    tokens = within_money(tokens, turn.fold, turn.rules, route.name, reserved=reserved)
    if tokens and turn.fold.drawn is not None:
        # Enough to begin with; the Analyst asks for what it needs beyond that.
        tokens = at_most(turn, min(tokens, FIRST_GRANT), 1)
        kept = purse_of(turn.fold, turn.rules).reserved
        if not pays(turn, tokens, reserved=kept):
            return
    deadline = min(turn.now + turn.rules.plan_timeout, _half_time(turn, turn.now))
    turn.start_attempt(
        turn.fold.plan_uid,
        common_pb2.ROLE_ANALYST,
        route=route.name,
        tokens=tokens,
        deadline=deadline,
    )


def _half_time(turn: Turn, since: float) -> float:
    """Half of what is left then is the most that planning may take of the job's time."""
    return since + 0.5 * (work_deadline(turn.fold, turn.rules) - since)


def _accept_outcome(turn: Turn, outcome: attempt_pb2.PlanOutcome) -> None:
    rest = unclaimed_items(turn.fold)
    if rest or not turn.fold.tasks:
        _plan_without_analyst(turn, outcome.reason or "the plan left items out")
    else:
        _close(turn, outcome.source, outcome.reason)


def _plan_without_analyst(turn: Turn, reason: str) -> None:
    """One task for what no task has claimed: a plan that needs nobody."""
    rest = unclaimed_items(turn.fold)
    source = attempt_pb2.PLAN_SOURCE_MIXED if turn.fold.tasks else attempt_pb2.PLAN_SOURCE_SINGLE
    if rest or not turn.fold.tasks:
        admit_task(
            turn,
            single_task(turn.fold.created, rest, task_id="rest"),
            attempt_pb2.PLAN_SOURCE_SINGLE,
        )
    _close(turn, source, reason)


def _close(
    turn: Turn,
    source: attempt_pb2.PlanSource.ValueType,
    reason: str,
    failure: common_pb2.Failure | None = None,
) -> None:
    unfunded = []
    if failure is not None:
        unfunded = [
            task_pb2.Missing(
                item_id=item.item_id, reason=failure.message, failure_class=failure.failure_class
            )
            for item in unclaimed_items(turn.fold)
        ]
    turn.emit(
        plan_closed=job_pb2.PlanClosed(
            source=source, reason=reason, tasks=len(turn.fold.tasks), unfunded=unfunded
        )
    )
    if turn.fold.tasks:
        turn.change_state(job_pb2.JOB_STATE_RUNNING, "tasks run")


def _why(attempt: AttemptFold) -> str:
    if attempt.result is not None:
        return attempt.result.failure.message or "no reason given"
    return attempt.lost_reason
