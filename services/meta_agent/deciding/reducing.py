"""All tasks have ended: the Reducer makes the answer."""

from __future__ import annotations

from hma.v1 import attempt_pb2, common_pb2, job_pb2, reducer_pb2, task_pb2
from services.meta_agent.deciding.budget import (
    REDUCE_OVERHEAD,
    reduce_limit,
    reduce_mode,
    reserve,
)
from services.meta_agent.deciding.deadlines import LAST_MOMENT, reduce_deadline, work_deadline
from services.meta_agent.deciding.money import within_money
from services.meta_agent.deciding.quota import (
    at_most,
    drawn_left,
    is_waiting,
    pays,
    waiting_is_over,
)
from services.meta_agent.deciding.retrying import counted, is_full, next_try
from services.meta_agent.deciding.routing import reducing_route
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.state import REDUCE_UID_PREFIX, AttemptFold, JobFold

REDUCE_TRIES = 2


def work_is_over(fold: JobFold) -> bool:
    """Whether nothing but the answer is missing."""
    return fold.plan_closed is not None and all(task.settled for task in fold.tasks.values())


def advance_reduce(turn: Turn) -> None:
    """Starts the Reducer, and again where that helps and there is time."""
    fold = turn.fold
    if not work_is_over(fold) or fold.cancelled is not None or fold.answer is not None:
        return
    attempts = fold.attempts_of(fold.reduce_uid)
    over = (bool(attempts) and attempts[-1].open) or gave_up(turn)
    lacks = "" if over else _lacking_route(turn)
    if lacks or fold.state != job_pb2.JOB_STATE_REDUCING or not is_waiting(fold):
        turn.change_state(job_pb2.JOB_STATE_REDUCING, lacks or "the answer is being made")
    if over or turn.now >= fold.deadline - 2 * LAST_MOMENT:
        return
    if attempts:
        when = next_try(turn.rules, attempts)
        if turn.now < when:
            turn.wake(min(when, fold.deadline - 2 * LAST_MOMENT))
            return
    if lacks:
        turn.wake(work_deadline(turn.fold, turn.rules))
        return  # the driver decides again when a route's state changes
    tokens = _grant(turn)
    if tokens and not pays(turn, tokens):
        if not waiting_is_over(turn):
            turn.wake(work_deadline(turn.fold, turn.rules))
            return
        left = int(drawn_left(turn.fold))
        tokens = left if left >= REDUCE_OVERHEAD else 0
    turn.start_attempt(
        fold.reduce_uid,
        common_pb2.ROLE_REDUCER,
        route=_route(turn),
        tokens=tokens,
        deadline=reduce_deadline(turn.fold, turn.now),
    )


def _route(turn: Turn) -> str:
    return reducing_route(turn.fold, turn.rules, turn.routes).name


def _lacking_route(turn: Turn) -> str:
    """That the answer waits for a route, in words; empty when there is nothing to wait for.

    A merge needs none, and while prose would be written in time, a route may come back.
    """
    state = turn.route_state(_route(turn))
    late = turn.now >= work_deadline(turn.fold, turn.rules)
    if state.ready or late or turn.fold.interrupted is not None or not _grant(turn):
        return ""
    return f"the answer waits for route {_route(turn)}: {state.detail}"


def gave_up(turn: Turn) -> bool:
    """Whether the Reducer has failed as often as it may, or can do no better than it did.

    A refusal costs nothing but time, so it may be refused more often; while it is only
    full, it is waited for until the time is up. One that had to leave with its service or
    its driver is asked again, unless it has left prose and there is no money for other.
    """
    fold = turn.fold
    attempts = fold.attempts_of(fold.reduce_uid)
    if any(attempt.open for attempt in attempts):
        return False
    tries = [a for a in counted(attempts, fold.created.policy) if not a.refused]
    asked = [a for a in attempts if not is_full(a)]
    if len(tries) >= REDUCE_TRIES or len(asked) >= 4 * REDUCE_TRIES:
        return True
    left = _last_that_left(fold)
    prose = left is not None and left.grant.tokens > 0 and bool(_answer_of(left).text)
    return prose and not _grant(turn)


def left_behind(fold: JobFold) -> task_pb2.Answer | None:
    """What the latest Reducer that had to leave before it was done has answered; None: nothing."""
    left = _last_that_left(fold)
    answer = None if left is None else _answer_of(left)
    return answer if answer is not None and (answer.text or answer.items) else None


def _last_that_left(fold: JobFold) -> AttemptFold | None:
    return next((a for a in reversed(fold.attempts_of(fold.reduce_uid)) if _left(a)), None)


def _answer_of(attempt: AttemptFold) -> task_pb2.Answer:
    return attempt.result.answer if attempt.result is not None else task_pb2.Answer()


def funded_mode(tokens: int) -> reducer_pb2.ReduceMode.ValueType:
    """How the answer is made with a grant of so many tokens."""
    return reducer_pb2.REDUCE_MODE_PROSE if tokens > 0 else reducer_pb2.REDUCE_MODE_MERGE


def _grant(turn: Turn) -> int:
    if reduce_mode(turn.fold, turn.rules) != reducer_pb2.REDUCE_MODE_PROSE:
        return 0
    if not any(task.result is not None for task in turn.fold.tasks.values()):
        return 0  # nothing to write about
    tokens = min(reserve(turn.fold, turn.rules), reduce_limit(turn.fold, turn.rules))
    return at_most(turn, within_money(tokens, turn.fold, turn.rules, _route(turn)), 1)


def answered(fold: JobFold) -> bool:
    """Whether the Reducer has given its answer and nothing is open any more."""
    return fold.answer is not None and not any(True for _ in fold.open_attempts())


def fell_back(fold: JobFold) -> str:
    """Why the Reducer's answer is not the one it was asked for; empty when it is.

    The round whose answer stands is the last one that was not worse than those before.
    """
    better = [r.round for r in fold.rounds if not r.keeps_previous_answer]
    uid = f"{REDUCE_UID_PREFIX}{max(better, default=fold.round)}"
    for attempt in fold.attempts_of(uid):
        result = attempt.result
        if result is not None and result.HasField("answer") and not _left(attempt):
            whole = result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
            return "" if whole else result.failure.message
    return ""


def _left(attempt: AttemptFold) -> bool:
    """Whether its Reducer had to leave before it was done: another may have answered."""
    return attempt.handed_over and not attempt.succeeded


def failed_for(fold: JobFold) -> str:
    """Why there was no answer from the Reducer, for the log."""
    attempts = fold.attempts_of(fold.reduce_uid)
    if not attempts:
        return "there was no time for the Reducer"
    last = attempts[-1]
    if last.result is not None and last.result.state != attempt_pb2.ATTEMPT_STATE_SUCCEEDED:
        return last.result.failure.message
    return last.lost_reason or "the Reducer gave no answer"
