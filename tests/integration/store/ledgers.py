"""Histories of calls, and what the ledger makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.job.state import JobFold
from services.meta_agent.store.database import Connection
from services.meta_agent.store.ids import new_event_id
from services.meta_agent.store.store import Store

JobEvent = job_pb2.JobEvent
_COLUMNS = (
    "job_id, task_uid, attempt, call, tenant, role, route, model, purpose, prompt_tokens, "
    "cached_prompt_tokens, completion_tokens, reasoning_tokens, exact, cost, settle_time"
)


def call_usage(
    call: int = 1,
    prompt: int = 100,
    completion: int = 10,
    *,
    cached: int = 0,
    reasoning: int = 0,
    exact: bool = True,
    route: str = "fast",
    model: str = "m",
) -> attempt_pb2.CallUsage:
    accuracy = common_pb2.ACCURACY_EXACT if exact else common_pb2.ACCURACY_UPPER_BOUND
    return attempt_pb2.CallUsage(
        call=call,
        purpose=attempt_pb2.CALL_PURPOSE_WORK,
        route=route,
        model=model,
        usage=common_pb2.Usage(
            prompt_tokens=prompt,
            cached_prompt_tokens=cached,
            completion_tokens=completion,
            reasoning_tokens=reasoning,
            accuracy=accuracy,
        ),
    )


def event(job_id: str, event_id: str = "", **payload: object) -> JobEvent:
    return JobEvent(job_id=job_id, event_id=event_id or new_event_id(), **payload)  # type: ignore[arg-type]


def settled(
    job_id: str,
    call: attempt_pb2.CallUsage,
    *,
    task_uid: str = "1.1",
    attempt: int = 1,
    cost: float = 0.0,
    event_id: str = "",
) -> JobEvent:
    ref = attempt_pb2.AttemptRef(job_id=job_id, task_uid=task_uid, attempt=attempt)
    return event(job_id, event_id, call_settled=job_pb2.CallSettled(ref=ref, call=call, cost=cost))


@dataclass
class Attempt:
    """One attempt of a made-up history; its service tells the same truth each time."""

    job_id: str
    task_uid: str
    number: int
    calls: list[attempt_pb2.CallUsage]
    told: int = 0
    lost: bool = False
    finished: bool = False
    costs: list[float] = field(default_factory=list)

    @property
    def ref(self) -> attempt_pb2.AttemptRef:
        return attempt_pb2.AttemptRef(
            job_id=self.job_id, task_uid=self.task_uid, attempt=self.number
        )

    def started(self) -> JobEvent:
        role = {"p": common_pb2.ROLE_ANALYST, "r": common_pb2.ROLE_REDUCER}.get(
            self.task_uid[0], common_pb2.ROLE_WORKER
        )
        return event(
            self.job_id,
            attempt_started=job_pb2.AttemptStarted(ref=self.ref, role=role, route="fast"),
        )

    def next(self, rng: random.Random) -> JobEvent:
        """What its driver logs next."""
        if self.told < len(self.calls) and rng.random() < 0.7:
            call, cost = self.calls[self.told], self.costs[self.told]
            self.told += rng.random() < 0.8  # else the same call is settled once more
            return settled(
                self.job_id, call, task_uid=self.task_uid, attempt=self.number, cost=cost
            )
        self.finished = True  # either way its driver has nothing more to say of it
        if rng.random() < 0.4:
            self.lost = True
            lost = job_pb2.AttemptLost(ref=self.ref, unknown_tokens=rng.randint(0, 300))
            return event(self.job_id, attempt_lost=lost)
        result = attempt_pb2.AttemptResult(calls=self.calls)
        return event(
            self.job_id,
            attempt_finished=job_pb2.AttemptFinished(ref=self.ref, result=result, costs=self.costs),
        )

    def report(self) -> JobEvent:
        """Its result as a fact: always the same event."""
        reported = job_pb2.AttemptReported(
            ref=self.ref, result=attempt_pb2.AttemptResult(calls=self.calls), costs=self.costs
        )
        return event(
            self.job_id, f"report.{self.task_uid}.{self.number}.1", attempt_reported=reported
        )


def random_attempt(rng: random.Random, job_id: str, task_uid: str, number: int) -> Attempt:
    calls = []
    for call in range(1, rng.randint(1, 4) + 1):
        prompt = rng.choice([0, rng.randint(1, 5000)])
        # The server refuses some calls: those cost nothing at all.
        completion = rng.randint(0, 500) if prompt else 0
        calls.append(
            call_usage(
                call,
                prompt,
                completion,
                cached=rng.randint(0, prompt),
                reasoning=rng.randint(0, completion),
                exact=rng.random() < 0.8,
                route=rng.choice(["fast", "reasoning"]),
            )
        )
    costs = [(c.usage.prompt_tokens + 4 * c.usage.completion_tokens) / 1e6 for c in calls]
    return Attempt(job_id, task_uid, number, calls, costs=costs)


async def ledger_rows(store: Store, job_id: str) -> list[dict[str, object]]:
    """What is booked for a job."""
    async with store.database.connection() as connection:
        return await read_ledger(connection, job_id)


async def read_ledger(connection: Connection, job_id: str) -> list[dict[str, object]]:
    """The same, over any connection."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM ledger_entry WHERE job_id = $1 ORDER BY task_uid, attempt, call",
        job_id,
    )
    return [dict(row) for row in rows]


Calls = dict[tuple[object, ...], tuple[object, ...]]
"""What each call cost, by (task, attempt, call)."""


def ledger_calls(rows: Iterable[Mapping[str, object]]) -> Calls:
    """The calls that the ledger has."""
    names = ("role", "route", "prompt_tokens", "cached_prompt_tokens", "completion_tokens")
    return {
        (row["task_uid"], row["attempt"], row["call"]): tuple(
            row[name] for name in (*names, "reasoning_tokens", "exact", "cost")
        )
        for row in rows
    }


def folded_calls(fold: JobFold) -> Calls:
    """The calls that a job's log folds to, those that cost nothing left out."""
    return {
        (row.task_uid, row.attempt, row.call.call): (
            row.role,
            row.call.route,
            row.call.usage.prompt_tokens,
            row.call.usage.cached_prompt_tokens,
            row.call.usage.completion_tokens,
            row.call.usage.reasoning_tokens,
            row.call.usage.accuracy == common_pb2.ACCURACY_EXACT,
            row.cost,
        )
        for row in fold.rows
        if row.kind in (job_pb2.LEDGER_ROW_KIND_UNSPECIFIED, job_pb2.LEDGER_ROW_KIND_CALL)
        and row.call.usage.prompt_tokens + row.call.usage.completion_tokens
    }
