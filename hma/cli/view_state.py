"""What the live view knows about a job. `hma.cli.fold` makes it, `hma.cli.live` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from hma.v1 import attempt_pb2, common_pb2, job_pb2

Key = tuple[str, int]
"""An attempt: task_uid and attempt number."""

LOST = "lost"
"""Outcome of an attempt that nothing was heard of."""

MAX_NOTICES = 20
"""The latest ones that are kept."""

K = TypeVar("K")
V = TypeVar("V")

NO_CALLS: Mapping[int, int] = MappingProxyType({})
"""Tokens by call, when there are none."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as the view shows it.

    Attributes:
        task_uid: The MetaAgent's name for it.
        task_id: Its name in the plan.
        title: A few words for people.
        state: Where it is.
        allotted: Tokens set aside for it.
        waits_for: Ids of the tasks it depends on.
        problem: Why it is not whole; empty when it is.
    """

    task_uid: str
    task_id: str
    title: str
    state: job_pb2.TaskState.ValueType
    allotted: int
    waits_for: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt: who worked when, on what grant.

    Attributes:
        task_uid: The task.
        attempt: From 1.
        role: Who works.
        route: The route's name.
        start: When it was dispatched, in seconds since 1970 by database time.
        end: When its result was in; None while it runs.
        call: The call that the latest grant is for.
        grant: Tokens of that grant; 0 when it was denied.
        settled: Tokens spent, by call.
        unknown: Upper bound of what it spent when it was lost.
        usage: Tokens of the running attempt so far, as it reports them.
        text: Its output so far.
        phase: A few words on what it is doing.
        outcome: How it ended; "" while it runs.
    """

    task_uid: str
    attempt: int
    role: common_pb2.Role.ValueType
    route: str
    start: float
    end: float | None = None
    call: int = 0
    grant: int = 0
    settled: Mapping[int, int] = field(default_factory=lambda: NO_CALLS)
    unknown: int = 0
    usage: int = 0
    text: str = ""
    phase: str = ""
    outcome: str = ""

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self.end is None

    @property
    def reported(self) -> bool:
        """Whether its result is in, so that nothing more is booked."""
        return self.outcome not in ("", LOST)

    @property
    def spent(self) -> int:
        """Tokens that have settled."""
        return sum(self.settled.values())

    @property
    def granted(self) -> int:
        """Tokens that are granted and not settled."""
        return self.grant if self.running and self.call not in self.settled else 0


@dataclass(frozen=True, slots=True)
class Spending:
    """Where the tokens are.

    Attributes:
        budget: What the job may spend.
        spent: Settled.
        unknown: What lost attempts may have spent.
        outstanding: Granted and not settled.
        reserved: Ring-fenced for the answer.
    """

    budget: int = 0
    spent: int = 0
    unknown: int = 0
    outstanding: int = 0
    reserved: int = 0

    @property
    def free(self) -> int:
        """What nobody has a claim on."""
        return max(0, self.budget - self.spent - self.unknown - self.outstanding - self.reserved)


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the view shows it.

    Attributes:
        job_id: The job.
        state: Where it is.
        reason: Why it is there.
        description: What was asked.
        created: When it was accepted, in seconds since 1970 by database time.
        deadline: When the answer must be there.
        now: The latest time that an update carried.
        shape: One agent or a team.
        plan_source: Who made the plan.
        items: How many things were asked.
        documents: How many documents there are.
        tasks: By task_uid, in plan order.
        attempts: In order of dispatch.
        budget: What it may spend.
        reserved: Ring-fenced for the answer.
        ready: Tasks that could run but wait for a place.
        moved: Tokens that went to tasks that could use more.
        cost: Money spent, in the currency of the routes' prices.
        outstanding_cost: Money that running and lost calls may cost at most.
        max_cost: Most money; 0: no limit.
        notices: What a user should know: requests, losses, trims; the latest last.
        news: The notice that the latest event gave; empty when it gave none.
        sequence: The latest event.
        finished: The end; None before it.
    """

    job_id: str = ""
    state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_UNSPECIFIED
    reason: str = ""
    description: str = ""
    created: float = 0.0
    deadline: float = 0.0
    now: float = 0.0
    shape: job_pb2.JobShape.ValueType = job_pb2.JOB_SHAPE_UNSPECIFIED
    plan_source: attempt_pb2.PlanSource.ValueType = attempt_pb2.PLAN_SOURCE_UNSPECIFIED
    items: int = 0
    documents: int = 0
    tasks: Mapping[str, TaskView] = field(default_factory=lambda: MappingProxyType({}))
    attempts: Mapping[Key, AttemptView] = field(default_factory=lambda: MappingProxyType({}))
    budget: int = 0
    reserved: int = 0
    ready: int = 0
    moved: int = 0
    cost: float = 0.0
    outstanding_cost: float = 0.0
    max_cost: float = 0.0
    notices: tuple[str, ...] = ()
    news: str = ""
    sequence: int = 0
    finished: job_pb2.JobFinished | None = None

    @property
    def answer(self) -> str:
        """The answer, or as much of it as has been written."""
        if self.finished is not None:
            return self.finished.answer.text
        writers = [a for a in self.attempts.values() if a.role == common_pb2.ROLE_REDUCER]
        if not writers and self.shape == job_pb2.JOB_SHAPE_SINGLE:
            writers = [a for a in self.attempts.values() if a.role == common_pb2.ROLE_WORKER]
        return next((a.text for a in reversed(writers) if a.text), "")

    def name(self, task_uid: str) -> str:
        """The name that people know a task by."""
        task = self.tasks.get(task_uid)
        if task is not None:
            return task.task_id
        return {"p": "plan", "r": "reduce"}.get(task_uid.partition(".")[0], task_uid)


def spending(view: JobView) -> Spending:
    """Where the tokens are, from the events alone; the ledger's own word at the end."""
    if view.finished is not None and view.finished.HasField("ledger"):
        ledger = view.finished.ledger
        return Spending(
            ledger.budget_tokens or view.budget,
            ledger.spent_tokens,
            ledger.unknown_tokens,
            ledger.outstanding_tokens,
            ledger.reserved_tokens,
        )
    attempts = view.attempts.values()
    return Spending(
        budget=view.budget,
        spent=sum(a.spent for a in attempts),
        unknown=sum(a.unknown for a in attempts),
        outstanding=sum(a.granted for a in attempts),
        reserved=0 if view.finished is not None else view.reserved,
    )


def put(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    """`mapping` with one entry set."""
    return {**mapping, key: value}


def noted(view: JobView, text: str) -> JobView:
    """`view` with one more thing that a user should know."""
    return replace(view, notices=(*view.notices, text)[-MAX_NOTICES:], news=text)
