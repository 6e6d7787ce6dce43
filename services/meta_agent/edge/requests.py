"""Requests that change something: what a repeated one must agree with. Pure.

A command on a job is a fact in its log. Its event's id follows from the request's id,
so that it is logged once; what the log says under that id is what the first request
asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from hma.errors import AlreadyExists
from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.store.ids import new_event_id

Command = (
    meta_agent_pb2.CancelJobRequest
    | meta_agent_pb2.InterruptJobRequest
    | meta_agent_pb2.GrantBudgetRequest
    | meta_agent_pb2.DeleteJobRequest
)

_UNNAMED: dict[type[Command], str] = {
    meta_agent_pb2.CancelJobRequest: "request.cancel",
    meta_agent_pb2.InterruptJobRequest: "request.interrupt",
}

_CREATED_FIELDS = ("task_description", "documents", "budget", "policy", "plan")


def event_id_of(request: Command) -> str:
    """The id of a command's event.

    Commands of all kinds share the ids of a job: one id, one request. Without an id every
    grant is one of its own; to cancel or to interrupt again changes nothing, so all such
    requests of a kind are one, and no client can make the log grow by repeating them.
    """
    request_id = request.request_id
    if not request_id:
        return _UNNAMED.get(type(request)) or new_event_id()
    return "request." + hashlib.sha256(request_id.encode()).hexdigest()[:32]


def check_same(logged: job_pb2.JobEvent, request: Command) -> None:
    """Refuses a request whose id was used for another one.

    Args:
        logged: What the log has under the request's id.
        request: The request.

    Raises:
        AlreadyExists: It asks for something else; says what differs.
    """
    if not request.request_id:
        return
    differing = list(_differing(logged, request))
    if differing:
        raise AlreadyExists(
            f"The request_id was used for another request on this job: {'; '.join(differing)}."
        )


def differing_jobs(asked: job_pb2.JobCreated, made: job_pb2.JobCreated) -> str:
    """What differs between the job that is asked for and the one that the id has made."""
    names = [name for name in _CREATED_FIELDS if getattr(asked, name) != getattr(made, name)]
    # Documents are compared by their outlines: what differs inside a line is not seen.
    names = names or ["documents"]
    return "other " + ", ".join(name.replace("_", " ") for name in names)


def _differing(logged: job_pb2.JobEvent, request: Command) -> Iterator[str]:
    kind = logged.WhichOneof("payload")
    match request:
        case meta_agent_pb2.CancelJobRequest() if kind == "cancel_requested":
            if logged.cancel_requested.reason != request.reason:
                yield "its reason was another"
        case meta_agent_pb2.InterruptJobRequest() if kind == "interrupt_requested":
            if logged.interrupt_requested.reason != request.reason:
                yield "its reason was another"
        case meta_agent_pb2.GrantBudgetRequest() if kind == "budget_granted":
            yield from _differing_grants(logged.budget_granted, request)
        case _:
            yield f"that was to {_COMMANDS.get(kind or '', 'do something else')}"


_COMMANDS = {
    "cancel_requested": "cancel it",
    "interrupt_requested": "interrupt it",
    "budget_granted": "grant budget",
}


def _differing_grants(
    logged: job_pb2.BudgetGranted, request: meta_agent_pb2.GrantBudgetRequest
) -> Iterator[str]:
    if logged.HasField("asked_tokens"):
        asked = logged.asked_tokens
    else:
        # An earlier release has logged it: with money, what was asked for is not known.
        asked = request.tokens if logged.cost else logged.tokens
    if asked != request.tokens:
        yield f"it granted {asked:,} tokens, not {request.tokens:,}"
    if logged.cost != request.cost:
        yield f"it granted {logged.cost:g} in money, not {request.cost:g}"
