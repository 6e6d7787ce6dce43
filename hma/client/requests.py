"""Builds requests from what is pleasant to write. Pure, but for reading documents."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypedDict

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from hma.errors import InvalidRequest
from hma.settings import Seconds, parse
from hma.v1 import admin_pb2, job_pb2, meta_agent_pb2, task_pb2

DurationLike = float | str | timedelta
"""Seconds, "90s", "2m", "1h", or a timedelta."""

DocumentLike = str | os.PathLike[str] | tuple[str, str | bytes]
"""A path to read, or a name and its content."""

Shape = Literal["auto", "single", "team"]
OverQuota = Literal["refuse", "wait"]
"""One agent, a team, or let HMA decide."""

TERMINAL = frozenset(
    {
        job_pb2.JOB_STATE_SUCCEEDED,
        job_pb2.JOB_STATE_PARTIAL,
        job_pb2.JOB_STATE_FAILED,
        job_pb2.JOB_STATE_CANCELLED,
    }
)

_SHAPES: dict[str, job_pb2.JobShape.ValueType] = {
    "auto": job_pb2.JOB_SHAPE_AUTO,
    "single": job_pb2.JOB_SHAPE_SINGLE,
    "team": job_pb2.JOB_SHAPE_TEAM,
}
_OVER_QUOTA: dict[str, meta_agent_pb2.OverQuota.ValueType] = {
    "refuse": meta_agent_pb2.OVER_QUOTA_REFUSE,
    "wait": meta_agent_pb2.OVER_QUOTA_WAIT,
}


def new_request_id() -> str:
    """A fresh id that makes a mutation safe to send twice."""
    return uuid.uuid4().hex


def seconds(value: DurationLike, field: str) -> float:
    """`value` in seconds.

    Raises:
        InvalidRequest: It is not a duration, or not above zero.
    """
    if isinstance(value, timedelta):
        amount = value.total_seconds()
    elif isinstance(value, str):
        try:
            amount = float(parse(Seconds, value.strip()))
        except ValueError as error:
            raise InvalidRequest.field(field, str(error)) from None
    else:
        amount = float(value)
    if not amount > 0 or amount == float("inf"):
        raise InvalidRequest.field(field, f"expected a time above zero, got {value!r}")
    return amount


def duration(value: float) -> Duration:
    """`value` seconds as a protobuf Duration."""
    message = Duration()
    message.FromNanoseconds(round(value * 1e9))
    return message


def read_documents(documents: Iterable[DocumentLike]) -> list[job_pb2.DocumentInput]:
    """Documents ready to send, files read.

    A file is named by its last part, or by the whole path as given when two files
    share that part, because names are unique within a job.

    Raises:
        OSError: A file cannot be read.
    """
    entries = list(documents)
    short = [Path(entry).name for entry in entries if not isinstance(entry, tuple)]
    inputs = []
    for entry in entries:
        if isinstance(entry, tuple):
            name, content = entry
            if isinstance(content, str):
                inputs.append(job_pb2.DocumentInput(name=name, text=content))
            else:
                inputs.append(job_pb2.DocumentInput(name=name, content=content))
            continue
        path = Path(entry)
        name = path.name if short.count(path.name) == 1 else str(path)
        inputs.append(job_pb2.DocumentInput(name=name, content=path.read_bytes()))
    return inputs


class JobOptions(TypedDict, total=False):
    """What a job may be given besides its task; `budget`, `max_cost` or both are required.

    Attributes:
        budget: Most tokens, prompt plus completion, over all calls; without it: what
            `max_cost` buys at the cheapest price.
        documents: Paths to read, or (name, content) pairs.
        deadline: When the answer must be there: seconds, "90s", "2m"; default 10 minutes.
        shape: "single", "team" or "auto" (default).
        route: Route for all work; default: chosen by HMA.
        plan: A plan of your own, as a `Plan` or a mapping; default: the Analyst's.
        policy: Everything else about how the job is run.
        max_cost: Most money, in the currency of the routes' prices; 0: no limit.
        request_id: The same id returns the same job; default: a fresh one.
        over_quota: "refuse" (default) or "wait": what becomes of the job when the
            tenant's quota has no room for it now.
    """

    budget: int
    documents: Iterable[DocumentLike]
    deadline: DurationLike | None
    shape: Shape | None
    route: str | None
    plan: task_pb2.Plan | Mapping[str, Any] | None
    policy: job_pb2.JobPolicy | None
    max_cost: float
    request_id: str | None
    over_quota: OverQuota | None


def create_job(
    task: str,
    *,
    budget: int = 0,
    documents: Iterable[DocumentLike] = (),
    deadline: DurationLike | None = None,
    shape: Shape | None = None,
    route: str | None = None,
    plan: task_pb2.Plan | Mapping[str, Any] | None = None,
    policy: job_pb2.JobPolicy | None = None,
    max_cost: float = 0.0,
    request_id: str | None = None,
    over_quota: OverQuota | None = None,
) -> meta_agent_pb2.CreateJobRequest:
    """The request for a job; `JobOptions` says what each argument means.

    Raises:
        InvalidRequest: An argument cannot be put into a request.
        OSError: A document cannot be read.
    """
    how = job_pb2.JobPolicy()
    if policy is not None:
        how.CopyFrom(policy)
    if shape is not None:
        if shape not in _SHAPES:
            raise InvalidRequest.field("shape", f"expected auto, single or team, got {shape!r}")
        how.shape = _SHAPES[shape]
    if route is not None:
        how.route = route
    check_tokens(budget, "budget")
    limits = job_pb2.Budget(max_tokens=budget, max_cost=max_cost)
    if deadline is not None:
        limits.deadline.CopyFrom(duration(seconds(deadline, "deadline")))
    spec = job_pb2.JobSpec(
        task_description=task, documents=read_documents(documents), budget=limits, policy=how
    )
    if plan is not None:
        spec.plan.CopyFrom(to_plan(plan))
    if over_quota is not None and over_quota not in _OVER_QUOTA:
        raise InvalidRequest.field("over_quota", f"expected refuse or wait, got {over_quota!r}")
    return meta_agent_pb2.CreateJobRequest(
        job=spec,
        request_id=request_id or new_request_id(),
        over_quota=_OVER_QUOTA[over_quota or "refuse"],
    )


def interrupt_job(job_id: str, reason: str) -> meta_agent_pb2.InterruptJobRequest:
    """The request for the answer now."""
    return meta_agent_pb2.InterruptJobRequest(
        job_id=job_id, reason=reason, request_id=new_request_id()
    )


def cancel_job(job_id: str, reason: str) -> meta_agent_pb2.CancelJobRequest:
    """The request that ends a job without an answer."""
    return meta_agent_pb2.CancelJobRequest(
        job_id=job_id, reason=reason, request_id=new_request_id()
    )


def grant_budget(job_id: str, tokens: int, cost: float) -> meta_agent_pb2.GrantBudgetRequest:
    """The request that adds to a budget.

    Raises:
        InvalidRequest: The tokens do not fit the field.
    """
    check_tokens(tokens, "tokens")
    return meta_agent_pb2.GrantBudgetRequest(
        job_id=job_id, tokens=tokens, cost=cost, request_id=new_request_id()
    )


def delete_job(job_id: str) -> meta_agent_pb2.DeleteJobRequest:
    """The request that purges a job."""
    return meta_agent_pb2.DeleteJobRequest(job_id=job_id, request_id=new_request_id())


def set_quota(tenant: str, preset: str, limits: Mapping[str, float]) -> admin_pb2.SetQuotaRequest:
    """The request that sets a quota.

    Raises:
        InvalidRequest: There is no such limit, or it cannot be that large.
    """
    request = admin_pb2.SetQuotaRequest(tenant=tenant, preset=preset, update=list(limits))
    known = admin_pb2.QuotaLimits.DESCRIPTOR.fields_by_name
    for name, value in limits.items():
        if name not in known:
            raise InvalidRequest.field(name, f"no such limit; there are: {', '.join(known)}")
        try:
            setattr(request.limits, name, value if name == "cost_per_month" else int(value))
        except (ValueError, OverflowError):
            raise InvalidRequest.field(name, f"cannot be {value!r}") from None
    return request


def to_plan(plan: task_pb2.Plan | Mapping[str, Any]) -> task_pb2.Plan:
    """A plan from a mapping in the form of its JSON: `{"tasks": [{"id": …}]}`.

    Raises:
        InvalidRequest: The mapping is not a plan; the message says where.
    """
    if isinstance(plan, task_pb2.Plan):
        return plan
    try:
        return json_format.ParseDict(dict(plan), task_pb2.Plan())
    except json_format.ParseError as error:
        raise InvalidRequest.field("plan", str(error)) from None


def check_tokens(tokens: int, field: str) -> None:
    """Refuses what does not fit the field's 32 bits; the server checks the rest.

    Raises:
        InvalidRequest: It does not fit.
    """
    if not -(2**31) <= tokens < 2**31:
        raise InvalidRequest.field(field, f"expected 1 to 10,000,000 tokens, got {tokens:,}")


def ended(job: job_pb2.Job) -> bool:
    """Whether `job` has come to its end."""
    return job.state in TERMINAL
