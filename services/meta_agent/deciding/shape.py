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
from dataclasses import dataclass

from hma.llm.routes import Route
from hma.text.items import read_request
from hma.text.tokens import approximate_tokens
from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.budget import REDUCE_OVERHEAD, reserve
from services.meta_agent.deciding.deadlines import TOKENS_PER_SECOND, work_deadline
from services.meta_agent.deciding.estimate import Estimate, estimate_task
from services.meta_agent.deciding.history import ENOUGH, task_key
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import REDUCE_UID_PREFIX, JobFold

PLAN_COMPLETION = 300
"""Completion tokens of a lean plan."""


def decide_shape(fold: JobFold, rules: Rules) -> job_pb2.ShapeDecided:
    """The shape, why, and what both shapes are predicted to cost."""
    route = rules.job_route(fold)
    items, documents = len(fold.created.items), document_tokens(fold)
    single, team = _single(fold, route, rules), _team(fold, route, rules)
    time = max(work_deadline(fold, rules) - fold.create_time, 0.0)
    shape, reason = _choose(fold, rules, items, documents, single.seconds > time)
    decided = job_pb2.ShapeDecided(
        shape=shape,
        reason=reason,
        predicted_single_tokens=single.tokens,
        predicted_team_tokens=team.tokens,
        items=items,
        document_tokens=documents,
        route=route.name,
        reserved_tokens=reserve(fold, rules),
        max_batch=route.profile.max_batch,
        safe_context_tokens=_safe(route, rules),
        samples=single.samples,
    )
    decided.predicted_single_time.FromMilliseconds(int(single.seconds * 1000))
    decided.predicted_team_time.FromMilliseconds(int(team.seconds * 1000))
    decided.time_for_work.FromMilliseconds(int(time * 1000))
    return decided


def shape_outcome(fold: JobFold) -> job_pb2.ShapeOutcome | None:
    """How far the prediction for the shape that was taken was off; None without one.

    Only the first round counts: what it was predicted for.
    """
    decided = fold.shape
    spans = [a for a in fold.attempts.values() if not a.open and not a.refused]
    if decided is None or not spans:
        return None
    alone = decided.shape == job_pb2.JOB_SHAPE_SINGLE
    predicted = decided.predicted_single_tokens if alone else decided.predicted_team_tokens
    later = {uid for uid, task in fold.tasks.items() if task.generation > 1}
    later |= {a.uid for a in spans if a.uid.startswith(REDUCE_UID_PREFIX) and a.uid != "r.1"}
    first = [a for a in spans if a.uid not in later]
    actual = sum(a.spent + a.unknown for a in first)
    outcome = job_pb2.ShapeOutcome(
        shape=decided.shape,
        predicted_tokens=predicted,
        actual_tokens=actual,
        error_percent=100.0 * (actual - predicted) / predicted if predicted else 0.0,
        predicted_time=decided.predicted_single_time if alone else decided.predicted_team_time,
    )
    if first:
        took = max(a.end for a in first) - min(a.start for a in first)
        outcome.actual_time.FromMilliseconds(int(max(took, 0.0) * 1000))
    return outcome


def _choose(
    fold: JobFold, rules: Rules, items: int, documents: int, late: bool
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
    safe = _safe(route, rules)
    if documents > safe and items != 1:
        return team, f"about {documents} tokens of documents exceed a safe context of {safe}"
    if late and items > 1:
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


@dataclass(frozen=True, slots=True)
class _Prediction:
    """What a shape is predicted to take.

    Attributes:
        tokens: Prompt and completion, over all calls.
        seconds: Time, from the first call to the last.
        samples: Measured calls behind it.
    """

    tokens: int
    seconds: float
    samples: int


def _safe(route: Route, rules: Rules) -> int:
    return max(int(route.context_tokens * rules.safe_context), 1)


def _single(fold: JobFold, route: Route, rules: Rules) -> _Prediction:
    """One task, its calls one after another."""
    task = single_task(fold.created, fold.created.items)
    estimate = estimate_task(task, route, 0, rules.history)
    usual = _usual(estimate, task, route, rules)
    seconds = estimate.calls * _call_seconds(task, route, rules, usual)
    return _Prediction(estimate.calls * (estimate.prompt + usual), seconds, estimate.samples)


def _team(fold: JobFold, route: Route, rules: Rules) -> _Prediction:
    """Flat + tasks * worker + plan + reduce (facts/llm.md, rule 1)."""
    profile = route.profile
    items = len(fold.created.items)
    documents = document_tokens(fold)
    tasks = max(math.ceil(items / profile.max_batch), math.ceil(documents / _safe(route, rules)), 1)
    share = list(fold.created.items)[: max(math.ceil(items / tasks), 1)]
    one = single_task(fold.created, share)
    if items:
        # A task of a team carries its items; how to answer them is the brief's.
        one.instruction = ""
    estimate = estimate_task(one, route, 0, rules.history)
    usual = _usual(estimate, one, route, rules)
    tokens = tasks * estimate.calls * (estimate.prompt + usual)
    seconds = estimate.calls * _call_seconds(one, route, rules, usual)
    if profile.can_plan and not fold.created.HasField("plan"):
        outline = 20 * sum(len(d.sections) for d in fold.created.documents)
        tokens += approximate_tokens(fold.created.task_description) + outline + PLAN_COMPLETION
        seconds += PLAN_COMPLETION / TOKENS_PER_SECOND
    if profile.can_reduce and not items:
        results = tasks * usual
        tokens += REDUCE_OVERHEAD + results + rules.answer_tokens
        seconds += rules.answer_tokens / TOKENS_PER_SECOND
    return _Prediction(tokens, seconds, estimate.samples)


def _usual(estimate: Estimate, task: task_pb2.Task, route: Route, rules: Rules) -> int:
    """Completion tokens that a call probably has; a budget must hold for more of them."""
    record = rules.history.record(task_key(route, task.kind, task.complexity))
    if record.completion.total < ENOUGH:
        return estimate.call_completion
    per_call = max(len(task.items), 1) / estimate.calls
    return math.ceil(per_call * record.completion.quantile(0.5))


def _call_seconds(task: task_pb2.Task, route: Route, rules: Rules, completion: int) -> float:
    record = rules.history.record(task_key(route, task.kind, task.complexity))
    if record.milliseconds.total >= ENOUGH:
        return record.milliseconds.quantile(0.5) / 1000
    return completion / TOKENS_PER_SECOND


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
