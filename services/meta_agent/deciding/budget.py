"""Where a job's tokens are, and what may be granted. Pure arithmetic over the fold.

    budget = spent + unknown + outstanding + reserved + planning + committed + pool

`pool` is what is left; it may be negative for tasks that wait for money, and then
nothing is granted from it. A grant takes from the task's own commitment first,
then from the pool. So spent + unknown + outstanding + reserved <= budget, always.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from hma.text.tokens import approximate_tokens
from hma.v1 import attempt_pb2, common_pb2, job_pb2, reducer_pb2
from services.meta_agent.deciding.estimate import RESULT_TOKENS
from services.meta_agent.deciding.money import money_left, usual_tokens
from services.meta_agent.deciding.rules import Rules, is_on
from services.meta_agent.job.state import PLAN_UID_PREFIX, JobFold, TaskFold

REDUCE_OVERHEAD = 300
"""Prompt tokens of a reduce call besides the results: instructions, items, brief."""

REDUCE_SHARE = 0.75
"""Share of the context that results may fill in one prompt of the Reducer."""

NOTES_TOKENS = 400
"""Notes about one group of results, when they are reduced in a tree."""


@dataclass(frozen=True, slots=True)
class Purse:
    """A job's tokens at one moment.

    Attributes:
        reserved: Ring-fenced for reducing; never lent.
        reserved_money: Money ring-fenced for it.
        planning: Kept for the Analyst until the plan is closed.
        committed: Per unsettled task: its allotment, less what it spent and holds.
        used: Per task: what its attempts spent, hold, or may have spent.
        unspent: Budget less what is, or may be, spent; of a budget in money, the tokens
            that it still pays for on the job's route in calls of the usual make-up.
        pool: Tokens that nobody has a claim on.
    """

    budget: int
    spent: int
    unknown: int
    outstanding: int
    reserved: int
    reserved_money: float
    planning: int
    committed: Mapping[str, int]
    used: Mapping[str, int]
    unspent: int
    pool: int


def purse_of(fold: JobFold, rules: Rules) -> Purse:
    """Where the tokens of a job are."""
    used: dict[str, int] = defaultdict(int)
    outstanding = 0
    for attempt in fold.attempts.values():
        held = attempt.outstanding
        outstanding += held
        used[attempt.uid] += attempt.spent + attempt.unknown + held
    committed = {
        task.uid: max(task.allotted - used[task.uid], 0)
        for task in fold.tasks.values()
        if not task.settled
    }
    unspent = fold.budget - fold.spent - fold.unknown - outstanding
    money = money_left(fold, rules)
    paid = usual_tokens(money, rules.job_route(fold))
    if paid is not None:
        unspent = min(unspent, paid)
    reserved = min(reserve(fold, rules), max(unspent, 0))
    planning = _planning(fold, rules, used)
    return Purse(
        budget=fold.budget,
        spent=fold.spent,
        unknown=fold.unknown,
        outstanding=outstanding,
        reserved=reserved,
        reserved_money=min(_reserve_money(reserved, fold, rules), money),
        planning=planning,
        committed=committed,
        used=used,
        unspent=unspent,
        pool=unspent - reserved - planning - sum(committed.values()),
    )


def _reserve_money(reserved: int, fold: JobFold, rules: Rules) -> float:
    """Most money that reducing within its reserve can cost.

    It writes the answer once, and before it notes about each group of results where they
    do not fit one prompt.
    """
    notes = _groups(_results(fold), fold, rules) * NOTES_TOKENS
    written = min(reserved, rules.answer_tokens + notes)
    return rules.job_route(fold).most_cost(reserved - written, written)


def limit_of(task: TaskFold, purse: Purse, fold: JobFold) -> int:
    """Most tokens that the next grant of `task` may have."""
    own = purse.committed.get(task.uid, 0)
    moves = is_on(fold.created.policy.budgeting)
    limit = own + max(purse.pool, 0) if moves else own
    if purse.pool < 0:
        limit = max(own + purse.pool, 0)
    if task.task.max_tokens:
        limit = min(limit, task.task.max_tokens - purse.used.get(task.uid, 0))
    return max(limit, 0)


def plan_limit(fold: JobFold, rules: Rules) -> int:
    """Most tokens that the next grant of the Analyst may have."""
    purse = purse_of(fold, rules)
    return max(min(purse.planning, purse.unspent - purse.reserved), 0)


def reduce_limit(fold: JobFold, rules: Rules) -> int:
    """Most tokens that the next grant of the Reducer may have: all that is left."""
    purse = purse_of(fold, rules)
    return max(purse.unspent - sum(purse.committed.values()), 0)


def reduce_mode(fold: JobFold, rules: Rules) -> reducer_pb2.ReduceMode.ValueType:
    """Whether code can make the answer, or a model has to write it.

    A merge suffices when every part of the answer belongs to an item, when there is
    one task only, and when the route's model cannot reduce anyway.
    """
    merge, prose = reducer_pb2.REDUCE_MODE_MERGE, reducer_pb2.REDUCE_MODE_PROSE
    if not rules.job_route(fold).profile.can_reduce:
        return merge
    single = fold.shape is not None and fold.shape.shape == job_pb2.JOB_SHAPE_SINGLE
    if single or (fold.plan_closed is not None and len(fold.tasks) == 1):
        return merge
    itemised = bool(fold.created.items) and all(
        task.task.kind in (common_pb2.TASK_KIND_ANSWER, common_pb2.TASK_KIND_EXTRACT)
        for task in fold.tasks.values()
    )
    return merge if itemised else prose


def reserve(fold: JobFold, rules: Rules, coming: int = 0) -> int:
    """Tokens that reducing what is there, and what is still to come, will take.

    Every result is capped by its final call's max_tokens, so the sum is a bound
    (SPINE, section 4). Zero when a merge suffices.

    Args:
        fold: The job.
        rules: Its route.
        coming: Tokens of the results of tasks that are not admitted yet.
    """
    if reduce_mode(fold, rules) != reducer_pb2.REDUCE_MODE_PROSE:
        return 0
    if fold.open_attempt(fold.reduce_uid) is not None:
        return 0
    results = _results(fold) + coming
    return REDUCE_OVERHEAD + results + _tree(results, fold, rules) + rules.answer_tokens


def _tree(results: int, fold: JobFold, rules: Rules) -> int:
    """What reading results in groups first costs, when they do not fit one prompt."""
    # Each group is read once and its notes are written once and read once.
    return _groups(results, fold, rules) * (REDUCE_OVERHEAD + 2 * NOTES_TOKENS)


def _groups(results: int, fold: JobFold, rules: Rules) -> int:
    """In how many groups results are read first; 0 when they fit one prompt."""
    room = int(rules.job_route(fold).context_tokens * REDUCE_SHARE)
    return 0 if results <= room else math.ceil(results / max(room, 1))


def _results(fold: JobFold) -> int:
    """Tokens of all results, those to come at their limits."""
    if not fold.tasks:
        return RESULT_TOKENS
    return sum(_result_tokens(task) for task in fold.tasks.values())


def _result_tokens(task: TaskFold) -> int:
    if not task.settled:
        return task.task.max_result_tokens or RESULT_TOKENS
    if task.result is None:
        return 0
    texts = [*(i.answer + i.evidence for i in task.result.items), task.result.notes]
    return sum(approximate_tokens(text) for text in texts)


def _planning(fold: JobFold, rules: Rules, used: Mapping[str, int]) -> int:
    if fold.plan_closed is not None or not rules.job_route(fold).profile.can_plan:
        return 0
    if fold.created.HasField("plan"):
        return 0
    allowance = int(fold.budget * rules.analyst_share)
    spent = sum(tokens for uid, tokens in used.items() if uid.startswith(PLAN_UID_PREFIX))
    return max(allowance - spent, 0)


def grant_for(
    intent: attempt_pb2.CallIntent, limit: int, completion: int | None = None
) -> attempt_pb2.Grant:
    """The answer to an intent: its exact prompt and a completion, or a denial.

    Args:
        intent: What the service wants to spend at most.
        limit: What it may have.
        completion: Completion tokens it is to have, within what it asks for; all it
            asks for when None.
    """
    least = intent.prompt_tokens + max(intent.min_completion_tokens, 1)
    wanted = intent.prompt_tokens + intent.max_completion_tokens
    if completion is not None:
        wanted = min(wanted, max(intent.prompt_tokens + completion, least))
    tokens = min(wanted, limit)
    if tokens >= least:
        return attempt_pb2.Grant(call=intent.call, tokens=tokens)
    return attempt_pb2.Grant(
        call=intent.call,
        denied=True,
        reason=f"needs {least} tokens for one more call, {max(limit, 0)} are left for it",
    )
