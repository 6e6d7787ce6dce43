"""What a job may spend of what it has drawn from its tenant's quota, and what it wants more.

A job whose tenant's windows limit tokens has two bounds. The budget says what is worth
starting: allotting, skipping and giving up look at nothing else. What is drawn says what
may be granted now: what the budget pays for and the drawn tokens do not waits, and the
decision says how much it wants. So

    spent + unknown + outstanding <= drawn <= budget

The answer's reserve is drawn before work is; where the tenant's limits are too small to
hold both, work goes first, for without it there is nothing to answer with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hma.v1 import job_pb2
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.quota_words import WAITING, waiting_reason
from services.meta_agent.job.state import JobFold

_REASONS = {
    job_pb2.JOB_STATE_QUEUED: "waits for a driver",
    job_pb2.JOB_STATE_PLANNING: "the Analyst plans",
    job_pb2.JOB_STATE_RUNNING: "tasks run",
    job_pb2.JOB_STATE_REDUCING: "the answer is being made",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Tokens that a job wants to draw.

    Attributes:
        least: Fewer than this let nothing begin.
        tokens: What all that waits could use.
        spare: Drawn, and held by no call; 0 while one runs, whose rest may do.
    """

    least: int
    tokens: int
    spare: int


def drawn_left(fold: JobFold) -> float:
    """Tokens that the job has drawn and that no call has spent or holds; maybe infinite."""
    if fold.drawn is None:
        return math.inf
    return fold.drawn - fold.spent - fold.unknown - fold.outstanding


def pays(turn: Turn, tokens: int, *, reserved: int = 0, back: int = 0) -> bool:
    """Whether what is drawn pays for a grant now. If not, it is wanted, and so is the rest.

    Who comes later in a turn does not take what an earlier one waits for.

    Args:
        turn: The decision in the making.
        tokens: Of the grant.
        reserved: What is kept for the answer.
        back: What the grant replaces.
    """
    if turn.fold.drawn is None:
        return True
    if tokens + reserved > turn.observed.quota_most:
        reserved = 0
    lacking = tokens + reserved - back - drawn_left(turn.fold)
    if not turn.quota_least and lacking <= 0:
        return True
    if not turn.quota_least:
        turn.quota_least = turn.quota_tokens = max(int(lacking), 1)
    else:
        turn.quota_tokens += max(tokens - back, 0)
    return False


def at_most(turn: Turn, tokens: int, least: int) -> int:
    """A grant as large as the tenant's limits can ever pay for, but not below the least."""
    if turn.fold.drawn is None:
        return tokens
    return int(min(tokens, max(turn.observed.quota_most, least)))


def waiting_is_over(turn: Turn) -> bool:
    """Whether the answer is made with what is drawn: it is wanted now."""
    fold = turn.fold
    return fold.interrupted is not None or turn.now >= work_deadline(fold, turn.rules)


def wanted(turn: Turn) -> Wanted | None:
    """What the job wants to draw after a decision; None when nothing waits for it."""
    fold = turn.fold
    if not turn.quota_least or fold.ended or fold.drawn is None:
        return None
    ceiling = max(fold.budget - fold.drawn, 0)
    spare = 0 if fold.outstanding else max(int(drawn_left(fold)), 0)
    return Wanted(min(turn.quota_least, ceiling), min(turn.quota_tokens, ceiling), spare)


def is_waiting(fold: JobFold) -> bool:
    """Whether the job's reason says that it waits for quota."""
    return fold.reason.startswith(WAITING)


def say_what_is_waited_for(turn: Turn) -> None:
    """Keeps the job's reason true: once for each limit that is in the way, not for each try."""
    fold = turn.fold
    if fold.ended or fold.drawn is None:
        return
    limit = fold.quota_limit
    if turn.quota_least and limit and not fold.outstanding:
        if not fold.reason.startswith(WAITING + limit):
            turn.change_state(fold.state, waiting_reason(limit, fold.quota_retry))
    elif is_waiting(fold):
        turn.change_state(fold.state, _REASONS.get(fold.state, ""))
