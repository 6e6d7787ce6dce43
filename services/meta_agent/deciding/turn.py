"""One decision in the making: the state so far, and the events that led there."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.observed import Observations, RouteState
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.valuing import realised_gain
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import AttemptFold, AttemptKey, JobFold, TaskFold
from services.meta_agent.job.times import timestamp


class Turn:
    """Collects the events of one decision; every event is folded in at once.

    Rules read `fold` and call `emit`; each sees what the ones before it decided.
    Nothing outside the turn changes.

    Attributes:
        fold: The state with the events so far.
        now: Database time of the decision.
        events: What was decided, in order.
        wake_at: When to decide again if nothing happens before.
        crowded: Routes on which a task would start if they had a place for it.
        quota_least: Tokens that must be drawn so that what waits first can go on; 0 while
            nothing waits.
        quota_tokens: What all that waits could use.
        routes: By name: whether each can be called now, as far as it was observed; one that
            is tried by what was decided in this turn takes no more.
    """

    def __init__(self, fold: JobFold, observed: Observations, now: float, rules: Rules) -> None:
        self.fold = fold
        self.observed = observed
        self.now = now
        self.rules = rules
        self.events: list[job_pb2.JobEvent] = []
        self.wake_at = math.inf
        self._version = fold.version
        self.crowded: set[str] = set()
        self.quota_least = 0
        self.quota_tokens = 0
        self._before = open_workers(fold)
        self.routes = dict(observed.routes)

    @property
    def places(self) -> int:
        """How many more Worker attempts may be opened.

        What ended in this very turn has left its place.
        """
        now = open_workers(self.fold)
        return self.observed.slots + self._before.total() - now.total()

    def route_places(self, name: str) -> int:
        """How many more Worker attempts may be opened on a route."""
        now = open_workers(self.fold)
        return self.route_state(name).slots + self._before[name] - now[name]

    def emit(self, **payload: Any) -> None:
        """Decides one event, for example `emit(state_changed=StateChanged(…))`."""
        event = job_pb2.JobEvent(
            job_id=self.fold.job_id,
            # Epoch, version and place name a decision: made again after an
            # ambiguous commit it carries the same ids, and is stored once.
            event_id=f"{self.fold.epoch}.{self._version}.{len(self.events)}",
            time=timestamp(self.now),
            epoch=self.fold.epoch,
            **payload,
        )
        self.fold = apply(self.fold, event)
        self.events.append(event)

    def wake(self, when: float) -> None:
        """Asks for another decision at `when`, or earlier."""
        self.wake_at = min(self.wake_at, when)

    def ref(self, attempt: AttemptFold) -> attempt_pb2.AttemptRef:
        """The attempt's name on the wire."""
        return attempt_pb2.AttemptRef(
            job_id=self.fold.job_id,
            epoch=attempt.epoch,
            task_uid=attempt.uid,
            attempt=attempt.number,
        )

    def route_state(self, name: str) -> RouteState:
        """Whether a route can be called now."""
        return self.routes.get(name, RouteState(ready=True))

    # What several rules decide in the same words.

    def change_state(self, state: job_pb2.JobState.ValueType, reason: str) -> None:
        """Moves the job, or only its reason; nothing when neither is new."""
        if (self.fold.state, self.fold.reason) == (state, reason):
            return
        change = job_pb2.StateChanged(to=state, reason=reason)
        setattr(change, "from", self.fold.state)
        self.emit(state_changed=change)

    def start_attempt(
        self,
        uid: str,
        role: common_pb2.Role.ValueType,
        *,
        route: str,
        tokens: int,
        deadline: float,
        route_reason: str = "",
    ) -> None:
        """Dispatches the next attempt at `uid`."""
        number = len(self.fold.attempts_of(uid)) + 1
        self.emit(
            attempt_started=job_pb2.AttemptStarted(
                ref=attempt_pb2.AttemptRef(
                    job_id=self.fold.job_id, epoch=self.fold.epoch, task_uid=uid, attempt=number
                ),
                role=role,
                route=route,
                grant=attempt_pb2.Grant(call=1, tokens=max(tokens, 0)),
                deadline_time=timestamp(deadline),
                route_reason=route_reason,
            )
        )
        state = self.route_state(route)
        if tokens > 0 and state.trial:
            self.routes[route] = RouteState(False, state.detail, 0)
        self.wake(deadline)

    def stop_attempt(
        self,
        attempt: AttemptFold,
        reason: attempt_pb2.StopReason.ValueType,
        note: str,
        cause: job_pb2.InterruptCause.ValueType,
        **evidence: Any,
    ) -> None:
        """Tells an open attempt to end; once.

        Args:
            attempt: The attempt.
            reason: What its service is to do.
            note: Why, in words.
            cause: What led to it.
            evidence: Other fields of `AttemptStopped`: what it was decided from.
        """
        if attempt.open and attempt.stop is None:
            self.emit(
                attempt_stopped=job_pb2.AttemptStopped(
                    ref=self.ref(attempt), reason=reason, note=note, cause=cause, **evidence
                )
            )
            # How long it may take to report is for the next decision to see.
            self.wake(self.now)

    def lose_attempt(self, attempt: AttemptFold, reason: str) -> None:
        """Gives an open attempt up: what it held may be spent, and is booked so."""
        self.emit(
            attempt_lost=job_pb2.AttemptLost(
                ref=self.ref(attempt), unknown_tokens=attempt.outstanding, reason=reason
            )
        )

    def settle_task(
        self,
        task: TaskFold,
        state: job_pb2.TaskState.ValueType,
        failure: common_pb2.Failure | None = None,
    ) -> None:
        """Ends a task for good; what it has not used returns to the pool."""
        used = sum(a.spent + a.unknown for a in self.fold.attempts_of(task.uid))
        self.emit(
            task_settled=job_pb2.TaskSettled(
                task_uid=task.uid,
                state=state,
                failure=failure,
                refunded_tokens=max(task.allotted - used, 0),
                predicted_gain=task.value.gain if task.value is not None else 0.0,
                realised_gain=realised_gain(task, self.fold),
                spent_tokens=used,
            )
        )
        # What follows from it (dependents, stops, refunds) may be for rules that have
        # had their turn: decide again at once.
        self.wake(self.now)


def open_workers(fold: JobFold) -> Counter[str]:
    """Worker attempts that are open, by route."""
    return Counter(a.route for a in fold.open_attempts() if a.role == common_pb2.ROLE_WORKER)


def callers(fold: JobFold) -> dict[AttemptKey, str]:
    """Open attempts of the present driver that may call a model, and the route of each.

    Without tokens, an Analyst plans and a Reducer merges by code.
    """
    mine = (a for a in fold.open_attempts() if a.epoch == fold.epoch)
    return {a.key: a.route for a in mine if a.grant.tokens > 0}


def failure(
    failure_class: common_pb2.FailureClass.ValueType,
    message: str,
    role: common_pb2.Role.ValueType = common_pb2.ROLE_META_AGENT,
) -> common_pb2.Failure:
    """A failure that the MetaAgent itself states."""
    return common_pb2.Failure(failure_class=failure_class, message=message, role=role)
