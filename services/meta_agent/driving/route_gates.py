"""How many attempts each route takes now: its breaker, and what its server bears.

Learned from what this replica's drivers see committed, over all their jobs. A route that
fails is closed for a while (`breaker`); one whose server is asked for too much gets
fewer attempts at once (`capacity`): additive increase, multiplicative decrease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.failing import ROUTES_FAULT
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.deciding.turn import callers, open_workers
from services.meta_agent.driving.breaker import Breaker, BreakerRules, State
from services.meta_agent.driving.capacity import Capacity, Claimant
from services.meta_agent.job.state import AttemptFold, AttemptKey, JobFold, tokens_of

EASED = 1.0
"""Seconds between two decreases: refusals of one burst are one sign."""

FEWER = 0.5
"""What is left of the attempts on a route whose server refuses some."""

QUEUED = 0.75
"""What is left of them when its queue is long."""

AFTER_CLOSING = 2
"""Attempts on a route that has just been closed again: no herd."""

SILENT = 10.0
"""Seconds of an attempt whose time is up, without an answer, that tell of its route: one
that was given less may just have been given too little."""

_ANSWERED = frozenset({"stop", "length", "tool_calls"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What opens and narrows a route.

    Attributes:
        breaker: When it is closed to attempts.
        most: Worker attempts on one route at once, whatever is learned.
        max_waiting: Requests that may wait at a route's server before fewer attempts
            are made; 0: its queue is not looked at.
        replica: This replica, for the jitter.
    """

    breaker: BreakerRules = field(default_factory=BreakerRules)
    most: int = 64
    max_waiting: int = 16
    replica: str = ""


@dataclass(slots=True)
class _Probe:
    """The attempt that tries a route.

    Attributes:
        job_id: Whose.
        key: Which.
        begun: Whether the log has it: until then, its job may decide otherwise.
    """

    job_id: str
    key: AttemptKey
    begun: bool = False


class _Gate:
    """One route."""

    def __init__(self, rules: GateRules) -> None:
        self.breaker = Breaker()
        self.places = Capacity(rules.most)
        self.probe: _Probe | None = None
        self.eased = float("-inf")


class RouteGates:
    """The gates of all routes."""

    def __init__(self, names: Iterable[str], rules: GateRules, clock: Callable[[], float]) -> None:
        """All are closed breakers, and nothing is learned.

        Args:
            names: Of the routes.
            rules: What opens and narrows them.
            clock: Seconds that never go back.
        """
        self._rules = rules
        self._clock = clock
        self._gates = {name: _Gate(rules) for name in names}

    @property
    def narrowed(self) -> bool:
        """Whether some route takes fewer attempts than it may."""
        return any(gate.places.lowered for gate in self._gates.values())

    def states(self, seen: Mapping[str, RouteState], job_id: str = "") -> dict[str, RouteState]:
        """What a job may start on each route.

        Args:
            seen: What the routes' servers say of themselves.
            job_id: The job; empty: without its places.
        """
        now = self._clock()
        return {
            name: self._state(state, self._gates[name], now, job_id) if state.ready else state
            for name, state in seen.items()
        }

    def signs(self) -> dict[str, State]:
        """Where each breaker is: what listeners are told of."""
        now = self._clock()
        return {name: gate.breaker.state(now) for name, gate in self._gates.items()}

    def introduce(self, job_id: str, who: Claimant) -> None:
        """Says whose a job is."""
        for gate in self._gates.values():
            gate.places.introduce(job_id, who)

    def hold(
        self,
        job_id: str,
        fold: JobFold,
        decided: JobFold,
        crowded: frozenset[str] = frozenset(),
        wake: Callable[[], None] | None = None,
    ) -> bool:
        """Says what a job is about to have open on each route, without an await since `states`.

        Args:
            job_id: The job.
            fold: What its log says.
            decided: The same with what was decided.
            crowded: Routes on which it could use more.
            wake: Called when it may open more there.

        Returns:
            Whether another job may now try a route that was being tried.
        """
        now, freed = self._clock(), False
        workers, calling = open_workers(decided), callers(decided)
        begun = {key: route for key, route in calling.items() if key not in fold.attempts}
        for name, gate in self._gates.items():
            probe = gate.probe
            # One that the log has is over when the log says so: not before others can see
            # what it has shown.
            if probe and probe.job_id == job_id and not probe.begun and probe.key not in calling:
                gate.probe, freed = None, True
            if gate.probe is None and gate.breaker.state(now) is State.HALF_OPEN:
                tries = next((key for key, route in begun.items() if route == name), None)
                gate.probe = _Probe(job_id, tries) if tries is not None else None
            gate.places.hold(job_id, workers[name], wake if name in crowded else None)
        return freed

    def leave(self, job_id: str) -> bool:
        """A job is no longer driven here; whether others may now try a route, as in `hold`."""
        freed = False
        for gate in self._gates.values():
            if gate.probe is not None and gate.probe.job_id == job_id:
                gate.probe, freed = None, True
            gate.places.leave(job_id)
        return freed

    def observe(self, event: job_pb2.JobEvent, fold: JobFold) -> bool:
        """Learns from a committed event; whether others may now do what they could not."""
        changed = self._learn(event, fold)
        return self._follow_probes(fold) or changed

    def _follow_probes(self, fold: JobFold) -> bool:
        """Whether an attempt tries a route no more: it is over, well or not or without a word.

        Or its call waits for its tenant's quota: as long as that lasts it calls nobody, and
        one tenant's empty windows are not to keep all the others from the route.
        """
        freed = False
        for gate in self._gates.values():
            probe = gate.probe
            if probe is None or probe.job_id != fold.job_id:
                continue
            attempt = fold.attempts.get(probe.key)
            probe.begun = attempt is not None
            if attempt is not None and (not attempt.open or attempt.deferred is not None):
                gate.probe, freed = None, True
        return freed

    def _learn(self, event: job_pb2.JobEvent, fold: JobFold) -> bool:
        """Learns from how calls and attempts end; whether a breaker has changed its state."""
        kind = event.WhichOneof("payload")
        if kind not in ("attempt_finished", "call_settled"):
            return False
        ref = getattr(event, kind).ref
        attempt = fold.attempts.get((ref.task_uid, ref.attempt))
        gate = self._gates.get(attempt.route) if attempt is not None else None
        if attempt is None or gate is None:
            return False
        now = self._clock()
        before = gate.breaker.state(now)
        if kind == "call_settled":
            if event.call_settled.call.finish_reason in _ANSWERED:
                self._answered(gate, now)
        else:
            self._ended(gate, attempt, event.attempt_finished.result, now)
        after = gate.breaker.state(now)
        if before is State.HALF_OPEN and after is State.CLOSED:
            gate.places.lower(AFTER_CLOSING, steady=self._rules.most)
        if after is State.CLOSED:
            gate.probe = None
        return after is not before

    def queue_seen(self, name: str, waiting: int | None) -> None:
        """A route's server says how many requests wait at it; None when it does not."""
        gate, most = self._gates[name], self._rules.max_waiting
        if waiting is not None and 0 < most < waiting:
            self._ease(gate, QUEUED, self._clock())

    def _ended(
        self, gate: _Gate, attempt: AttemptFold, result: attempt_pb2.AttemptResult, now: float
    ) -> None:
        if result.state == attempt_pb2.ATTEMPT_STATE_REFUSED:
            return  # it never came to the route
        if attempt.handed_over:
            return  # its service or driver was stopped: that says nothing of the route
        if result.failure.failure_class == common_pb2.FAILURE_CLASS_RATE_LIMITED:
            self._ease(gate, FEWER, now)
        elif _by_the_route(attempt, result):
            words = result.failure.message
            name = f"{self._rules.replica}/{attempt.route}"
            gate.breaker = gate.breaker.after_failure(now, words, self._rules.breaker, name)
        elif _has_answer(result):
            self._answered(gate, now)
            if attempt.role == common_pb2.ROLE_WORKER:
                gate.places.went_through()

    def _answered(self, gate: _Gate, now: float) -> None:
        gate.breaker = gate.breaker.after_success(now)

    def _ease(self, gate: _Gate, share: float, now: float) -> None:
        if now - gate.eased < EASED:
            return
        gate.eased = now
        gate.places.lower(share * gate.places.held)

    def _state(self, seen: RouteState, gate: _Gate, now: float, job_id: str) -> RouteState:
        state = gate.breaker.state(now)
        if state is State.CLOSED:
            detail = seen.detail
            if gate.places.lowered:
                detail = "its server has as much to do as it can; tasks wait for a place"
            places = gate.places.free_for(job_id) if job_id else gate.places.free
            return RouteState(True, detail, places)
        words = f"its attempts failed again and again: {gate.breaker.words}"
        if state is State.HALF_OPEN and _is_free(gate.probe, job_id):
            return RouteState(True, words, 1, trial=True)
        return RouteState(False, words, 0)


def _is_free(probe: _Probe | None, job_id: str) -> bool:
    """Whether a job may try a route: nobody does, or it has decided to and decides again."""
    return probe is None or (probe.job_id == job_id and not probe.begun)


def _by_the_route(attempt: AttemptFold, result: attempt_pb2.AttemptResult) -> bool:
    """Whether an attempt failed by its route's fault: its calls say so.

    Without a call, it was its service that failed, or that had to end.
    """
    if not result.calls:
        return False
    failed = result.failure.failure_class
    if attempt.stop is None and result.calls[-1].finish_reason == "error":
        return failed in ROUTES_FAULT
    # In all its time, which its service or its driver has ended, it has got no answer.
    late = attempt.cause == job_pb2.INTERRUPT_CAUSE_TIMEOUT
    late |= attempt.stop is None and failed == common_pb2.FAILURE_CLASS_TIMEOUT
    # What has cost nothing was not sent: it has stood in line for the route's own limits.
    sent = any(tokens_of(call.usage) for call in result.calls)
    return late and sent and attempt.end - attempt.start >= SILENT and not _has_answer(result)


def _has_answer(result: attempt_pb2.AttemptResult) -> bool:
    """Whether the route has answered one of its calls, or had begun to."""
    return any(
        call.finish_reason in _ANSWERED
        or (call.finish_reason == "abort" and call.time_to_first_token.ToNanoseconds() > 0)
        for call in result.calls
    )
