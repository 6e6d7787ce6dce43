"""What moved, what was told to stop, and what was not done."""

from __future__ import annotations

from collections.abc import Set

from hma.v1 import attempt_pb2, common_pb2, explanation_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.valuing import next_tokens
from services.meta_agent.edge.explaining.gains import answered, gain_since
from services.meta_agent.edge.explaining.story import Move, Stop, Story
from services.meta_agent.job.state import AttemptFold, AttemptStatus
from services.meta_agent.job.times import timestamp

_CAUSES = {
    attempt_pb2.STOP_REASON_INTERRUPT: job_pb2.INTERRUPT_CAUSE_CLIENT,
    attempt_pb2.STOP_REASON_CANCEL: job_pb2.INTERRUPT_CAUSE_CANCEL,
    attempt_pb2.STOP_REASON_TIMEOUT: job_pb2.INTERRUPT_CAUSE_TIMEOUT,
}


def movements(story: Story) -> list[explanation_pb2.TokenMovement]:
    """What moved, in the order of time."""
    return [
        explanation_pb2.TokenMovement(
            time=timestamp(move.time),
            to=story.name(move.getter),
            tokens=move.tokens,
            reason=move.reason,
            predicted=move.estimate,
            realised_gain=realised(story, move),
            **{"from": story.name(move.giver)},
        )
        for move in story.moves
    ]


def realised(story: Story, move: Move) -> float:
    """What the task that got the tokens has brought since, in answered items."""
    task = story.fold.tasks.get(move.getter)
    if task is None:
        return 0.0
    estimate = move.estimate
    if estimate is None and move.getter in story.admitted:
        estimate = story.admitted[move.getter].value
    return gain_since(move.before, task.result, estimate)


def interruptions(story: Story) -> list[explanation_pb2.Interruption]:
    """What was told to stop, in the order of time."""
    made = []
    for stop in story.stops:
        attempt = story.fold.attempts[stop.key]
        made.append(
            explanation_pb2.Interruption(
                time=timestamp(stop.time),
                task_id=story.name(attempt.uid),
                attempt=attempt.number,
                cause=cause_of(stop),
                reason=stop.event.note,
                outcome=_outcome(attempt),
                salvaged_items=salvaged(attempt),
                spent_tokens=attempt.spent,
            )
        )
    return made


def cause_of(stop: Stop) -> job_pb2.InterruptCause.ValueType:
    """What led to a stop; from its reason when the event names no cause."""
    return stop.event.cause or _CAUSES.get(stop.event.reason, job_pb2.INTERRUPT_CAUSE_UNSPECIFIED)


def salvaged(attempt: AttemptFold) -> int:
    """Answers of a model that an attempt has brought."""
    if attempt.result is None or not attempt.result.HasField("task"):
        return 0
    return answered(attempt.result.task)


def _outcome(attempt: AttemptFold) -> attempt_pb2.AttemptState.ValueType:
    if attempt.result is not None:
        return attempt.result.state
    if attempt.status is AttemptStatus.LOST:
        return attempt_pb2.ATTEMPT_STATE_FAILED
    return attempt_pb2.ATTEMPT_STATE_UNSPECIFIED


def dropped(story: Story) -> dict[str, explanation_pb2.DroppedTask]:
    """What was not done, or waits for tokens still; by uid, in plan order."""
    extracts = extracted_ids(story)
    made = {}
    for uid, admitted in story.admitted.items():
        what, reason = _fate(story, uid)
        if not what:
            continue
        trim = story.trims.get(uid)
        value = trim.event.value if trim is not None else admitted.value
        made[uid] = explanation_pb2.DroppedTask(
            task_id=admitted.task.id,
            what=what,
            reason=reason,
            value=value if value.ByteSize() else None,
            extracted_items=extracted(story, uid, extracts),
        )
    return made


def _fate(story: Story, uid: str) -> tuple[str, str]:
    """What became of a task that was not done, and why; empty when it was worked on."""
    into = story.merged_into(uid)
    if into:
        return f"merged into {story.name(into)}", "the budget does not pay for both"
    task = story.fold.tasks[uid]
    settled = story.settled.get(uid)
    if settled is not None:
        skipped = settled.state == job_pb2.TASK_STATE_SKIPPED
        return ("skipped", settled.failure.message) if skipped else ("", "")
    waits = uid in story.trims and not task.attempts
    return ("deferred", "it waits for tokens that others may leave") if waits else ("", "")


def extracted(story: Story, uid: str, extracts: Set[str]) -> int:
    """Items of a task, merged ones included, that are answered by an extract."""
    return sum(item.item_id in extracts for item in story.fold.tasks[uid].task.items)


def extracted_ids(story: Story) -> set[str]:
    """Items that an extract answers, in the answer or in what there is of it."""
    items: list[task_pb2.ItemAnswer] = []
    if story.fold.answer is not None:
        items.extend(story.fold.answer.items)
    else:
        for task in story.fold.tasks.values():
            items.extend(task.result.items if task.result is not None else ())
    return {item.item_id for item in items if item.origin == common_pb2.ORIGIN_EXTRACT}


def next_thousand(story: Story, rules: Rules) -> job_pb2.ValueEstimate:
    """What the next 1,000 tokens would buy; at the end what they would have, as logged."""
    finished = story.fold.finished
    if finished is not None:
        return finished.next_1000_tokens
    return next_tokens(story.fold, rules)
