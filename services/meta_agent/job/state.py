"""The state of a job: what its log folds to. Frozen; `apply` makes the next one.

Times are seconds since the Unix epoch by database time. Tokens are whole tokens.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2

AttemptKey = tuple[str, int]
"""(task_uid, attempt number): names one attempt within a job."""

PLAN_UID_PREFIX = "p."
REDUCE_UID_PREFIX = "r."

MOST_TOKENS = 2**31 - 1
"""Largest count of tokens that an event can hold (int32). A client's plan may add up to
more than that; what is more than any budget is as good as all."""

JobState = job_pb2.JobState
TaskState = job_pb2.TaskState

TERMINAL_JOB_STATES = frozenset(
    {
        job_pb2.JOB_STATE_SUCCEEDED,
        job_pb2.JOB_STATE_PARTIAL,
        job_pb2.JOB_STATE_FAILED,
        job_pb2.JOB_STATE_CANCELLED,
    }
)
TERMINAL_TASK_STATES = frozenset(
    {
        job_pb2.TASK_STATE_SUCCEEDED,
        job_pb2.TASK_STATE_PARTIAL,
        job_pb2.TASK_STATE_FAILED,
        job_pb2.TASK_STATE_SKIPPED,
    }
)


class AttemptStatus(enum.Enum):
    """Whether anything can still come from an attempt."""

    OPEN = "open"
    FINISHED = "finished"
    LOST = "lost"


def tokens_of(usage: common_pb2.Usage) -> int:
    """What a usage counts in a budget: prompt plus completion."""
    return usage.prompt_tokens + usage.completion_tokens


@dataclass(frozen=True, slots=True)
class AttemptFold:
    """One attempt.

    Attributes:
        epoch: Of the driver that started it.
        grant: The latest grant; outstanding until its call has settled.
        grants: How many were given after the first, so that each is sent once.
        settled: Numbers of the calls that are in the ledger.
        spent: Tokens of those calls.
        cost: Money for those calls.
        failed_calls: How many of those calls broke.
        unknown: Upper bound of what it may have spent beyond that, once lost.
        calls_left: Calls it expects to make after the granted one, as it last said.
        prompt_tokens: Prompt tokens of the granted call, as far as announced.
        stop: Why it was told to stop; None when it was not.
        cause: What led to that.
        deferred: The call that waits for its tenant's quota; as long as it does, nothing
            of the grant is spent. None when none does, or once it was answered.
        result: What it ended with, if it said so.
        orphaned: Lost with its driver: a later one gave it up, before anything was heard.
    """

    uid: str
    number: int
    role: common_pb2.Role.ValueType
    route: str
    epoch: int
    grant: attempt_pb2.Grant
    start: float
    deadline: float
    status: AttemptStatus = AttemptStatus.OPEN
    settled: frozenset[int] = frozenset()
    spent: int = 0
    cost: float = 0.0
    failed_calls: int = 0
    unknown: int = 0
    stop: attempt_pb2.StopReason.ValueType | None = None
    stop_time: float = 0.0
    end: float = 0.0
    result: attempt_pb2.AttemptResult | None = None
    lost_reason: str = ""
    grants: int = 0
    calls_left: int = 0
    prompt_tokens: int = 0
    cause: job_pb2.InterruptCause.ValueType = job_pb2.INTERRUPT_CAUSE_UNSPECIFIED
    deferred: attempt_pb2.CallIntent | None = None
    orphaned: bool = False

    @property
    def key(self) -> AttemptKey:
        """Its name within the job."""
        return self.uid, self.number

    @property
    def open(self) -> bool:
        """Whether it may still spend and report."""
        return self.status is AttemptStatus.OPEN

    @property
    def outstanding(self) -> int:
        """Tokens that its running call may still cost."""
        if not self.open or self.grant.denied or self.grant.call in self.settled:
            return 0
        if self.deferred is not None:
            return 0  # it waits for more than this grant, and calls nobody meanwhile
        return self.grant.tokens

    @property
    def succeeded(self) -> bool:
        """Whether it brought all that was asked."""
        whole = attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        return self.result is not None and self.result.state == whole

    @property
    def refused(self) -> bool:
        """Whether the service turned it away before it began."""
        return self.result is not None and self.result.state == attempt_pb2.ATTEMPT_STATE_REFUSED

    @property
    def handed_over(self) -> bool:
        """Whether it ended because its service was stopped or its driver gone: no failure.

        What it reports after that says whether there was one.
        """
        if self.stop is not None:
            return False
        return self.orphaned if self.result is None else self.result.handed_over


@dataclass(frozen=True, slots=True)
class TaskFold:
    """One task of the plan.

    Attributes:
        allotted: Tokens set aside for it, spent ones included.
        attempts: How many were started.
        result: The best result so far; None when there is none.
        value: What it was expected to be worth when it was admitted.
        merged_into: Uid of the task that has its items now; empty when none has.
        redoes: Uid of the task of an earlier round whose open items it has.
    """

    uid: str
    task: task_pb2.Task
    layer: int
    source: attempt_pb2.PlanSource.ValueType
    allotted: int
    state: TaskState.ValueType = job_pb2.TASK_STATE_WAITING
    attempts: int = 0
    failure: common_pb2.Failure | None = None
    result: task_pb2.TaskResult | None = None
    value: job_pb2.ValueEstimate | None = None
    merged_into: str = ""
    redoes: str = ""

    @property
    def generation(self) -> int:
        """The round that planned it: the first part of its uid."""
        return int(self.uid.partition(".")[0])

    @property
    def settled(self) -> bool:
        """Whether it has ended, for good."""
        return self.state in TERMINAL_TASK_STATES


def _no_names() -> Mapping[str, str]:
    return MappingProxyType({})


def _no_tokens() -> Mapping[str, int]:
    return MappingProxyType({})


def _frozen() -> Mapping[str, TaskFold]:
    return MappingProxyType({})


def _frozen_attempts() -> Mapping[AttemptKey, AttemptFold]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class JobFold:
    """A job, as its log says it is.

    Attributes:
        version: Sequence of the latest event that is folded in.
        epoch: Of the latest driver.
        claimed: When that driver took the job.
        replica: Whose driver that is.
        takeovers: How often another replica has taken the job over.
        budget: Tokens it may spend, top-ups included.
        spent: Tokens in the ledger.
        unknown: Upper bound of what lost attempts may have spent.
        rows: The ledger, one row a call.
        tasks: By uid, in the order they were admitted.
        uids: Of the tasks, by the id that each has in its plan.
        attempts: By (uid, number), in the order they were started.
        max_cost: Money it may spend, top-ups included; 0: no limit.
        added: Tokens of top-ups that have not been set aside for a task since.
        deferred: Tasks that the budget does not pay for now, and what each needs.
        round: The round that is worked on, from 1.
        rounds: How the answers of the rounds before were judged.
        answer: Of this round; in the end the one that stands.
        previous_answer: The best of the rounds before.
        drawn: Tokens drawn from the tenant's quota; None: the budget is all that limits.
        quota_limit: The tenant's limit that had no room at the latest try; empty: none.
        quota_retry: When it was expected to have some; 0: not known.
    """

    job_id: str = ""
    version: int = 0
    epoch: int = 0
    claimed: float = 0.0
    replica: str = ""
    takeovers: int = 0
    created: job_pb2.JobCreated = field(default_factory=job_pb2.JobCreated)
    create_time: float = 0.0
    start_time: float = 0.0
    end_time: float = 0.0
    deadline: float = 0.0
    state: JobState.ValueType = job_pb2.JOB_STATE_UNSPECIFIED
    reason: str = ""
    budget: int = 0
    spent: int = 0
    unknown: int = 0
    cost: float = 0.0
    rows: tuple[job_pb2.LedgerRow, ...] = ()
    shape: job_pb2.ShapeDecided | None = None
    brief: task_pb2.Brief | None = None
    tasks: Mapping[str, TaskFold] = field(default_factory=_frozen)
    uids: Mapping[str, str] = field(default_factory=_no_names)
    attempts: Mapping[AttemptKey, AttemptFold] = field(default_factory=_frozen_attempts)
    plan_closed: job_pb2.PlanClosed | None = None
    unfunded: tuple[task_pb2.Missing, ...] = ()
    interrupted: str | None = None
    cancelled: str | None = None
    max_cost: float = 0.0
    added: int = 0
    deferred: Mapping[str, int] = field(default_factory=_no_tokens)
    round: int = 1
    rounds: tuple[job_pb2.RoundJudged, ...] = ()
    answer: task_pb2.Answer | None = None
    previous_answer: task_pb2.Answer | None = None
    finished: job_pb2.JobFinished | None = None
    drawn: int | None = None
    quota_limit: str = ""
    quota_retry: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the job is over."""
        return self.state in TERMINAL_JOB_STATES

    @property
    def best_answer(self) -> task_pb2.Answer | None:
        """The answer there is: of this round, or the best of those before."""
        return self.answer if self.answer is not None else self.previous_answer

    @property
    def plan_uid(self) -> str:
        """Uid of the Analyst's attempts."""
        return f"{PLAN_UID_PREFIX}1"

    @property
    def reduce_uid(self) -> str:
        """Uid of this round's attempts at reducing."""
        return f"{REDUCE_UID_PREFIX}{self.round}"

    @property
    def outstanding(self) -> int:
        """Tokens granted to calls that have not settled."""
        return sum(a.outstanding for a in self.attempts.values() if a.open)

    def open_attempts(self) -> Iterator[AttemptFold]:
        """Attempts that may still report."""
        return (a for a in self.attempts.values() if a.open)

    def attempts_of(self, uid: str) -> list[AttemptFold]:
        """The attempts at one task, in order."""
        found: list[AttemptFold] = []
        # They are numbered from 1 without a gap, so no other task's are looked at.
        while (attempt := self.attempts.get((uid, len(found) + 1))) is not None:
            found.append(attempt)
        return found

    def open_attempt(self, uid: str) -> AttemptFold | None:
        """The attempt at `uid` that is open; None when there is none."""
        return next((a for a in self.attempts_of(uid) if a.open), None)

    def has_succeeded(self, uid: str) -> bool:
        """Whether an attempt at `uid` brought all that was asked."""
        return any(a.succeeded for a in self.attempts_of(uid))

    def task_by_id(self, task_id: str) -> TaskFold | None:
        """A task by the id it has in its plan."""
        return self.tasks.get(self.uids.get(task_id, ""))
