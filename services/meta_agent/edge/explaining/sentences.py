"""The story of a job in plain words, one sentence each, in the order of time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hma.v1 import attempt_pb2, common_pb2, job_pb2
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.edge.explaining.gains import answered
from services.meta_agent.edge.explaining.interrupting import detours, failures, losses, stops
from services.meta_agent.edge.explaining.movements import dropped, next_thousand, realised
from services.meta_agent.edge.explaining.said import LAST, Said, told
from services.meta_agent.edge.explaining.story import Move, Noted, Story
from services.meta_agent.edge.explaining.wording import (
    NAMED,
    because,
    came_back,
    count,
    figure,
    listed,
    off,
    was,
)

_STATES = {
    job_pb2.JOB_STATE_SUCCEEDED: "succeeded",
    job_pb2.JOB_STATE_PARTIAL: "ended with a part of its answer",
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELLED: "was cancelled",
}
_PLANNERS = {
    attempt_pb2.PLAN_SOURCE_MODEL: "by the Analyst's model",
    attempt_pb2.PLAN_SOURCE_STRUCTURAL: "by code, from questions, documents and sections",
    attempt_pb2.PLAN_SOURCE_MIXED: "by the Analyst's model and completed by code",
    attempt_pb2.PLAN_SOURCE_CALLER: "by the client",
}


def sentences(story: Story, rules: Rules) -> list[str]:
    """All that is worth telling.

    Args:
        story: The job.
        rules: For what more tokens would buy while it runs.
    """
    return told(
        itertools.chain(
            _noted(story),
            _moves(story),
            stops(story),
            losses(story),
            detours(story),
            failures(story),
            _drops(story),
            _summary(story, rules),
        )
    )


def _noted(story: Story) -> Iterator[Said]:
    for noted in story.noted:
        kind, text = _say(story, noted)
        if text:
            yield Said(noted.sequence, kind, text)


def _say(story: Story, noted: Noted) -> tuple[str, str]:
    """The kind and the sentence of an event; an empty one when it is not worth telling."""
    event = noted.event
    match event.WhichOneof("payload"):
        case "shape_decided":
            return "decision", _shape(story, event.shape_decided)
        case "plan_closed":
            return "plan", _plan(event.plan_closed)
        case "plan_trimmed":
            return "trim", _trimmed(story, event.plan_trimmed)
        case "round_judged":
            return "round", _round(event.round_judged)
        case "quota_drawn":
            return "quota", _waited(story, noted)
        case "budget_granted":
            return "top-up", _topped_up(event.budget_granted)
        case "interrupt_requested":
            reason = because(event.interrupt_requested.reason)
            return "request", f"A client asked for the answer at once{reason}."
        case "cancel_requested":
            reason = because(event.cancel_requested.reason)
            return "request", f"A client cancelled the job{reason}."
        case "job_finished":
            return "end", _finished(story, event.job_finished)
    return "", ""


def _shape(story: Story, shape: job_pb2.ShapeDecided) -> str:
    team = shape.shape == job_pb2.JOB_SHAPE_TEAM
    predicted = shape.predicted_team_tokens if team else shape.predicted_single_tokens
    text = (
        f"{'A team' if team else 'One agent'} was chosen{because(shape.reason)}; predicted "
        f"{count(shape.predicted_single_tokens, 'token')} alone, "
        f"{shape.predicted_team_tokens:,} in a team"
    )
    fold = story.fold
    actual = fold.spent + fold.unknown
    if fold.finished is None:
        return f"{text}; it has cost {actual:,} so far."
    if fold.finished.HasField("shape_outcome"):
        outcome = fold.finished.shape_outcome
        actual, predicted = outcome.actual_tokens, outcome.predicted_tokens
    cost = f"it cost {actual:,} ({off(actual, predicted)})" if actual else "nothing was spent"
    return f"{text}; {cost}."


def _plan(closed: job_pb2.PlanClosed) -> str:
    """Who planned, and what the plan left out; nothing on a plan of one task by nobody."""
    parts = []
    planner = _PLANNERS.get(closed.source)
    if planner is not None:
        parts.append(f"{count(closed.tasks, 'task')} {was(closed.tasks)} planned {planner}")
        parts[0] += because(closed.reason)
    elif closed.reason:
        parts.append(f"Planning ended early{because(closed.reason)}")
    if closed.unfunded:
        left = len(closed.unfunded)
        parts.append(f"{count(left, 'item')} {was(left)} left without a task")
    return "; ".join(parts) + "." if parts else ""


def _trimmed(story: Story, trimmed: job_pb2.PlanTrimmed) -> str:
    merged: dict[str, list[str]] = {}
    deferred = []
    for task in trimmed.tasks:
        if task.action == job_pb2.TRIM_ACTION_MERGE:
            merged.setdefault(task.into_task_uid, []).append(story.told(task.task_uid))
        else:
            deferred.append(story.told(task.task_uid))
    parts = [
        f"{listed(names)} {was(len(names))} merged into {story.told(into)}"
        for into, names in list(merged.items())[:NAMED]
    ]
    more = sum(len(names) for names in list(merged.values())[NAMED:])
    if more:
        parts.append(f"{more:,} more {was(more)} merged")
    if deferred:
        waits = "waits" if len(deferred) == 1 else "wait"
        if story.fold.ended:
            waits = "had to wait"
        parts.append(f"{listed(deferred)} {waits} for tokens that others leave")
    return (
        f"All tasks would need {count(trimmed.needed_tokens, 'token')} and "
        f"{trimmed.available_tokens:,} {was(trimmed.available_tokens)} there: "
        f"{', '.join(parts)}."
    )


def _round(judged: job_pb2.RoundJudged) -> str:
    features = judged.features
    verdict = "another round" if judged.another_round else "halt"
    text = f"Round {judged.round} was judged: {verdict}{because(judged.reason)}"
    facts = [f"{features.answered:,} of {count(features.items, 'item')} answered"]
    if features.answered:
        facts.append(f"{features.grounded:,} found in the source")
    if features.extracts:
        facts.append(count(features.extracts, "extract"))
    facts.append(f"quality {features.quality:.2f}")
    if judged.round > 1:
        facts[-1] += f" after {features.quality_before:.2f}"
    if features.HasField("another_round"):
        rate = features.another_round.gain_per_1000_tokens
        facts.append(f"another expects {figure(rate)} answers per 1,000 tokens")
    kept = "; the answer of the round before is kept" if judged.keeps_previous_answer else ""
    return f"{text}; {', '.join(facts)}{kept}."


def _waited(story: Story, noted: Noted) -> str:
    """Which limit of the tenant the job waited for, and for how long."""
    drawn = noted.event.quota_drawn
    text = f"The tenant's limit {drawn.limit} had no room for more, so the job waited"
    following = story.draws.get(noted.sequence)
    return f"{text} {following - noted.time:,.1f} s." if following is not None else f"{text}."


def _topped_up(granted: job_pb2.BudgetGranted) -> str:
    parts = []
    if granted.tokens:
        parts.append(count(granted.tokens, "token"))
    if granted.cost:
        parts.append(f"{granted.cost:g} of money")
    return f"{' and '.join(parts)} {'was' if granted.tokens == 1 else 'were'} added to the budget."


def _finished(story: Story, finished: job_pb2.JobFinished) -> str:
    fold = story.fold
    state = _STATES.get(finished.state, "ended")
    # "Cancelled (cancelled: why)" would say it twice.
    reason = finished.reason
    if finished.state == job_pb2.JOB_STATE_CANCELLED:
        reason = reason.removeprefix("cancelled").removeprefix(": ")
    text = f"The job {state}{because(reason)}; {fold.spent:,} of {fold.budget:,} tokens "
    text += f"{was(fold.spent)} spent"
    if fold.unknown:
        text += f", {fold.unknown:,} more at most are unknown"
    return f"{text}.{_failed(finished.failure_report)}"


def _failed(report: job_pb2.FailureReport) -> str:
    """How often something failed, and what came of it; empty when nothing did."""
    if not report.counts:
        return ""
    mended = sum(each.retried + each.fell_back for each in report.counts)
    saved = sum(each.salvaged for each in report.counts)
    text = f" {count(sum(each.count for each in report.counts), 'attempt')} failed"
    free = report.handed_over_attempts
    if free:
        text += f", {free:,} of them with their service or driver at the cost of no try"
    told = [f"{mended:,} made good by a later one"] if mended else []
    told += [f"{saved:,} saved in part"] if saved else []
    text += f", {' and '.join(told)}" if told else ""
    return f"{text}, for {count(report.tokens_lost, 'token')} in vain."


def _moves(story: Story) -> Iterator[Said]:
    """What went to a task. What went back to the pool is in the table and the summary."""
    for move in story.moves:
        if move.getter:
            yield Said(move.sequence, "token move", _move(story, move), move.tokens)


def _move(story: Story, move: Move) -> str:
    where = "from the pool"
    if move.giver:
        done = ", which was done," if move.giver_settled else ""
        where = f"from {story.told(move.giver)}{done}"
    text = f"{count(move.tokens, 'token')} moved {where} to {story.told(move.getter)}"
    text += because(move.reason)
    expects = []
    if move.estimate is not None:
        rate = figure(move.estimate.gain_per_1000_tokens)
        expects.append(f"expected {rate} answers per 1,000 tokens")
    task = story.fold.tasks.get(move.getter)
    if task is not None and task.task.items and (task.settled or task.result is not None):
        have = answered(task.result)
        of = len(task.task.items)
        since = figure(realised(story, move))
        verb = "then" if task.settled else "so far"
        much = f"{have:,} of {count(of, 'item')}" if have else "nothing"
        expects.append(f"{story.told(move.getter)} {verb} answered {much}")
        if move.before is not None:
            expects[-1] += f", worth {since} more than before"
    return f"{text}: {'; '.join(expects)}." if expects else f"{text}."


def _drops(story: Story) -> Iterator[Said]:
    """What was skipped; many at once for one class of reason are one sentence.

    What was merged or waits stands in the sentence on the trim.
    """
    skipped = [
        (story.settle_moments[uid].sequence, uid, entry)
        for uid, entry in dropped(story).items()
        if entry.what == "skipped" and uid in story.settle_moments
    ]
    skipped.sort(key=lambda entry: entry[0])
    by_class = itertools.groupby(
        skipped, key=lambda entry: story.settled[entry[1]].failure.failure_class
    )
    for failure_class, found in by_class:
        group = list(found)
        if len(group) <= NAMED:
            for sequence, uid, entry in group:
                text = _dropped(story, [uid], entry.extracted_items, entry.reason)
                yield Said(sequence, "dropped task", text)
            continue
        reasons = list(dict.fromkeys(entry.reason for _, _, entry in group))
        reason = reasons[0]
        if len(reasons) > 1 and failure_class == common_pb2.FAILURE_CLASS_BUDGET:
            reason = "the budget did not pay for them"
        elif len(reasons) > 1:
            reason = f"the first because {reasons[0]}"
        extracts = sum(entry.extracted_items for _, _, entry in group)
        text = _dropped(story, [uid for _, uid, _ in group], extracts, reason)
        yield Said(group[0][0], "dropped task", text, len(group))


def _dropped(story: Story, uids: Sequence[str], extracts: int, reason: str) -> str:
    text = f"{listed([story.told(uid) for uid in uids])} {was(len(uids))} dropped"
    if reason:
        text += f": {reason.rstrip('.')}"
    return f"{text}{came_back(extracts)}."


def _summary(story: Story, rules: Rules) -> Iterator[Said]:
    """What moved in all, and what more tokens would buy."""
    back = sum(move.tokens for move in story.moves if not move.getter)
    out = sum(move.tokens for move in story.moves if move.getter)
    if back or out:
        # The same token may move more than once, so the sums may exceed the budget.
        moved = [f"{count(back, 'token')} went to the pool"] if back else []
        moved += [f"{count(out, 'token')} to tasks that could use more"] if out else []
        text = f"In all moves together, {' and '.join(moved)}."
        yield Said(LAST - 1, "summary", text)
    estimate = next_thousand(story, rules)
    # Below a twentieth of an answer the figure would read as a promise of nothing.
    if estimate.gain >= _LEAST:
        would = "would have bought" if story.fold.ended else "would buy"
        noun = "answer" if figure(estimate.gain) == "1" else "answers"
        much = f"about {figure(estimate.gain)} {noun}"
        yield Said(LAST, "summary", f"Another 1,000 tokens {would} {much}.")


_LEAST = 0.05
