"""What a call is granted: its exact prompt, and as much completion as is worth it.

As long as nobody waits for tokens a call gets all that it asks for, since what it leaves
is back when it has settled. When tasks wait, it gets the completion that its kind is
expected to need, and more only if the estimator says that more buys more there than with
those that wait.
"""

from __future__ import annotations

from dataclasses import replace

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.budget import (
    grant_for,
    limit_of,
    plan_limit,
    purse_of,
    reduce_limit,
)
from services.meta_agent.deciding.estimate import dependency_tokens, estimate_task
from services.meta_agent.deciding.money import within_money
from services.meta_agent.deciding.quota import at_most, drawn_left, pays, waiting_is_over
from services.meta_agent.deciding.rules import Rules, is_on
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.deciding.valuing import longer_completion, open_items, value_of
from services.meta_agent.job.frozen_maps import put
from services.meta_agent.job.state import (
    PLAN_UID_PREFIX,
    AttemptFold,
    AttemptKey,
    JobFold,
    TaskFold,
)


def answer_intent(
    turn: Turn, attempt: AttemptFold, intent: attempt_pb2.CallIntent
) -> job_pb2.CallGranted:
    """The grant for a call, or its denial, and what it was decided from."""
    rules = turn.rules
    # From here on the call's prompt is known, and what it holds in money is less.
    attempt = replace(attempt, prompt_tokens=intent.prompt_tokens)
    fold = replace(turn.fold, attempts=put(turn.fold.attempts, attempt.key, attempt))
    purse = purse_of(fold, rules)
    # What the attempt holds for this very call is part of the new grant.
    held = attempt.outstanding
    task = fold.tasks.get(attempt.uid)
    limit = within_money(
        held + _tokens(fold, rules, attempt),
        fold,
        rules,
        attempt.route,
        reserved=0 if attempt.role == common_pb2.ROLE_REDUCER else purse.reserved_money,
        prompt_tokens=intent.prompt_tokens,
        task=task,
        holder=attempt,
    )
    if task is None:
        grant = grant_for(intent, limit)
        return job_pb2.CallGranted(ref=turn.ref(attempt), grant=grant, intent=intent)
    grant = grant_for(intent, limit, _completion(turn, attempt, task, intent))
    granted = job_pb2.CallGranted(ref=turn.ref(attempt), grant=grant, intent=intent)
    from_pool = grant.tokens - held - purse.committed.get(task.uid, 0)
    if from_pool > 0:
        granted.from_pool_tokens = from_pool
        route = rules.route(attempt.route)
        items = intent.items or open_items(task)
        estimate = estimate_task(task.task, route, 0, rules.history, items)
        granted.estimate.CopyFrom(value_of(task.task, items, estimate, route, fold, rules))
    return granted


def within_drawn(turn: Turn, attempt: AttemptFold, granted: job_pb2.CallGranted) -> bool:
    """Whether a grant may be given now; not while it waits for tokens to be drawn.

    It is cut to what the tenant's limits can ever pay for and, once the answer is wanted,
    to what is drawn; then it is denied rather than waited for.
    """
    grant, intent = granted.grant, granted.intent
    if turn.fold.drawn is None or grant.denied:
        return True
    least = intent.prompt_tokens + max(intent.min_completion_tokens, 1)
    grant.tokens = at_most(turn, grant.tokens, least)
    held = attempt.outstanding
    reducing = attempt.role == common_pb2.ROLE_REDUCER
    if reducing and waiting_is_over(turn):
        limit = min(int(drawn_left(turn.fold)) + held, grant.tokens)
        granted.grant.CopyFrom(grant_for(intent, limit))
        return True
    reserved = 0 if reducing else purse_of(turn.fold, turn.rules).reserved
    return pays(turn, grant.tokens, reserved=reserved, back=held)


def release_surplus(turn: Turn, key: AttemptKey, calls_left: int) -> None:
    """Gives back what a task has set aside beyond its last calls, when others wait.

    Args:
        turn: The decision in the making.
        key: The attempt that has just said that it makes a call.
        calls_left: Calls that it expects to make after this one.
    """
    fold = turn.fold
    attempt = fold.attempts[key]
    task = fold.tasks.get(attempt.uid)
    if task is None or not _others_wait(turn) or attempt.grant.denied:
        return
    route = turn.rules.route(attempt.route)
    estimate = estimate_task(
        task.task, route, dependency_tokens(fold, task.task), turn.rules.history
    )
    purse = purse_of(fold, turn.rules)
    surplus = purse.committed.get(task.uid, 0) - calls_left * estimate.call_tokens
    if surplus > 0:
        words = f"nearly done: {calls_left} more call{'s' if calls_left > 1 else ''} to come"
        turn.emit(
            tokens_moved=job_pb2.TokensMoved(
                from_task_uid=task.uid,
                tokens=surplus,
                reason=words if calls_left else "nearly done: this is its last call",
                pool_tokens=max(purse.pool, 0),
            )
        )


def _completion(
    turn: Turn, attempt: AttemptFold, task: TaskFold, intent: attempt_pb2.CallIntent
) -> int | None:
    """Completion tokens that the call is to have; None: all that it asks for."""
    if not _others_wait(turn):
        return None
    rules, fold = turn.rules, turn.fold
    route = rules.route(attempt.route)
    items = intent.items or 1
    base = estimate_task(task.task, route, 0, rules.history, items).call_completion
    wanted = intent.max_completion_tokens
    if wanted <= base:
        return None
    more = longer_completion(task.task, items, base, wanted, route, fold, rules)
    waiting = (fold.tasks[uid].value for uid in fold.deferred if uid in fold.tasks)
    best = max((v.gain_per_1000_tokens for v in waiting if v is not None), default=0.0)
    return wanted if more.gain_per_1000_tokens >= best else base


def _others_wait(turn: Turn) -> bool:
    return bool(turn.fold.deferred) and is_on(turn.fold.created.policy.budgeting)


def _tokens(fold: JobFold, rules: Rules, attempt: AttemptFold) -> int:
    if attempt.role == common_pb2.ROLE_REDUCER:
        return reduce_limit(fold, rules)
    if attempt.uid.startswith(PLAN_UID_PREFIX):
        return plan_limit(fold, rules)
    task = fold.tasks.get(attempt.uid)
    return limit_of(task, purse_of(fold, rules), fold) if task is not None else 0
