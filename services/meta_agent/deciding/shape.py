"""One agent or a team: decided before the plan call, from what costs no tokens.

A team repeats the prompt for every task and pays for a plan and a reduce; it is
worth that only when one agent cannot do the work well: the documents exceed a safe
share of the context, the profile of the route says that batching items hurts, or
the deadline needs work side by side. Both predictions are logged, so that the
benchmark can say how far they were off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hma.llm.routes import Route
from hma.text.items import read_request
from hma.text.tokens import approximate_tokens
from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.budget import REDUCE_OVERHEAD, reserve
from services.meta_agent.deciding.deadlines import TOKENS_PER_SECOND, work_deadline
from services.meta_agent.deciding.estimate import estimate_task
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import JobFold

PLAN_COMPLETION = 300
"""Completion tokens of a lean plan."""


def decide_shape(fold: JobFold, rules: Rules) -> job_pb2.ShapeDecided:
    """The shape, why, and what both shapes are predicted to cost."""
    route = rules.job_route(fold)
    items, documents = len(fold.created.items), document_tokens(fold)
    single, team = _single_tokens(fold, route), _team_tokens(fold, route, rules)
    shape, reason = _choose(fold, rules, items, documents)
    return job_pb2.ShapeDecided(
        shape=shape,
        reason=reason,
        predicted_single_tokens=single,
        predicted_team_tokens=team,
        items=items,
        document_tokens=documents,
        route=route.name,
        reserved_tokens=reserve(fold, rules),
    )


def _choose(
    fold: JobFold, rules: Rules, items: int, documents: int
) -> tuple[job_pb2.JobShape.ValueType, str]:
    single, team = job_pb2.JOB_SHAPE_SINGLE, job_pb2.JOB_SHAPE_TEAM
    route = rules.job_route(fold)
    if fold.created.HasField("plan"):
        return team, "the client sent a plan"
    asked = fold.created.policy.shape
    if asked in (single, team):
        return asked, "the job's policy says so"
    if items > route.profile.max_batch:
        return team, (
            f"{items} items, and route {route.name} answers at most "
            f"{route.profile.max_batch} well in one call"
        )
    safe = int(route.context_tokens * rules.safe_context)
    if documents > safe and items != 1:
        return team, f"about {documents} tokens of documents exceed a safe context of {safe}"
    completion = max(items, 1) * route.profile.answer_tokens
    if completion / TOKENS_PER_SECOND > work_deadline(fold, rules) - fold.create_time:
        return team, "one agent would not be done before the deadline"
    return single, "one agent can do it: a team would repeat its prompt for every task"


def document_tokens(fold: JobFold) -> int:
    """Estimated tokens of all documents."""
    return sum(d.approximate_tokens for d in fold.created.documents)


def minimum_tokens(created: job_pb2.JobCreated, route: Route) -> int:
    """The least budget that can buy anything: one call about one item."""
    instruction = created.items[0].text if created.items else created.task_description
    task = task_pb2.Task(instruction=instruction[:2000], complexity=common_pb2.COMPLEXITY_LOW)
    return estimate_task(task, route).minimum


def _single_tokens(fold: JobFold, route: Route) -> int:
    task = single_task(fold.created, fold.created.items)
    return estimate_task(task, route).total


def _team_tokens(fold: JobFold, route: Route, rules: Rules) -> int:
    profile = route.profile
    items = len(fold.created.items)
    safe = max(int(route.context_tokens * rules.safe_context), 1)
    tasks = max(math.ceil(items / profile.max_batch), math.ceil(document_tokens(fold) / safe), 1)
    answers = max(items, tasks) * profile.answer_tokens
    plan = 0
    if profile.can_plan:
        outline = 20 * sum(len(d.sections) for d in fold.created.documents)
        plan = approximate_tokens(fold.created.task_description) + outline + PLAN_COMPLETION
    reduce = REDUCE_OVERHEAD + answers + rules.answer_tokens if not items else 0
    return plan + tasks * profile.prompt_tokens + answers + (reduce if profile.can_reduce else 0)


def single_task(
    created: job_pb2.JobCreated, items: Sequence[task_pb2.Item], task_id: str = "all"
) -> task_pb2.Task:
    """One task for everything that `items` holds, over all documents."""
    kind = common_pb2.TASK_KIND_ANSWER if items else common_pb2.TASK_KIND_WRITE
    instruction = created.task_description
    if items:
        # The items carry their own words; what is left is how to answer them.
        request = read_request(created.task_description)
        instruction = " ".join((*request.prose, *request.constraints)) or "Answer each item."
    return task_pb2.Task(
        id=task_id,
        title="everything in one task",
        instruction=instruction,
        complexity=common_pb2.COMPLEXITY_MEDIUM,
        kind=kind,
        items=items,
        critical=True,
    )
