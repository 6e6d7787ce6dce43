"""What of a job's log explains it: one pass over the events, kept in the order of time.

A log may be long and its results large, so the story takes events as they are read
and keeps only what is told later. All else is a function of the finished story.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hma.v1 import attempt_pb2, job_pb2, task_pb2
from services.meta_agent.job.leniently import fold_what_folds
from services.meta_agent.job.state import (
    PLAN_UID_PREFIX,
    REDUCE_UID_PREFIX,
    AttemptKey,
    AttemptStatus,
    JobFold,
)
from services.meta_agent.job.times import seconds

PLAN = "plan"
REDUCE = "reduce"
POOL = "pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When something happened: its event's sequence, and seconds by database time."""

    sequence: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(Moment):
    """Tokens that moved.

    Attributes:
        giver: Uid of the task that gave; empty: the pool.
        getter: Uid of the task that got; empty: the pool.
        giver_settled: Whether the giver had ended by then.
        estimate: What they were expected to buy; None when nothing was.
        before: What the getter had brought by then.
    """

    giver: str
    getter: str
    tokens: int
    reason: str
    giver_settled: bool = False
    estimate: job_pb2.ValueEstimate | None = None
    before: task_pb2.TaskResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Moment):
    """An attempt was told to stop after so many seconds."""

    event: job_pb2.AttemptStopped
    elapsed: float

    @property
    def key(self) -> AttemptKey:
        """The attempt."""
        return self.event.ref.task_uid, self.event.ref.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Moment):
    """An attempt was given up, with what it may have spent; or (known) that came out.

    Attributes:
        key: The attempt.
        tokens: Upper bound of what was unknown.
        known: What a late report said instead; None for the loss itself.
    """

    key: AttemptKey
    tokens: int
    reason: str
    known: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detour(Moment):
    """A task went to another route than its attempt before."""

    uid: str
    before: str
    route: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Moment):
    """An event that is told as it stands."""

    event: job_pb2.JobEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim(Moment):
    """What became of a task that the budget did not pay for."""

    event: job_pb2.Trimmed


@dataclass(slots=True)
class Story:
    """What has happened so far. `take` adds to it; nothing else changes it.

    Attributes:
        fold: The job as it is now.
        admitted: Tasks as they were planned, by uid.
        settled: How they ended, by uid.
        settle_moments: When they ended.
        started: Every attempt's start, by key.
        trims: The latest trim of each task, by uid.
        noted: Events that are told as they stand.
        draws: When a wait for quota was over, by the sequence of its event.
    """

    fold: JobFold = field(default_factory=JobFold)
    admitted: dict[str, job_pb2.TaskAdmitted] = field(default_factory=dict)
    settled: dict[str, job_pb2.TaskSettled] = field(default_factory=dict)
    settle_moments: dict[str, Moment] = field(default_factory=dict)
    started: dict[AttemptKey, job_pb2.AttemptStarted] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    detours: list[Detour] = field(default_factory=list)
    trims: dict[str, Trim] = field(default_factory=dict)
    noted: list[Noted] = field(default_factory=list)
    draws: dict[int, float] = field(default_factory=dict)

    def take(self, events: Iterable[job_pb2.JobEvent]) -> None:
        """Adds what comes next in the log."""
        for event in events:
            before = self.fold
            self.fold = fold_what_folds([event], before)
            self._note(event, before)

    @property
    def rounds(self) -> list[job_pb2.RoundJudged]:
        """How the answer was judged, round by round."""
        return [n.event.round_judged for n in self.noted if n.event.HasField("round_judged")]

    def name(self, uid: str) -> str:
        """The name that people know a task by; "pool" when it is none."""
        if not uid:
            return POOL
        admitted = self.admitted.get(uid)
        if admitted is not None:
            return admitted.task.id
        if uid.startswith(PLAN_UID_PREFIX):
            return PLAN
        return REDUCE if uid.startswith(REDUCE_UID_PREFIX) else uid

    def told(self, uid: str) -> str:
        """As `name`, so that a sentence can be made with it: "all" is "task all"."""
        name = self.name(uid)
        if name in _TOLD:
            return _TOLD[name]
        return name if any(char.isdigit() for char in name) else f"task {name}"

    def merged_into(self, uid: str) -> str:
        """Uid of the task that got the items of `uid`; empty when none did."""
        trim = self.trims.get(uid)
        if trim is None or trim.event.action != job_pb2.TRIM_ACTION_MERGE:
            return ""
        return trim.event.into_task_uid

    def _note(self, event: job_pb2.JobEvent, before: JobFold) -> None:
        at = Moment(sequence=event.sequence, time=seconds(event.time))
        match event.WhichOneof("payload"):
            case "task_admitted":
                self.admitted[event.task_admitted.task_uid] = event.task_admitted
            case "task_settled":
                self._settled(event.task_settled, before, at)
            case "attempt_started":
                self._started(event.attempt_started, before, at)
            case "call_granted":
                self._granted(event.call_granted, at)
            case "tokens_moved":
                self._moved(event.tokens_moved, at)
            case "attempt_stopped":
                self._stopped(event.attempt_stopped, before, at)
            case "attempt_lost":
                self._lost(event.attempt_lost, before, at)
            case "attempt_reported":
                self._reported(event.attempt_reported.ref, before, at)
            case "attempt_finished":
                self._reported(event.attempt_finished.ref, before, at)
            case "plan_trimmed":
                for trimmed in event.plan_trimmed.tasks:
                    trim = Trim(sequence=at.sequence, time=at.time, event=trimmed)
                    self.trims[trimmed.task_uid] = trim
                self._keep(event, at)
            case "quota_drawn":
                self._drawn(event, at)
            case (
                "shape_decided"
                | "plan_closed"
                | "round_judged"
                | "budget_granted"
                | "interrupt_requested"
                | "cancel_requested"
                | "job_finished"
            ):
                self._keep(event, at)

    def _drawn(self, event: job_pb2.JobEvent, at: Moment) -> None:
        """Keeps that the job waits for quota, and later when it went on."""
        waits = [n for n in self.noted if n.event.HasField("quota_drawn")]
        waiting = bool(waits) and waits[-1].sequence not in self.draws
        if event.quota_drawn.limit:
            if not waiting:  # else it has only given back what it held meanwhile
                self._keep(event, at)
        elif waiting:
            self.draws[waits[-1].sequence] = at.time

    def _keep(self, event: job_pb2.JobEvent, at: Moment) -> None:
        self.noted.append(Noted(sequence=at.sequence, time=at.time, event=event))

    def _settled(self, settled: job_pb2.TaskSettled, before: JobFold, at: Moment) -> None:
        task = before.tasks.get(settled.task_uid)
        if task is None or settled.task_uid in self.settled:
            return
        self.settled[settled.task_uid] = settled
        self.settle_moments[settled.task_uid] = at
        if settled.refunded_tokens > 0:
            self.moves.append(
                Move(
                    sequence=at.sequence,
                    time=at.time,
                    giver=settled.task_uid,
                    getter="",
                    tokens=settled.refunded_tokens,
                    reason=_REFUNDS.get(settled.state, "it ended"),
                    giver_settled=True,
                )
            )

    def _started(self, started: job_pb2.AttemptStarted, before: JobFold, at: Moment) -> None:
        self.started[(started.ref.task_uid, started.ref.attempt)] = started
        tries = [a for a in before.attempts_of(started.ref.task_uid) if not a.refused]
        if tries and tries[-1].route != started.route:
            self.detours.append(
                Detour(
                    sequence=at.sequence,
                    time=at.time,
                    uid=started.ref.task_uid,
                    before=tries[-1].route,
                    route=started.route,
                    reason=started.route_reason,
                )
            )

    def _granted(self, granted: job_pb2.CallGranted, at: Moment) -> None:
        if granted.from_pool_tokens <= 0 or granted.grant.denied:
            return
        uid = granted.ref.task_uid
        self._move(
            at,
            getter=uid,
            tokens=granted.from_pool_tokens,
            reason=f"call {granted.grant.call} needed more than was set aside",
            estimate=granted.estimate if granted.HasField("estimate") else None,
        )

    def _moved(self, moved: job_pb2.TokensMoved, at: Moment) -> None:
        self._move(
            at,
            giver=moved.from_task_uid,
            getter=moved.to_task_uid,
            tokens=moved.tokens,
            reason=moved.reason,
            estimate=moved.estimate if moved.HasField("estimate") else None,
        )

    def _move(
        self,
        at: Moment,
        *,
        getter: str,
        tokens: int,
        reason: str,
        giver: str = "",
        estimate: job_pb2.ValueEstimate | None = None,
    ) -> None:
        task, source = self.fold.tasks.get(getter), self.fold.tasks.get(giver)
        self.moves.append(
            Move(
                sequence=at.sequence,
                time=at.time,
                giver=giver,
                getter=getter,
                tokens=tokens,
                reason=reason,
                giver_settled=source is not None and source.settled,
                estimate=estimate,
                before=task.result if task is not None else None,
            )
        )

    def _stopped(self, stopped: job_pb2.AttemptStopped, before: JobFold, at: Moment) -> None:
        attempt = before.attempts.get((stopped.ref.task_uid, stopped.ref.attempt))
        if attempt is None or not attempt.open or attempt.stop is not None:
            return
        elapsed = at.time - attempt.start
        if stopped.HasField("elapsed"):
            elapsed = stopped.elapsed.ToNanoseconds() / 1e9
        self.stops.append(
            Stop(sequence=at.sequence, time=at.time, event=stopped, elapsed=max(elapsed, 0.0))
        )

    def _lost(self, lost: job_pb2.AttemptLost, before: JobFold, at: Moment) -> None:
        attempt = before.attempts.get((lost.ref.task_uid, lost.ref.attempt))
        if attempt is not None and attempt.open:
            self.losses.append(
                Loss(
                    sequence=at.sequence,
                    time=at.time,
                    key=attempt.key,
                    tokens=lost.unknown_tokens,
                    reason=lost.reason,
                )
            )

    def _reported(self, ref: attempt_pb2.AttemptRef, before: JobFold, at: Moment) -> None:
        attempt = before.attempts.get((ref.task_uid, ref.attempt))
        if attempt is None or attempt.status is not AttemptStatus.LOST:
            return
        known = self.fold.attempts[attempt.key].spent - attempt.spent
        self.losses.append(
            Loss(
                sequence=at.sequence,
                time=at.time,
                key=attempt.key,
                tokens=attempt.unknown,
                reason=attempt.lost_reason,
                known=known,
            )
        )


_TOLD = {POOL: "the pool", PLAN: "planning", REDUCE: "reducing"}

_REFUNDS = {
    job_pb2.TASK_STATE_SUCCEEDED: "it was done with less than was set aside",
    job_pb2.TASK_STATE_PARTIAL: "it ended with a part of its answers",
    job_pb2.TASK_STATE_FAILED: "it failed",
    job_pb2.TASK_STATE_SKIPPED: "it was skipped",
}
