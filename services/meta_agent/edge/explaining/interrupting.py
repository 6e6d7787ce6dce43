"""Sentences on what was told to stop, lost, and found again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hma.v1 import job_pb2
from services.meta_agent.edge.explaining.movements import (
    cause_of,
    extracted,
    extracted_ids,
    salvaged,
)
from services.meta_agent.edge.explaining.said import Said
from services.meta_agent.edge.explaining.story import Loss, Stop, Story
from services.meta_agent.edge.explaining.wording import (
    NAMED,
    because,
    came_back,
    count,
    listed,
    took,
    was,
)
from services.meta_agent.job.state import AttemptFold, AttemptStatus

_TOGETHER = 1.0
"""Seconds within which stops for one cause are one decision."""

_WHY = {
    job_pb2.INTERRUPT_CAUSE_CLIENT: "because the answer was asked for at once",
    job_pb2.INTERRUPT_CAUSE_CANCEL: "because the job was cancelled",
    job_pb2.INTERRUPT_CAUSE_DEADLINE: "because the deadline was near: what was left was for "
    "the answer",
    job_pb2.INTERRUPT_CAUSE_TIMEOUT: "because its time was up",
    job_pb2.INTERRUPT_CAUSE_OBSOLETE: "because nothing needed its result any more",
    job_pb2.INTERRUPT_CAUSE_FAILURE: "because another task had failed and the job fails fast",
    job_pb2.INTERRUPT_CAUSE_BUDGET: "because the budget was gone",
}


def stops(story: Story) -> Iterator[Said]:
    """What was told to stop; many at once for one cause are one sentence."""
    for group in _groups(story.stops):
        if len(group) <= NAMED:
            for stop in group:
                yield Said(stop.sequence, "interruption", _one(story, stop), _weight(story, stop))
            continue
        names = [story.told(stop.key[0]) for stop in group]
        attempts = [story.fold.attempts[stop.key] for stop in group]
        text = f"{listed(names)} were interrupted {_why(group[0], at_once=True)}"
        weight = sum(_weight(story, stop) for stop in group)
        yield Said(group[0].sequence, "interruption", f"{text}{_outcome(story, attempts)}.", weight)


def _groups(stops: Sequence[Stop]) -> Iterator[list[Stop]]:
    group: list[Stop] = []
    for stop in stops:
        if group and not (
            cause_of(stop) == cause_of(group[0])
            and stop.event.cause == group[0].event.cause
            and stop.event.note == group[0].event.note
            and stop.time - group[0].time <= _TOGETHER
        ):
            yield group
            group = []
        group.append(stop)
    if group:
        yield group


def _one(story: Story, stop: Stop) -> str:
    attempt = story.fold.attempts[stop.key]
    text = f"{story.told(attempt.uid)} was interrupted after {took(stop.elapsed)}"
    return f"{text} {_why(stop)}{_outcome(story, [attempt])}."


def _why(stop: Stop, *, at_once: bool = False) -> str:
    event = stop.event
    if event.cause == job_pb2.INTERRUPT_CAUSE_STRAGGLER:
        waited = f"because {count(event.waiting_tasks, 'task')} waited for it"
        if not event.HasField("expected") or at_once:
            return waited
        expected = event.expected.ToNanoseconds() / 1e9
        return f"(one of its kind takes {took(expected)}) {waited}"
    why = _WHY.get(event.cause)
    if why is None:
        return f"because {event.note}" if event.note else "as it was told to"
    if event.cause == job_pb2.INTERRUPT_CAUSE_FAILURE:
        return f"{why}{because(event.note)}"
    return why.replace("its", "their") if at_once else why


def _outcome(story: Story, attempts: Sequence[AttemptFold]) -> str:
    """What came of it: answers that were saved, silence, or nothing yet."""
    saved = sum(salvaged(attempt) for attempt in attempts)
    tasks = [story.fold.tasks[a.uid] for a in attempts if a.uid in story.fold.tasks]
    items = sum(len(task.task.items) for task in tasks)
    parts = []
    if any(attempt.open for attempt in attempts):
        parts.append("it has not reported yet" if len(attempts) == 1 else "not all reported yet")
    elif items:
        some = f"{saved:,} of {count(items, 'answer')} {was(saved)} saved"
        parts.append(some if saved else "no answer was saved")
    unknown = sum(a.unknown for a in attempts if a.status is AttemptStatus.LOST)
    if unknown:
        parts.append(f"what it spent last, {count(unknown, 'token')} at most, is unknown")
    return "".join(f"; {part}" for part in parts)


def _weight(story: Story, stop: Stop) -> float:
    return story.fold.attempts[stop.key].spent + 1000.0 * stop.event.waiting_tasks


def losses(story: Story) -> Iterator[Said]:
    """Attempts of which nothing was heard, and late reports of them."""
    stopped = {stop.key for stop in story.stops}
    for loss in story.losses:
        if loss.known is not None:
            yield Said(loss.sequence, "late report", _found(story, loss), loss.tokens)
        elif loss.key not in stopped:
            yield Said(loss.sequence, "lost attempt", _lost(story, loss), loss.tokens)


def _lost(story: Story, loss: Loss) -> str:
    spent = "it had spent nothing"
    if loss.tokens:
        spent = f"what it may have spent, {count(loss.tokens, 'token')} at most, is unknown"
    cheap = " and cost no try" if story.fold.attempts[loss.key].handed_over else ""
    text = f"An attempt at {story.told(loss.key[0])} was lost{because(loss.reason)}{cheap}"
    return f"{text}; {spent}."


def _found(story: Story, loss: Loss) -> str:
    name = story.told(loss.key[0])
    known = f"it had spent {loss.known:,}"
    return f"A late report of {name} took back {count(loss.tokens, 'unknown token')}: {known}."


def detours(story: Story) -> Iterator[Said]:
    """Tasks that went to another route."""
    for detour in story.detours:
        text = f"{story.told(detour.uid)} went from {detour.before} to {detour.route}"
        yield Said(detour.sequence, "route change", f"{text}{because(detour.reason)}.")


def failures(story: Story) -> Iterator[Said]:
    """Tasks that are not whole, unless an interruption has told of them."""
    stopped = {stop.key[0] for stop in story.stops}
    extracts = extracted_ids(story)
    verbs = {
        job_pb2.TASK_STATE_FAILED: "failed",
        job_pb2.TASK_STATE_PARTIAL: "has only a part of its answers",
    }
    for uid, settled in story.settled.items():
        verb = verbs.get(settled.state)
        if verb is None or uid in stopped:
            continue
        text = f"{story.told(uid)} {verb}{because(settled.failure.message)}"
        text += came_back(extracted(story, uid, extracts))
        yield Said(story.settle_moments[uid].sequence, "unfinished task", f"{text}.")
