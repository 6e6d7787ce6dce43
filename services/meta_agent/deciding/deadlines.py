"""How a job's time is divided: work, then the answer, then the last moment."""

from __future__ import annotations

from hma.v1 import reducer_pb2
from services.meta_agent.deciding.budget import reduce_mode
from services.meta_agent.deciding.history import ENOUGH, MERGE, PROSE, REDUCE, Key, route_label
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.job.state import JobFold

TOKENS_PER_SECOND = 30.0
"""Completion speed of one stream that time is planned with; cautious."""

LAST_MOMENT = 0.3
"""Seconds before the deadline at which the answer is put together without the
Reducer: enough to commit and send it."""

UNWIND = 3.0
"""Seconds that a service may take to abort a generation, confirm it and report."""

_MOST_OF_TIME = 0.2


def work_deadline(fold: JobFold, rules: Rules) -> float:
    """When work must stop so that the answer is there in time.

    The Reducer gets the time that it has taken before, with a margin; until that is
    known, the time that its prose takes, or a few seconds for a merge. Never more than a
    fifth of the job's time.
    """
    total = max(fold.deadline - fold.create_time, 0.0)
    return fold.deadline - min(reduce_seconds(fold, rules), _MOST_OF_TIME * total)


def reduce_seconds(fold: JobFold, rules: Rules) -> float:
    """Time that is kept for making the answer."""
    prose = reduce_mode(fold, rules) == reducer_pb2.REDUCE_MODE_PROSE
    key = Key(route_label(rules.job_route(fold)), REDUCE, PROSE if prose else MERGE)
    measured = rules.history.record(key).milliseconds
    if measured.total >= ENOUGH:
        return 1.0 + 1.5 * measured.quantile(0.95) / 1000
    return rules.reduce_time + (rules.answer_tokens / TOKENS_PER_SECOND if prose else 0.0)


def reduce_deadline(fold: JobFold, now: float) -> float:
    """When the Reducer has to stop, so that what it has still comes back in time."""
    last = fold.deadline - LAST_MOMENT
    return last - min(UNWIND, 0.4 * max(last - now, 0.0))


def stop_grace(fold: JobFold, rules: Rules, stopped: float) -> float:
    """How long an attempt that was told to stop may take to report, in seconds.

    One that is stopped because the deadline is near must leave time for the Reducer.
    """
    late = work_deadline(fold, rules)
    if stopped < late - LAST_MOMENT:
        return rules.stop_grace
    return min(rules.stop_grace, 0.4 * (fold.deadline - late))
