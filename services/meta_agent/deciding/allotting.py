"""Puts tokens where they buy most when they do not pay for everything.

Needs are compared with what there is: the pool, and what tasks that have not begun have set
aside. What fits is funded. What does not is merged where that saves a prompt, and then the
least valuable work waits: leaves of the graph first, least gain per token, and what only
served them next. A task that waits gets the tokens that others leave; one that can get none
any more is skipped, and an extract answers its items. Nothing is started that is not
expected to end within its funds.

Every move names its estimate (`valuing`); with budgeting off, nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hma.v1 import job_pb2
from services.meta_agent.deciding.budget import Purse, limit_of, purse_of
from services.meta_agent.deciding.choosing import Choice, Need, choose
from services.meta_agent.deciding.estimate import Estimate
from services.meta_agent.deciding.merging import merge_candidates
from services.meta_agent.deciding.routing import choose_route
from services.meta_agent.deciding.rules import is_on
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.deciding.valuing import (
    estimate_open,
    open_items,
    serves_only_others,
    value_of,
)
from services.meta_agent.job.layers import heights
from services.meta_agent.job.state import MOST_TOKENS, TaskFold

_CHANGES = frozenset(
    {"attempt_finished", "attempt_lost", "call_settled", "plan_closed", "round_judged"}
    | {"state_changed", "task_settled"}
)
"""Decisions after which tasks may need more, or others may have left some."""


def allot(turn: Turn) -> None:
    """Moves tokens between the pool and the tasks that wait, and says what must wait."""
    fold = turn.fold
    if fold.plan_closed is None:
        return
    if not is_on(fold.created.policy.budgeting):
        _fix_shares(turn)
        return
    purse = purse_of(fold, turn.rules)
    if not _worth_a_look(turn, purse):
        return
    needs = needs_of(turn, purse)
    if _shortage(needs, purse) > 0 and _merge(turn, needs, purse):
        purse = purse_of(turn.fold, turn.rules)
        needs = needs_of(turn, purse)
    have = {uid: purse.committed.get(uid, 0) for uid in needs}
    holders = {uid for uid, need in needs.items() if have[uid] >= need.tokens}
    choice = choose(needs, max(purse.pool, 0) + sum(have.values()), holders)
    # What only begins takes its tokens when it does: until then others may leave more.
    begins = [need for need in choice.partial if have[need.task.uid] < need.floor]
    _defer(turn, [*choice.waiting, *begins], needs, purse)
    _fund(turn, choice)


def _fix_shares(turn: Turn) -> None:
    """With budgeting off, all there is is set aside once, and what is added when it comes.

    What tasks leave is nobody's: nothing moves between them.
    """
    fold = turn.fold
    tasks = [task for task in fold.tasks.values() if not task.settled]
    tokens = purse_of(fold, turn.rules).pool
    if not any(event.HasField("plan_closed") for event in turn.events):
        tokens = min(tokens, fold.added)
    share = tokens // max(len(tasks), 1)
    if share > 0:
        for task in tasks:
            _move(turn, "", task.uid, share, "an equal share, for budgeting is off")


def needs_of(turn: Turn, have: Purse) -> dict[str, Need]:
    """By uid, every unsettled task without an open attempt, in plan order.

    On the route that it would take with what it can have now: `have`.
    """
    fold, rules = turn.fold, turn.rules
    running = {attempt.uid for attempt in fold.open_attempts()}
    needed = {name for task in fold.tasks.values() for name in task.task.depends_on}
    below = heights(fold)
    by_id = {task.task.id: task for task in fold.tasks.values()}
    needs = {}
    for task in fold.tasks.values():
        if task.settled or task.uid in running:
            continue
        purse = limit_of(task, have, fold)
        name, _ = choose_route(task.task, fold, rules, turn.observed.routes, purse)
        route = rules.route(name)
        estimate = estimate_open(task, fold, rules, route, by_id)
        items = open_items(task)
        if fold.created.items and serves_only_others(task.task, task.task.id in needed):
            items = 0
        value = value_of(task.task, items, estimate, route, fold, rules)
        tokens = _capped(task, estimate)
        needs[task.uid] = Need(task, tokens, min(estimate.floor, tokens), value, below[task.uid])
    return needs


def _worth_a_look(turn: Turn, purse: Purse) -> bool:
    """Whether some task lacks money, and something could have changed for it.

    Cheap, because it is asked in every turn: the rest is not.
    """
    fold = turn.fold
    running = {attempt.uid for attempt in fold.open_attempts()}
    lacking = [
        task
        for task in fold.tasks.values()
        if not task.settled
        and task.uid not in running
        and purse.committed.get(task.uid, 0) < (task.value.tokens if task.value else 1)
    ]
    if not lacking:
        return False
    if any(event.WhichOneof("payload") in _CHANGES for event in turn.events):
        return True
    # Tokens may also have come from a top-up or a late report.
    least = min((fold.deferred.get(task.uid, purse.pool + 1) for task in lacking), default=0)
    return purse.pool >= least


def _set_aside(needs: Mapping[str, Need], purse: Purse) -> int:
    return sum(purse.committed.get(uid, 0) for uid in needs)


def _shortage(needs: Mapping[str, Need], purse: Purse) -> int:
    total = sum(need.tokens for need in needs.values())
    return total - max(purse.pool, 0) - _set_aside(needs, purse)


def _capped(task: TaskFold, estimate: Estimate) -> int:
    return min(estimate.total, task.task.max_tokens) if task.task.max_tokens else estimate.total


def _merge(turn: Turn, needs: Mapping[str, Need], purse: Purse) -> bool:
    """Merges tasks that can share a prompt, as far as one call answers their items well."""
    batch = turn.rules.job_route(turn.fold).profile.max_batch
    pairs = merge_candidates(
        (need.task for need in needs.values() if not need.task.attempts), batch
    )
    if not pairs:
        return False
    trimmed = [
        job_pb2.Trimmed(
            task_uid=gone.uid,
            action=job_pb2.TRIM_ACTION_MERGE,
            into_task_uid=into.uid,
            value=needs[gone.uid].value,
        )
        for gone, into in pairs
    ]
    _emit_trim(turn, needs, purse, trimmed)
    for gone, _ in pairs:
        # Its log entry as for every task that ends; the fold has it settled already.
        turn.emit(
            task_settled=job_pb2.TaskSettled(task_uid=gone.uid, state=job_pb2.TASK_STATE_SKIPPED)
        )
    return True


def _defer(turn: Turn, waiting: Iterable[Need], needs: Mapping[str, Need], purse: Purse) -> None:
    """Says once of each task that it has to wait, and takes what it had set aside."""
    news = [need for need in waiting if need.task.uid not in turn.fold.deferred]
    if news:
        trimmed = [
            job_pb2.Trimmed(
                task_uid=need.task.uid, action=job_pb2.TRIM_ACTION_DEFER, value=_floored(need)
            )
            for need in news
        ]
        _emit_trim(turn, needs, purse, trimmed)
    for need in news:
        left = purse.committed.get(need.task.uid, 0)
        if left:
            _move(turn, need.task.uid, "", left, "it waits: others buy more for these tokens")


def _floored(need: Need) -> job_pb2.ValueEstimate:
    """Its value, at the tokens that would let it begin."""
    value = job_pb2.ValueEstimate()
    value.CopyFrom(need.value)
    value.tokens = need.floor
    return value


def _fund(turn: Turn, choice: Choice) -> None:
    """Gives what is in the pool to those that have less than they need."""
    short = bool(choice.waiting or choice.partial)
    purse = purse_of(turn.fold, turn.rules)
    pool = purse.pool
    for need in choice.whole:
        have = purse.committed.get(need.task.uid, 0)
        lacks = need.tokens - have
        if lacks <= 0 or lacks > pool or (have >= need.floor and not short):
            continue
        words = "others left tokens" if need.task.uid in turn.fold.deferred else "it had too few"
        _move(turn, "", need.task.uid, lacks, words, need.value, pool)
        pool -= lacks


def _move(
    turn: Turn,
    from_uid: str,
    to_uid: str,
    tokens: int,
    reason: str,
    estimate: job_pb2.ValueEstimate | None = None,
    pool: int | None = None,
) -> None:
    if pool is None:
        pool = purse_of(turn.fold, turn.rules).pool
    turn.emit(
        tokens_moved=job_pb2.TokensMoved(
            from_task_uid=from_uid,
            to_task_uid=to_uid,
            tokens=tokens,
            reason=reason,
            estimate=estimate,
            pool_tokens=max(pool, 0),
        )
    )


def _emit_trim(
    turn: Turn, needs: Mapping[str, Need], purse: Purse, trimmed: list[job_pb2.Trimmed]
) -> None:
    turn.emit(
        plan_trimmed=job_pb2.PlanTrimmed(
            needed_tokens=min(sum(need.tokens for need in needs.values()), MOST_TOKENS),
            available_tokens=min(max(purse.pool, 0) + _set_aside(needs, purse), MOST_TOKENS),
            tasks=trimmed,
        )
    )
