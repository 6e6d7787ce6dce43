"""Gives up attempts that will not report: their grants are booked as unknown."""

from __future__ import annotations

from services.meta_agent.deciding.deadlines import stop_grace
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.state import AttemptFold

_ORPHANED = "its driver was lost"


def write_off(turn: Turn) -> None:
    """Loses attempts whose last moment to report has passed.

    A broken stream and an earlier driver's attempt get the time in which their
    service notices (no heartbeat for 3 s) and reports; a stopped attempt gets the
    stop grace. After that the attempt is lost; a later report still corrects it.
    """
    for attempt in list(turn.fold.open_attempts()):
        last, reason = _last_moment(turn, attempt)
        if turn.now >= last:
            turn.lose_attempt(attempt, reason)
        else:
            turn.wake(last)


def _last_moment(turn: Turn, attempt: AttemptFold) -> tuple[float, str]:
    rules = turn.rules
    orphan = attempt.epoch != turn.fold.epoch
    words = _ORPHANED if orphan else "did not end in its time"
    moments = [(attempt.deadline + 2 * rules.stop_grace, words)]
    if attempt.stop is not None:
        grace = stop_grace(turn.fold, rules, attempt.stop_time)
        moments.append((attempt.stop_time + grace, "did not end after it was stopped"))
    if orphan:
        moments.append((turn.fold.claimed + rules.report_grace, _ORPHANED))
    broken = turn.observed.broken.get(attempt.key)
    if broken is not None:
        moments.append((broken.since + rules.report_grace, broken.reason))
    return min(moments)
