"""From a valid request to a job: its first event and its documents. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hma.errors import FieldViolation, InvalidRequest
from hma.llm.routes import Routes
from hma.rpc.validation import Violations
from hma.text.items import find_items
from hma.text.outline import outline
from hma.text.unseen import normalized
from hma.v1 import common_pb2, job_pb2, meta_agent_pb2, task_pb2
from services.meta_agent.deciding.shape import minimum_tokens
from services.meta_agent.edge.documents import (
    content_of,
    document_id,
    document_names,
    media_type_of,
    thin_sections,
)
from services.meta_agent.edge.money import buyable_tokens, least_money, routes_of, say_at_least
from services.meta_agent.edge.quoting import quote
from services.meta_agent.job.times import timestamp

_ADAPTIVE_ROUNDS = 4
"""Most rounds of a job with adaptive halting that names no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How requests become jobs on this MetaAgent.

    Attributes:
        routes: The configured routes.
        default_deadline: Seconds, for a job that names no deadline.
        max_attempts: Tries per task, for a job that names none.
        layer_timeout: Seconds that a layer may take with WAVES, for a job that names
            none; 0: no limit.
        min_gain: Answered items per 1,000 tokens that make another round worth it with
            adaptive halting, for a job that names none.
        max_budget_tokens: Most tokens that a budget in money alone is read as.
    """

    routes: Routes
    default_deadline: float
    max_attempts: int
    layer_timeout: float = 0.0
    min_gain: float = 0.5
    max_budget_tokens: int = 10_000_000


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that is ready to be stored.

    Attributes:
        event: The first of its log.
        documents: Each document and its content, UTF-8 in NFC.
        fingerprint: SHA-256 of what was asked, to tell a retry from another request.
        least_tokens: What one useful call needs.
    """

    event: job_pb2.JobEvent
    documents: Sequence[tuple[task_pb2.DocumentRef, bytes]]
    fingerprint: bytes
    least_tokens: int


def admit(
    request: meta_agent_pb2.CreateJobRequest,
    admission: Admission,
    *,
    job_id: str,
    event_id: str,
    tenant: str,
    now: float,
) -> Admitted:
    """Makes a job of a request that `Validator.check_create_job` has passed.

    Args:
        request: The request.
        admission: Routes and defaults.
        job_id: The id of the new job.
        event_id: The id of its first event.
        tenant: Whose it is.
        now: Database time, in seconds since the epoch.

    Raises:
        InvalidRequest: A section that the plan names does not exist, or the budget
            cannot pay for a single call.
    """
    spec = request.job
    documents = _divide(spec)
    refs = [ref for ref, _ in documents]
    created = job_pb2.JobCreated(
        tenant=tenant,
        request_id=request.request_id,
        task_description=normalized(spec.task_description),
        documents=refs,
        budget=_budget(spec, admission),
        policy=_policy(spec.policy, admission),
    )
    if spec.HasField("plan"):
        created.plan.CopyFrom(_plan(spec, refs))
        created.items.extend(item for task in created.plan.tasks for item in task.items)
    else:
        created.items.extend(find_items(created.task_description))
    created.deadline_time.CopyFrom(timestamp(now + created.budget.deadline.ToNanoseconds() / 1e9))
    least = _check_affordable(spec, created, admission)
    event = job_pb2.JobEvent(
        job_id=job_id, event_id=event_id, time=timestamp(now), job_created=created
    )
    return Admitted(event, documents, fingerprint(spec), least)


def fingerprint(spec: job_pb2.JobSpec) -> bytes:
    """SHA-256 of what was asked."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()


def _divide(spec: job_pb2.JobSpec) -> list[tuple[task_pb2.DocumentRef, bytes]]:
    divided = []
    for index, document in enumerate(spec.documents):
        content = content_of(document)
        ref = outline(
            document_id(index), normalized(document.name), media_type_of(document), content
        )
        divided.append((ref, content.encode()))
    thin_sections([ref for ref, _ in divided])
    return divided


def _budget(spec: job_pb2.JobSpec, admission: Admission) -> job_pb2.Budget:
    budget = job_pb2.Budget()
    budget.CopyFrom(spec.budget)
    budget.max_tokens = spec.budget.max_tokens or spec.total_budget_tokens
    if not budget.max_tokens:
        usable = routes_of(spec.policy, admission.routes)
        budget.max_tokens = buyable_tokens(budget.max_cost, usable, admission.max_budget_tokens)
    if not budget.HasField("deadline"):
        budget.deadline.FromMilliseconds(round(admission.default_deadline * 1000))
    return budget


def _policy(asked: job_pb2.JobPolicy, admission: Admission) -> job_pb2.JobPolicy:
    halting = asked.halting or job_pb2.HALTING_POLICY_FIXED
    adaptive = halting == job_pb2.HALTING_POLICY_ADAPTIVE
    policy = job_pb2.JobPolicy(
        shape=asked.shape or job_pb2.JOB_SHAPE_AUTO,
        dispatch=asked.dispatch or job_pb2.DISPATCH_DATAFLOW,
        budgeting=asked.budgeting or job_pb2.SWITCH_ON,
        interruption=asked.interruption or job_pb2.SWITCH_ON,
        routing=asked.routing or job_pb2.SWITCH_ON,
        failure_policy=asked.failure_policy or job_pb2.FAILURE_POLICY_CONTINUE,
        max_rounds=asked.max_rounds or (_ADAPTIVE_ROUNDS if adaptive else 1),
        halting=halting,
        min_gain_per_1000_tokens=asked.min_gain_per_1000_tokens or admission.min_gain,
        max_attempts=asked.max_attempts or admission.max_attempts,
        route=asked.route,
    )
    if asked.HasField("layer_timeout"):
        policy.layer_timeout.CopyFrom(asked.layer_timeout)
    elif policy.dispatch == job_pb2.DISPATCH_WAVES and admission.layer_timeout:
        policy.layer_timeout.FromMilliseconds(round(admission.layer_timeout * 1000))
    return policy


def _plan(spec: job_pb2.JobSpec, refs: Sequence[task_pb2.DocumentRef]) -> task_pb2.Plan:
    """The client's plan with defaults filled in and documents named by their ids."""
    plan = task_pb2.Plan()
    plan.CopyFrom(spec.plan)
    names = document_names(spec)
    sections = {section.section_id for ref in refs for section in ref.sections}
    faults = Violations()
    for index, task in enumerate(plan.tasks):
        task.title, task.role = normalized(task.title), normalized(task.role)
        task.instruction = normalized(task.instruction)
        task.complexity = task.complexity or common_pb2.COMPLEXITY_MEDIUM
        task.kind = task.kind or common_pb2.TASK_KIND_ANSWER
        for item in task.items:
            item.text = normalized(item.text)
        reads = []
        for number, name in enumerate(task.documents):
            found = _find_input(normalized(name), names, sections)
            reads.append(found)
            if not found:
                faults.add(
                    f"job.plan.tasks[{index}].documents[{number}]",
                    f"the document has no section {quote(name, 64)}; leave out '#…' for all of it",
                )
        task.documents[:] = dict.fromkeys(reads)
    faults.raise_if_any()
    return plan


def _find_input(name: str, names: Mapping[str, str], sections: set[str]) -> str:
    """The id of the document or section that a plan means; empty when there is none."""
    if name in names:
        return names[name]
    document, _, section = name.rpartition("#")
    section_id = f"{names.get(document, '')}#{section}"
    return section_id if section_id in sections else ""


def _check_affordable(
    spec: job_pb2.JobSpec, created: job_pb2.JobCreated, admission: Admission
) -> int:
    """Tokens that one useful call needs: a budget that does not pay for it is refused."""
    route = admission.routes.choose(created.policy.route)
    _check_priced(created, admission)
    least = minimum_tokens(created, route)
    tokens, money = spec.budget.max_tokens or spec.total_budget_tokens, created.budget.max_cost
    needed = least_money(least, route)
    faults = Violations()
    if tokens and tokens < least:
        field = "job.budget.max_tokens" if spec.budget.max_tokens else "job.total_budget_tokens"
        faults.add(
            field,
            f"{tokens:,} tokens cannot pay for a single call on route {route.name}: this job "
            f"needs {least:,} at least",
        )
    if money and money < needed:
        faults.add(
            "job.budget.max_cost",
            f"{money:g} cannot pay for a single call on route {route.name}: this job needs "
            f"{say_at_least(needed)} at least ({least:,} tokens)",
        )
    faults.raise_if_any()
    return least


def _check_priced(created: job_pb2.JobCreated, admission: Admission) -> None:
    """A limit in money means nothing where tokens have no price."""
    limits = [("job.budget.max_cost", created.budget.max_cost)]
    limits += [
        (f"job.plan.tasks[{index}].max_cost", task.max_cost)
        for index, task in enumerate(created.plan.tasks)
    ]
    unpriced = [route.name for route in admission.routes.values() if not route.priced]
    if created.policy.route:
        unpriced = [name for name in unpriced if name == created.policy.route]
    violations = [
        FieldViolation(
            field,
            f"route {unpriced[0]} has no price: set HMA_LLM_PRICE_PROMPT and "
            f"HMA_LLM_PRICE_COMPLETION (with HMA_ROUTES_FILE: [routes.{unpriced[0]}.prices]), "
            "or limit tokens only",
        )
        for field, limit in limits
        if limit and unpriced
    ]
    if violations:
        raise InvalidRequest(violations)
