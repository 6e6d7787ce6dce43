"""A log as it is written: events and snapshots on a time scale, numbered, with a ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2

EPOCH = 1_800_000_000
Update = meta_agent_pb2.WatchJobResponse


@dataclass(frozen=True)
class Step:
    """An update and when it happens, in seconds after the job was accepted."""

    at: float
    update: Update


def stamp(at: float) -> Timestamp:
    message = Timestamp()
    message.FromNanoseconds(EPOCH * 10**9 + round(at * 1e9))
    return message


def span(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


@dataclass
class Log:
    """Collects what happens, in any order, and numbers it."""

    job_id: str = "job-01k0scripted0000000000000"
    entries: list[tuple[float, int, job_pb2.JobEvent | job_pb2.JobProgress]] = field(
        default_factory=list
    )

    def event(self, at: float, **payload: object) -> None:
        event = job_pb2.JobEvent(job_id=self.job_id, time=stamp(at), epoch=1, **payload)  # type: ignore[arg-type]
        self.entries.append((at, len(self.entries), event))

    def progress(self, at: float, attempt: job_pb2.RunningAttempt) -> None:
        snapshot = job_pb2.JobProgress(job_id=self.job_id, attempts=[attempt], time=stamp(at))
        self.entries.append((at, len(self.entries), snapshot))

    def steps(self, budget: int, reserved: int) -> list[Step]:
        tally = _Tally(budget, reserved)
        sequence = 0
        steps = []
        for at, _, entry in sorted(self.entries, key=lambda entry: entry[:2]):
            if isinstance(entry, job_pb2.JobEvent):
                sequence += 1
                entry.sequence = sequence
                entry.event_id = f"{self.job_id}/{sequence}"
                tally.event(entry)
                steps.append(Step(at, Update(event=entry)))
            else:
                entry.sequence = sequence
                tally.snapshot(entry)
                steps.append(Step(at, Update(progress=entry)))
        return steps


class _Tally:
    """Where the tokens are and what runs, as the log goes by."""

    def __init__(self, budget: int, reserved: int) -> None:
        self.ledger = job_pb2.Ledger(budget_tokens=budget, reserved_tokens=reserved)
        self.grants: dict[tuple[str, int], int] = {}
        self.running: dict[tuple[str, int], job_pb2.RunningAttempt] = {}

    def event(self, event: job_pb2.JobEvent) -> None:
        kind = event.WhichOneof("payload")
        if kind == "attempt_started":
            started = event.attempt_started
            self.grants[_key(started.ref)] = started.grant.tokens
            if started.role == common_pb2.ROLE_REDUCER:
                self.ledger.reserved_tokens = 0
        elif kind == "call_settled":
            self.settle(event.call_settled.ref, event.call_settled.call)
        elif kind == "attempt_finished":
            for call in event.attempt_finished.result.calls:
                self.settle(event.attempt_finished.ref, call)
            self.running.pop(_key(event.attempt_finished.ref), None)
        elif kind == "attempt_lost":
            self.grants.pop(_key(event.attempt_lost.ref))
            self.running.pop(_key(event.attempt_lost.ref), None)
            self.ledger.unknown_tokens += event.attempt_lost.unknown_tokens
        self.ledger.outstanding_tokens = sum(self.grants.values())

    def settle(self, ref: attempt_pb2.AttemptRef, call: attempt_pb2.CallUsage) -> None:
        if self.grants.pop(_key(ref), None) is not None:
            usage = call.usage
            self.ledger.spent_tokens += usage.prompt_tokens + usage.completion_tokens

    def snapshot(self, progress: job_pb2.JobProgress) -> None:
        for attempt in progress.attempts:
            self.running[_key(attempt.ref)] = attempt
        del progress.attempts[:]
        progress.attempts.extend(self.running.values())
        progress.ledger.CopyFrom(self.ledger)


def _key(ref: attempt_pb2.AttemptRef) -> tuple[str, int]:
    return ref.task_uid, ref.attempt
