"""Where the tokens went: one account for planning, each task, and reducing.

The accounts add up: together they are all that the ledger says is spent and unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

from hma.v1 import attempt_pb2, common_pb2, explanation_pb2, job_pb2
from services.meta_agent.edge.explaining.gains import gain_since
from services.meta_agent.edge.explaining.story import PLAN, REDUCE, Story
from services.meta_agent.edge.projection import task_statuses
from services.meta_agent.job.state import (
    PLAN_UID_PREFIX,
    REDUCE_UID_PREFIX,
    AttemptFold,
    tokens_of,
)

_TITLES = {PLAN: "brief and plan", REDUCE: "make the answer"}
_ROLES = {PLAN: common_pb2.ROLE_ANALYST, REDUCE: common_pb2.ROLE_REDUCER}


def accounts(story: Story) -> list[explanation_pb2.TokenAccount]:
    """The accounts: planning and reducing where there was any, tasks in plan order.

    All rounds of planning are one account, and so are all rounds of reducing.
    """
    attempts: dict[str, list[AttemptFold]] = {}
    for attempt in story.fold.attempts.values():
        attempts.setdefault(_account(attempt.uid), []).append(attempt)
    rows: dict[str, list[job_pb2.LedgerRow]] = {}
    for row in story.fold.rows:
        if row.HasField("call"):
            rows.setdefault(_account(row.task_uid), []).append(row)
    states = {status.task_uid: status.state for status in task_statuses(story.fold)}
    # An attempt at what is no task of the plan would still have cost its tokens.
    others = [uid for uid in attempts if uid not in states and uid not in _TITLES]
    names = [PLAN] if PLAN in attempts else []
    names += [*states, *others]
    names += [REDUCE] if REDUCE in attempts else []
    made = []
    for name in names:
        account = _of_attempts(attempts.get(name, []), rows.get(name, []))
        if name in _TITLES:
            _of_role(story, name, attempts[name], account)
        else:
            _of_task(story, name, account)
            account.state = states.get(name, job_pb2.TASK_STATE_UNSPECIFIED)
        account.route_reason = _route_reason(story, attempts.get(name, []))
        made.append(account)
    return made


def _account(uid: str) -> str:
    if uid.startswith(PLAN_UID_PREFIX):
        return PLAN
    return REDUCE if uid.startswith(REDUCE_UID_PREFIX) else uid


def _of_attempts(
    attempts: Sequence[AttemptFold], rows: Sequence[job_pb2.LedgerRow]
) -> explanation_pb2.TokenAccount:
    """What is known from attempts and their calls alone."""
    refused = {attempt.key for attempt in attempts if attempt.refused}
    # A refusal costs nothing, so the try after it is not a second one.
    first: dict[str, int] = {}
    for attempt in attempts:
        if attempt.key not in refused:
            first.setdefault(attempt.uid, attempt.number)
    account = explanation_pb2.TokenAccount(
        routes=dict.fromkeys(attempt.route for attempt in attempts),
        attempts=len(attempts),
        unknown_tokens=sum(attempt.unknown for attempt in attempts),
        cost=sum(row.cost for row in rows),
    )
    for row in rows:
        usage = row.call.usage
        account.prompt_tokens += usage.prompt_tokens
        account.cached_prompt_tokens += usage.cached_prompt_tokens
        account.completion_tokens += usage.completion_tokens
        again = row.attempt != first.get(row.task_uid, row.attempt)
        if again or row.call.purpose == attempt_pb2.CALL_PURPOSE_REASK:
            account.retried_tokens += tokens_of(usage)
    return account


def _of_role(
    story: Story,
    name: str,
    attempts: Sequence[AttemptFold],
    account: explanation_pb2.TokenAccount,
) -> None:
    """What planning or reducing is called, and what was set aside for it."""
    account.task_id = name
    account.task_uid = attempts[0].uid
    account.title = _TITLES[name]
    account.role = _ROLES[name]
    if name == REDUCE and story.fold.shape is not None:
        account.allotted_tokens = story.fold.shape.reserved_tokens
    elif name == PLAN:
        account.allotted_tokens = story.started[attempts[0].key].grant.tokens
    _moves(story, {attempt.uid for attempt in attempts}, account)
    last = attempts[-1]
    if last.result is not None:
        account.problem = last.result.failure.message
    elif last.lost_reason:
        account.problem = f"lost: {last.lost_reason}"


def _of_task(story: Story, uid: str, account: explanation_pb2.TokenAccount) -> None:
    """What was planned for a task, and what came of it."""
    account.task_id = story.name(uid)
    account.task_uid = uid
    account.role = common_pb2.ROLE_WORKER
    _moves(story, {uid}, account)
    admitted, task = story.admitted.get(uid), story.fold.tasks.get(uid)
    if admitted is None or task is None:
        return
    account.title = admitted.task.title or admitted.task.instruction[:80]
    account.allotted_tokens = admitted.allotted_tokens
    account.predicted_tokens = admitted.expected_prompt_tokens + admitted.expected_completion_tokens
    account.predicted_gain = admitted.value.gain
    settled = story.settled.get(uid)
    if settled is not None:
        account.predicted_gain = settled.predicted_gain or admitted.value.gain
        account.realised_gain = settled.realised_gain
    else:
        account.realised_gain = gain_since(None, task.result, admitted.value)
    into = story.merged_into(uid)
    if into:
        account.problem = f"merged into {story.name(into)}"
    elif task.failure is not None:
        account.problem = task.failure.message


def _moves(story: Story, uids: set[str], account: explanation_pb2.TokenAccount) -> None:
    """What came on top of its allotment and what it gave away, whoever was the other end."""
    for move in story.moves:
        if move.getter in uids:
            account.from_pool_tokens += move.tokens
        if move.giver in uids:
            account.to_pool_tokens += move.tokens


def _route_reason(story: Story, attempts: Sequence[AttemptFold]) -> str:
    return story.started[attempts[0].key].route_reason if attempts else ""
