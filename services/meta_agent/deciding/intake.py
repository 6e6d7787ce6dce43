"""Turns what services said into events: results, losses, plan pieces, grants."""

from __future__ import annotations

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.admitting import admit_fragment
from services.meta_agent.deciding.granting import answer_intent, release_surplus, within_drawn
from services.meta_agent.deciding.observed import Ended, Intended, Planned, Refused
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.state import AttemptFold


def take_in(turn: Turn) -> None:
    """Handles the inbox, in order."""
    for seen in turn.observed.inbox:
        attempt = turn.fold.attempts.get(seen.key)
        if attempt is None or not attempt.open:
            continue
        match seen:
            case Ended():
                _finish(turn, attempt, seen.result)
            case Refused():
                _finish(turn, attempt, _refusal(seen))
            case Planned():
                admit_fragment(turn, attempt, seen.fragment)
            case Intended():
                _answer_intent(turn, attempt, seen.intent)


def _finish(turn: Turn, attempt: AttemptFold, result: attempt_pb2.AttemptResult) -> None:
    turn.emit(
        attempt_finished=job_pb2.AttemptFinished(
            ref=turn.ref(attempt),
            result=result,
            costs=[turn.rules.cost(call) for call in result.calls],
        )
    )


def _refusal(seen: Refused) -> attempt_pb2.AttemptResult:
    failure = common_pb2.Failure(failure_class=seen.failure_class, message=seen.message)
    if seen.retry_after:
        failure.retry_after.FromMilliseconds(int(seen.retry_after * 1000))
    return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_REFUSED, failure=failure)


def _answer_intent(turn: Turn, attempt: AttemptFold, intent: attempt_pb2.CallIntent) -> None:
    """Books the call before, then grants or denies this one.

    A call within the grant that the attempt holds for it needs no answer: both
    sides see that it is covered.
    """
    if intent.HasField("previous") and intent.previous.call not in attempt.settled:
        turn.emit(
            call_settled=job_pb2.CallSettled(
                ref=turn.ref(attempt),
                call=intent.previous,
                cost=turn.rules.cost(intent.previous),
            )
        )
        attempt = turn.fold.attempts[attempt.key]
    if intent.call in attempt.settled:
        return
    if attempt.deferred is not None and attempt.deferred.call == intent.call:
        return  # said once more; it waits as before
    if covered(attempt.grant, intent):
        release_surplus(turn, attempt.key, intent.calls_left)
        return
    if attempt.stop is not None:
        grant = attempt_pb2.Grant(call=intent.call, denied=True, reason="told to stop")
        granted = job_pb2.CallGranted(ref=turn.ref(attempt), grant=grant, intent=intent)
    else:
        granted = answer_intent(turn, attempt, intent)
        if not within_drawn(turn, attempt, granted):
            deferred = job_pb2.CallDeferred(ref=turn.ref(attempt), intent=intent)
            turn.emit(call_deferred=deferred)
            return
    turn.emit(call_granted=granted)
    release_surplus(turn, attempt.key, intent.calls_left)


def grant_deferred(turn: Turn) -> None:
    """Answers calls that waited, in order, as far as what is drawn pays for them now."""
    if turn.fold.drawn is None:
        return
    for attempt in list(turn.fold.open_attempts()):
        intent = attempt.deferred
        if intent is None or attempt.stop is not None or attempt.epoch != turn.fold.epoch:
            continue  # who was told to stop waits no longer, nor who has lost its driver
        granted = answer_intent(turn, attempt, intent)
        if within_drawn(turn, attempt, granted):
            turn.emit(call_granted=granted)
            release_surplus(turn, attempt.key, intent.calls_left)


def covered(grant: attempt_pb2.Grant, intent: attempt_pb2.CallIntent) -> bool:
    """Whether a grant pays for all that the intent asks for."""
    wanted = intent.prompt_tokens + intent.max_completion_tokens
    return grant.call == intent.call and not grant.denied and wanted <= grant.tokens
