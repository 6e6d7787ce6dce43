"""Interrupts work that is not worth its time or tokens any more.

Stragglers (far beyond what such calls take, while others wait for them), attempts whose
calls fail again and again, and work whose result no longer matters. What a stopped attempt
has written is saved without a token; what remains is tried once more where that may go
better (`retrying`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set

from google.protobuf.duration_pb2 import Duration

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.history import ENOUGH, task_key
from services.meta_agent.deciding.retrying import counted
from services.meta_agent.deciding.turn import Turn, failure
from services.meta_agent.deciding.valuing import weight_of
from services.meta_agent.job.state import AttemptFold, JobFold, TaskFold

QUANTILE = 0.95
"""Share of the calls of a kind that are done within what is expected."""

SIBLINGS = 4
"""Attempts of the same job that tell how long one takes, as long as history does not."""

FAILED_CALLS = 3
"""Broken calls after which an attempt is ended."""


Paces = dict[tuple[str, int], list[float]]
"""Seconds per call that attempts have taken, by route and kind of task."""


def interrupt_work(turn: Turn) -> None:
    """Ends stragglers, repeated failures, and what no longer matters."""
    _end_obsolete(turn)
    paces: Paces | None = None
    for attempt in list(turn.fold.open_attempts()):
        task = turn.fold.tasks.get(attempt.uid)
        if task is None or attempt.stop is not None or attempt.deferred is not None:
            continue
        if attempt.epoch != turn.fold.epoch:
            continue  # it died with its driver: it is no slower, and fails no more
        if attempt.failed_calls >= FAILED_CALLS:
            turn.stop_attempt(
                attempt,
                attempt_pb2.STOP_REASON_INTERRUPT,
                f"{attempt.failed_calls} of its calls failed",
                job_pb2.INTERRUPT_CAUSE_FAILURE,
            )
        elif turn.now - attempt.start < turn.rules.straggler_least:
            turn.wake(attempt.start + turn.rules.straggler_least)
        else:
            paces = paces_of(turn.fold) if paces is None else paces
            _end_straggler(turn, attempt, task, paces)


def _may_straggle(turn: Turn, attempt: AttemptFold) -> bool:
    """Whether ending an attempt for its time alone can help.

    Not twice at one task: the second is left to end. Not without another try. And not
    when none of those that ran beside it has ended meanwhile: then the server is slow
    for all, and another attempt would be no faster.
    """
    fold = turn.fold
    tries = fold.attempts_of(attempt.uid)
    before = any(a.cause == job_pb2.INTERRUPT_CAUSE_STRAGGLER for a in tries)
    if before or len(counted(tries, fold.created.policy)) >= turn.rules.attempts_allowed(fold):
        return False
    beside = [
        other
        for other in fold.attempts.values()
        if other.key != attempt.key
        and other.route == attempt.route
        and other.role == attempt.role
        and (other.open or other.end > attempt.start)
    ]
    ended = any(a.result is not None and a.stop is None and not a.refused for a in beside)
    return ended or not beside


def _end_straggler(turn: Turn, attempt: AttemptFold, task: TaskFold, paces: Paces) -> None:
    expected = expected_seconds(turn, attempt, task, paces)
    if expected is None:
        return
    limit = max(turn.rules.straggler_factor * expected, turn.rules.straggler_least)
    elapsed = turn.now - attempt.start
    if elapsed < limit:
        turn.wake(attempt.start + limit)
        return
    waiting = waiting_for(turn.fold, task)
    if not waiting or not _may_straggle(turn, attempt):
        return
    turn.stop_attempt(
        attempt,
        attempt_pb2.STOP_REASON_INTERRUPT,
        f"it has taken {elapsed:.1f} s, one of its kind takes {expected:.1f} s, "
        "and others wait for it",
        job_pb2.INTERRUPT_CAUSE_STRAGGLER,
        elapsed=_duration(elapsed),
        expected=_duration(expected),
        waiting_tasks=waiting,
    )


def expected_seconds(
    turn: Turn, attempt: AttemptFold, task: TaskFold, paces: Paces
) -> float | None:
    """How long such an attempt takes, by the measured quantile; None when not known.

    History and this job's own finished attempts count, the longer of the two: a server
    that is slow for all makes no straggler.
    """
    batch = max(turn.rules.route(attempt.route).profile.max_batch, 1)
    calls = -(-max(len(task.task.items), 1) // batch)
    known = []
    key = task_key(turn.rules.route(attempt.route), task.task.kind, task.task.complexity)
    record = turn.rules.history.record(key)
    if record.milliseconds.total >= ENOUGH:
        known.append(calls * record.milliseconds.quantile(QUANTILE) / 1000)
    siblings = paces.get((attempt.route, task.task.kind), [])
    if len(siblings) >= SIBLINGS:
        known.append(calls * max(siblings))
    return max(known, default=None)


def waiting_for(fold: JobFold, task: TaskFold) -> int:
    """How many tasks wait for nothing but this one; 1 for the answer, when it is the last."""
    settled = {other.task.id for other in fold.tasks.values() if other.settled}
    waiting = 0
    for other in fold.tasks.values():
        needs = set(other.task.depends_on) - settled
        waiting += not other.settled and needs == {task.task.id}
    unsettled = [other for other in fold.tasks.values() if not other.settled]
    if not waiting and fold.plan_closed is not None and unsettled == [task]:
        return 1
    return waiting


def _end_obsolete(turn: Turn) -> None:
    """Ends tasks that nothing needs any more, whether they run or wait."""
    if turn.fold.plan_closed is None:
        return
    for task in obsolete_tasks(turn.fold):
        note = "nothing needs its result any more"
        attempt = turn.fold.open_attempt(task.uid)
        if attempt is None:
            why = failure(common_pb2.FAILURE_CLASS_CANCELLED, note)
            turn.settle_task(task, job_pb2.TASK_STATE_SKIPPED, why)
        else:
            interrupt = attempt_pb2.STOP_REASON_INTERRUPT
            turn.stop_attempt(attempt, interrupt, note, job_pb2.INTERRUPT_CAUSE_OBSOLETE)


def obsolete_tasks(fold: JobFold) -> list[TaskFold]:
    """Tasks whose result can no more be part of the answer, or of a task's input.

    Items that another task has answered from the source need no second answer. In a job
    of items, a task without any serves those that depend on it, and ends with the last.
    """
    helpers = bool(fold.created.items) and any(
        not task.task.items and not task.settled for task in fold.tasks.values()
    )
    asked, twice = set[str](), set[str]()
    for task in fold.tasks.values():
        for item in task.task.items:
            (twice if item.item_id in asked else asked).add(item.item_id)
    if not helpers and not twice:
        return []  # the usual case, and this is asked in every turn
    needed, once_needed = set[str](), set[str]()
    for task in fold.tasks.values():
        once_needed.update(task.task.depends_on)
        if not task.settled:
            needed.update(task.task.depends_on)
    answered = _answered(fold, twice)
    obsolete = []
    for task in fold.tasks.values():
        if task.settled or task.task.id in needed:
            continue
        if task.task.items:
            over = all(_elsewhere(task, answered.get(i.item_id, ())) for i in task.task.items)
        else:
            over = bool(fold.created.items) and task.task.id in once_needed
        if over:
            obsolete.append(task)
    return obsolete


def _answered(fold: JobFold, names: Set[str]) -> dict[str, list[TaskFold]]:
    """Which tasks have answered these items from the source."""
    answered: dict[str, list[TaskFold]] = defaultdict(list)
    if not names:
        return answered
    for task in fold.tasks.values():
        for item in task.result.items if task.result is not None else ():
            if item.item_id in names and weight_of(item) >= 1.0:
                answered[item.item_id].append(task)
    return answered


def _elsewhere(task: TaskFold, answerers: Iterable[TaskFold]) -> bool:
    """Whether another task has answered; a later round asks again what an earlier one has."""
    return any(other.uid != task.uid and other.generation >= task.generation for other in answerers)


def paces_of(fold: JobFold) -> Paces:
    """Seconds per call of the job's attempts that came to an end by themselves."""
    paces: Paces = defaultdict(list)
    for attempt in fold.attempts.values():
        task = fold.tasks.get(attempt.uid)
        if task is None or attempt.open or attempt.stop is not None or not attempt.settled:
            continue
        if attempt.result is None or attempt.handed_over:
            continue
        seconds = (attempt.end - attempt.start) / len(attempt.settled)
        paces[attempt.route, task.task.kind].append(seconds)
    return paces


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(int(seconds * 1e6))
    return duration
