"""Counts what calls cost and what answers are worth, for estimates of later jobs.

Only what is known for sure: calls that ended by themselves and were counted exactly. What
is counted is read back as `deciding.history.History`.
"""

from __future__ import annotations

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.history import (
    CENSORED,
    MERGE,
    PROSE,
    REDUCE,
    Key,
    bucket_of,
    route_label,
    task_key,
)
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.valuing import EXTRACT_WEIGHT, weight_of
from services.meta_agent.job.state import AttemptFold, JobFold
from services.meta_agent.recording.fleet_metrics import FleetCounters
from services.meta_agent.store.fleet import HISTORY

_TRIED = (attempt_pb2.CALL_PURPOSE_WORK, attempt_pb2.CALL_PURPOSE_REASK)


class HistoryCounters:
    """Adds to the fleet's counters; told of every event once."""

    def __init__(self, counters: FleetCounters, rules: Rules) -> None:
        """Counts nothing yet.

        Args:
            counters: Take the counts to the database.
            rules: Which model a route is configured for.
        """
        self._counters = counters
        self._rules = rules

    def observe(self, event: job_pb2.JobEvent, before: JobFold, fold: JobFold) -> None:
        """Counts what an event makes known.

        Args:
            event: The event.
            before: The job before it.
            fold: The job after it.
        """
        for row in fold.rows[len(before.rows) :]:
            self._count_call(row, fold)
        match event.WhichOneof("payload"):
            case "attempt_finished":
                ref = event.attempt_finished.ref
                attempt = fold.attempts.get((ref.task_uid, ref.attempt))
                if attempt is not None:
                    self._count_attempt(attempt, fold)
            case "task_settled":
                self._count_answers(event.task_settled.task_uid, fold)

    def _count_call(self, row: job_pb2.LedgerRow, fold: JobFold) -> None:
        task, call = fold.tasks.get(row.task_uid), row.call
        exact = call.usage.accuracy == common_pb2.ACCURACY_EXACT
        if task is None or not exact or not _ended(call) or call.purpose not in _TRIED:
            return
        route = self._rules.route(call.route)
        key = task_key(route, task.task.kind, task.task.complexity)
        per_item = call.usage.completion_tokens / max(call.items, 1)
        if call.finish_reason == "length":
            per_item *= CENSORED
        self._bucket(key, "completion", per_item)
        self._bucket(key, "prompt", call.usage.prompt_tokens)
        self._bucket(key, "milliseconds", call.duration.ToMilliseconds())

    def _count_attempt(self, attempt: AttemptFold, fold: JobFold) -> None:
        """How long reducing takes."""
        whole = attempt.result is not None and attempt.result.HasField("answer")
        if attempt.role != common_pb2.ROLE_REDUCER or not whole or attempt.stop is not None:
            return
        how = PROSE if attempt.settled else MERGE
        key = Key(route_label(self._rules.route(attempt.route)), REDUCE, how)
        self._bucket(key, "milliseconds", 1000 * (attempt.end - attempt.start))

    def _count_answers(self, uid: str, fold: JobFold) -> None:
        """What became of the items that a model was asked; what it never saw says nothing.

        A task that was stopped after its first call has not failed at the items of the
        others, and an extract for one of those is no answer of the model's.
        """
        task, attempts = fold.tasks.get(uid), fold.attempts_of(uid)
        tried = [a for a in attempts if a.settled]
        if task is None or not tried:
            return
        given = list(task.result.items) if task.result else []
        read = [item for item in given if item.origin != common_pb2.ORIGIN_EXTRACT]
        calls = [row.call for row in fold.rows if row.task_uid == uid and _ended(row.call)]
        asked = sum(max(c.items, 1) for c in calls if c.purpose == attempt_pb2.CALL_PURPOSE_WORK)
        asked = max(min(asked, max(len(task.task.items), 1)), len(read))
        if not asked:
            return
        extracts = min(len(given) - len(read), asked - len(read))
        weight = sum(weight_of(item) for item in read) + extracts * EXTRACT_WEIGHT
        route = self._rules.route(tried[-1].route)
        key = task_key(route, task.task.kind, task.task.complexity)
        self._add(key, "asked", asked)
        self._add(key, "weight", weight)

    def _bucket(self, key: Key, measure: str, value: float) -> None:
        self._add(key, measure, 1, bucket=str(bucket_of(value)))

    def _add(self, key: Key, measure: str, value: float, **more: str) -> None:
        self._counters.add(HISTORY, value, {**dict(key.labels), "measure": measure, **more})


def _ended(call: attempt_pb2.CallUsage) -> bool:
    """Whether a call came to an end by itself, or by its length."""
    return call.finish_reason in ("stop", "length")
