"""`decide(fold, observations, now) -> Decision`: the whole of the MetaAgent's judgement.

Pure: no clock, no randomness, no I/O. The order below is the order in which a
newcomer should read the rules; each lives in a module of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from hma.v1 import job_pb2
from services.meta_agent.deciding.allotting import allot
from services.meta_agent.deciding.dispatching import dispatch_tasks
from services.meta_agent.deciding.ending import end_job
from services.meta_agent.deciding.intake import grant_deferred, take_in
from services.meta_agent.deciding.losses import write_off
from services.meta_agent.deciding.observed import Observations
from services.meta_agent.deciding.planning import advance_plan
from services.meta_agent.deciding.quota import Wanted, say_what_is_waited_for, wanted
from services.meta_agent.deciding.reducing import advance_reduce
from services.meta_agent.deciding.rounds import judge_round
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.settling import settle_tasks
from services.meta_agent.deciding.stopping import stop_work
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.job.state import JobFold


@dataclass(frozen=True, slots=True)
class Decision:
    """What to log, and when to decide again if nothing happens before.

    Attributes:
        events: In order; empty when nothing is to be done now.
        wake_at: Database time in seconds; infinite when only an observation matters.
        seals: Whether the last event ends the job.
        fold: The state after the events, as far as this driver knows the log.
        crowded: Routes on which a task would have started if they had had a place.
        wanted: Tokens to be drawn from the tenant's quota; None: nothing waits for it.
    """

    events: tuple[job_pb2.JobEvent, ...]
    wake_at: float
    seals: bool
    fold: JobFold
    crowded: frozenset[str] = frozenset()
    wanted: Wanted | None = None


def decide(fold: JobFold, observed: Observations, now: float, rules: Rules) -> Decision:
    """What happens next in a job.

    Args:
        fold: The state that the log says.
        observed: What the streams saw since, and what is free and ready.
        now: Database time, in seconds since the epoch.
        rules: Routes and the operator's limits.
    """
    turn = Turn(fold, observed, now, rules)
    if not fold.ended:
        take_in(turn)  # what services said becomes fact
        write_off(turn)  # what will never be said is booked as unknown
        stop_work(turn)  # cancel, interrupt, deadline, time limits
        grant_deferred(turn)  # calls that waited until more was drawn
        settle_tasks(turn)  # tasks whose last attempt is over: done, or again
        advance_plan(turn)  # shape, Analyst, structural fallback
        allot(turn)  # tokens where they buy most, when they do not pay for everything
        dispatch_tasks(turn)  # what is ready, affordable and has a place
        advance_reduce(turn)  # all tasks ended: make the answer
        judge_round(turn)  # halt, or go on where that is expected to pay
        end_job(turn)  # answered, cancelled or out of time: seal
        say_what_is_waited_for(turn)  # of the tenant's quota
    crowded = frozenset(turn.crowded)
    ended = turn.fold.ended
    return Decision(tuple(turn.events), turn.wake_at, ended, turn.fold, crowded, wanted(turn))
