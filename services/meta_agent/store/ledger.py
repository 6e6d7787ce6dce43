"""The ledger: which calls an event settles, and how they are booked beside it.

A row a call, written by the statement that appends the event. A call that was booked
keeps its first figures, as it does in the fold of the log (`job.apply`); a call that
cost nothing, because the server refused it, has no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import zip_longest

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.state import PLAN_UID_PREFIX, REDUCE_UID_PREFIX

MAX_MODEL_CHARS = 200

# Of the fields of Entry, in their order.
_TYPES = [
    "text",
    "text",
    "int",
    "int",
    "smallint",
    "text",
    "text",
    "smallint",
    "int",
    "int",
    "int",
    "int",
    "bool",
    "float8",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One LLM call that cost tokens.

    Attributes:
        job_id: Its job.
        task_uid: The MetaAgent's name for its task.
        attempt: The attempt, from 1.
        call: The call of the attempt, from 1.
        role: Who called.
        route: The route's name.
        model: The model as the server names it.
        purpose: What it was for.
        prompt_tokens: Prompt tokens, cached ones included.
        cached_prompt_tokens: The part of them that the server had cached.
        completion_tokens: Completion tokens, reasoning included.
        reasoning_tokens: The part of them that was reasoning.
        exact: Whether the server counted them; else they are an upper bound.
        cost: Money, in the currency of the route's prices.
    """

    job_id: str
    task_uid: str
    attempt: int
    call: int
    role: common_pb2.Role.ValueType
    route: str
    model: str
    purpose: attempt_pb2.CallPurpose.ValueType
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    exact: bool
    cost: float

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What the call is known by."""
        return (self.job_id, self.task_uid, self.attempt, self.call)


def entries_of(event: job_pb2.JobEvent) -> list[Entry]:
    """The calls that `event` settles; none for an event of another kind."""
    match event.WhichOneof("payload"):
        case "call_settled":
            settled = event.call_settled
            return _entries(event.job_id, settled.ref, [settled.call], [settled.cost])
        case "attempt_finished":
            finished = event.attempt_finished
            return _entries(event.job_id, finished.ref, finished.result.calls, finished.costs)
        case "attempt_reported":
            reported = event.attempt_reported
            return _entries(event.job_id, reported.ref, reported.result.calls, reported.costs)
    return []


def booking(first: int, taken: str) -> str:
    """The part of an append that books entries: CTEs `booked` and `settled`.

    `booked` has the entries that are new, with `job_id`, `tenant`, `tokens`, `cost` and
    `time`; `settled` has their sum by `job_id`.

    Args:
        first: Number of the first of its parameters, which `booking_arrays` gives.
        taken: A FROM item with `id` and `tenant` of the jobs whose logs take the events,
            their rows locked; entries of other jobs are left out.
    """
    arrays = ", ".join(f"${first + place}::{kind}[]" for place, kind in enumerate(_TYPES))
    return f"""booked AS (
    INSERT INTO ledger_entry (
        job_id, task_uid, attempt, call, tenant, role, route, model, purpose, prompt_tokens,
        cached_prompt_tokens, completion_tokens, reasoning_tokens, exact, cost, settle_time)
    SELECT t.id, b.task_uid, b.attempt, b.call, t.tenant, b.role, b.route, b.model, b.purpose,
           b.prompt, b.cached, b.completion, b.reasoning, b.exact, b.cost, clock_timestamp()
    FROM unnest({arrays}) AS b (id, task_uid, attempt, call, role, route, model, purpose,
                                prompt, cached, completion, reasoning, exact, cost)
    JOIN {taken} t ON t.id = b.id
    ON CONFLICT DO NOTHING
    RETURNING job_id, tenant, prompt_tokens::bigint + completion_tokens AS tokens, cost,
              settle_time AS time
), settled AS (
    SELECT job_id, sum(tokens)::bigint AS tokens FROM booked GROUP BY job_id
)"""  # noqa: S608 - numbers and names of this module's callers


def booking_arrays(events: Iterable[job_pb2.JobEvent]) -> list[list[object]]:
    """The parameters of `booking`: one array a column, each call once."""
    entries: dict[tuple[str, str, int, int], Entry] = {}
    for event in events:
        for entry in entries_of(event):
            entries.setdefault(entry.key, entry)
    if not entries:
        return [[] for _ in _TYPES]
    rows = [astuple(entry) for entry in entries.values()]
    return [list(column) for column in zip(*rows, strict=True)]


def _entries(
    job_id: str,
    ref: attempt_pb2.AttemptRef,
    calls: Sequence[attempt_pb2.CallUsage],
    costs: Sequence[float],
) -> list[Entry]:
    return [
        Entry(
            job_id=job_id,
            task_uid=_text(ref.task_uid),
            attempt=ref.attempt,
            call=call.call,
            role=_role(ref.task_uid),
            route=_text(call.route),
            model=_text(call.model)[:MAX_MODEL_CHARS],
            purpose=call.purpose,
            prompt_tokens=call.usage.prompt_tokens,
            cached_prompt_tokens=call.usage.cached_prompt_tokens,
            completion_tokens=call.usage.completion_tokens,
            reasoning_tokens=call.usage.reasoning_tokens,
            exact=call.usage.accuracy == common_pb2.ACCURACY_EXACT,
            cost=cost or 0.0,
        )
        for call, cost in zip_longest(calls, costs[: len(calls)], fillvalue=None)
        if call is not None and call.usage.prompt_tokens + call.usage.completion_tokens
    ]


def _role(task_uid: str) -> common_pb2.Role.ValueType:
    """Who works on a task: its name says so, as the events that settle calls do not."""
    if task_uid.startswith(PLAN_UID_PREFIX):
        return common_pb2.ROLE_ANALYST
    if task_uid.startswith(REDUCE_UID_PREFIX):
        return common_pb2.ROLE_REDUCER
    return common_pb2.ROLE_WORKER


def _text(text: str) -> str:
    # PostgreSQL's text cannot hold NUL; one bad name must not fail the batch.
    return text.replace("\0", "")
