"""After reducing: judges the answer without a judge, and plans another round where it pays.

Another round is planned by code. Items that no model has read are asked again as they
were; items whose answer is weak only where another route can be asked, since at
temperature 0 the same route gives the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from hma.llm.routes import Route
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.admitting import admit_task
from services.meta_agent.deciding.budget import purse_of, reserve
from services.meta_agent.deciding.deadlines import TOKENS_PER_SECOND, work_deadline
from services.meta_agent.deciding.estimate import QUANTILE, estimate_task
from services.meta_agent.deciding.halting import POLICIES, Verdict
from services.meta_agent.deciding.history import ENOUGH, task_key
from services.meta_agent.deciding.routing import affords
from services.meta_agent.deciding.rules import Rules, is_on
from services.meta_agent.deciding.stopping import why_stop
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.deciding.valuing import (
    EXTRACT_WEIGHT,
    expected_weight,
    value,
    weight_of,
    weight_without,
)
from services.meta_agent.job.state import JobFold, TaskFold

WEAK = 0.75
"""Quality of an answer below which another round may ask for it again."""


@dataclass(frozen=True, slots=True)
class Again:
    """Open or weak items of one task, to be asked once more.

    Attributes:
        task: The task they belong to.
        items: The items; empty for a task that has none.
        route: Where they would be asked.
        value: What that is expected to be worth.
        seconds: How long it is expected to take.
    """

    task: TaskFold
    items: tuple[task_pb2.Item, ...]
    route: Route
    value: job_pb2.ValueEstimate
    seconds: float


def judge_round(turn: Turn) -> None:
    """Judges this round's answer once it is there, and begins another round or not."""
    fold = turn.fold
    if fold.answer is None or len(fold.rounds) >= fold.round or fold.cancelled is not None:
        return
    if any(True for _ in fold.open_attempts()):
        return
    left = purse_of(fold, turn.rules).unspent
    again, features = _funded(turn, left)
    policy = fold.created.policy.halting or job_pb2.HALTING_POLICY_FIXED
    verdict = POLICIES[policy](fold.round, features)
    stopped = why_stop(fold, turn.now, work_deadline(fold, turn.rules))
    if stopped is not None:
        verdict = Verdict(False, stopped.message)
    worse = fold.round > 1 and features.quality < features.quality_before
    turn.emit(
        round_judged=job_pb2.RoundJudged(
            round=fold.round,
            policy=policy,
            features=features,
            another_round=verdict.another_round,
            reason=verdict.reason,
            keeps_previous_answer=worse,
        )
    )
    turn.wake(turn.now)
    if verdict.another_round:
        _plan(turn, again)


def quality_of(item: task_pb2.ItemAnswer, route: Route) -> float:
    """How good an answer probably is, 0 to 1, from signals that cost no token.

    By the route's calibration of grounding and mean log-probability (facts/llm.md, rule
    9); without one, by the weights of `Answer.confidence`.
    """
    calibration = route.profile.calibration
    if calibration is None or item.origin == common_pb2.ORIGIN_EXTRACT or not item.answer:
        return weight_of(item)
    return calibration.probability_good(grounded=item.grounded, mean_logprob=item.mean_logprob)


def _funded(turn: Turn, tokens: int) -> tuple[list[Again], job_pb2.RoundFeatures]:
    """What another round would do with so many tokens, best first, and the features."""
    fold, rules = turn.fold, turn.rules
    room = tokens - reserve(fold, rules)
    places = rules.max_plan_tasks - len(fold.tasks)
    candidates = sorted(_candidates(turn), key=lambda a: -a.value.gain_per_1000_tokens)
    taken: list[Again] = []
    for each in candidates:
        needed = each.value.tokens + _to_reduce(fold, rules, [each])
        if needed <= room and len(taken) < places:
            taken.append(each)
            room -= needed
    if not taken and places > 0:
        # Not paid for; the least that would be says how much is missing.
        taken = sorted(candidates, key=lambda a: a.value.tokens)[:1]
    return taken, _features(turn, taken, tokens)


def _to_reduce(fold: JobFold, rules: Rules, again: Sequence[Again]) -> int:
    """Tokens that reading the results to come adds to the next reduce."""
    coming = sum(each.task.task.max_result_tokens for each in again)
    return reserve(fold, rules, coming) - reserve(fold, rules)


def _features(turn: Turn, again: Sequence[Again], tokens: int) -> job_pb2.RoundFeatures:
    fold, rules = turn.fold, turn.rules
    route = rules.job_route(fold)
    answers = {item.item_id: item for item in fold.answer.items} if fold.answer else {}
    asked = [item.item_id for item in fold.created.items] or list(answers)
    asked += [gap.item_id for gap in fold.answer.missing if gap.item_id not in asked]  # type: ignore[union-attr]
    given = [answers[name] for name in asked if name in answers]
    read = [item for item in given if item.origin != common_pb2.ORIGIN_EXTRACT]
    sure = [item.mean_logprob for item in read if item.mean_logprob]
    policy = fold.created.policy
    features = job_pb2.RoundFeatures(
        items=len(asked),
        answered=len(read),
        grounded=sum(item.grounded for item in read),
        extracts=len(given) - len(read),
        missing=len(asked) - len(given),
        mean_logprob=sum(sure) / len(sure) if sure else 0.0,
        agreement=_agreement(fold),
        quality=sum(quality_of(item, route) for item in given) / max(len(asked), 1),
        quality_before=max((r.features.quality for r in fold.rounds), default=0.0),
        calibrated=route.profile.calibration is not None,
        tokens_left=tokens,
        reduce_tokens=reserve(fold, rules) + _to_reduce(fold, rules, again),
        another_round=_together(again),
        max_rounds=policy.max_rounds or 1,
        min_gain_per_1000_tokens=policy.min_gain_per_1000_tokens or rules.min_gain_per_1000_tokens,
    )
    _set(features.time_left, max(work_deadline(fold, rules) - turn.now, 0.0))
    _set(features.time_needed, max((each.seconds for each in again), default=0.0))
    return features


def _together(again: Sequence[Again]) -> job_pb2.ValueEstimate:
    values = [each.value for each in again]
    items = sum(v.items for v in values)
    total = job_pb2.ValueEstimate(
        items=items,
        tokens=sum(v.tokens for v in values),
        gain=sum(v.gain for v in values),
        probability=QUANTILE,
        samples=min((v.samples for v in values), default=0),
    )
    if items:
        total.expected_weight = sum(v.expected_weight * v.items for v in values) / items
        total.weight_now = sum(v.weight_now * v.items for v in values) / items
    if total.tokens:
        total.gain_per_1000_tokens = 1000 * total.gain / total.tokens
    return total


def _candidates(turn: Turn) -> list[Again]:
    """What could be asked again; each item once, of its latest task."""
    fold, rules = turn.fold, turn.rules
    default = rules.job_route(fold)
    known = {item.item_id: item for item in fold.answer.items} if fold.answer else {}
    redone = {task.redoes for task in fold.tasks.values()}
    found = []
    for task in fold.tasks.values():
        if task.uid in redone or task.merged_into:
            continue
        unread, weak = _open(task, known, default)
        other = _other_route(turn, task)
        if unread:
            found.append(_again(turn, task, unread, known, default))
        if weak and other is not None:
            found.append(_again(turn, task, weak, known, other))
    return found


def _open(
    task: TaskFold, known: dict[str, task_pb2.ItemAnswer], route: Route
) -> tuple[list[task_pb2.Item], list[task_pb2.Item]]:
    """Items of a task that no model has read, and those whose answer is weak."""
    if not task.task.items:
        nothing = task.result is None or not (task.result.items or task.result.notes)
        return ([task_pb2.Item(item_id=task.task.id)] if nothing else []), []
    unread, weak = [], []
    for item in task.task.items:
        answer = known.get(item.item_id)
        extract = answer is not None and answer.origin == common_pb2.ORIGIN_EXTRACT
        if answer is None and _was_read(task, item.item_id):
            weak.append(item)
        elif answer is None or (extract and not answer.mean_logprob):
            unread.append(item)
        elif extract or quality_of(answer, route) < WEAK:
            weak.append(item)
    return unread, weak


def _was_read(task: TaskFold, item_id: str) -> bool:
    """Whether a model has looked and said that the answer is not there."""
    gaps = task.result.missing if task.result is not None else ()
    refused = common_pb2.FAILURE_CLASS_REFUSED
    return any(gap.item_id == item_id and gap.failure_class == refused for gap in gaps)


def _other_route(turn: Turn, task: TaskFold) -> Route | None:
    """Another route than the task has taken, that thinks and is to be had."""
    fold, rules = turn.fold, turn.rules
    fixed = task.task.route or fold.created.policy.route
    if fixed or not is_on(fold.created.policy.routing):
        return None
    taken = {attempt.route for attempt in fold.attempts_of(task.uid)}
    for route in rules.routes.values():
        if route.name in taken or not turn.route_state(route.name).ready:
            continue
        if not route.reasoning or affords(task.task, route, rules, None):
            return route
    return None


def _again(
    turn: Turn,
    task: TaskFold,
    items: Sequence[task_pb2.Item],
    known: dict[str, task_pb2.ItemAnswer],
    route: Route,
) -> Again:
    fold, rules = turn.fold, turn.rules
    estimate = estimate_task(task.task, route, 0, rules.history, len(items))
    weight, samples = expected_weight(route, task.task.kind, task.task.complexity, rules)
    now = [
        quality_of(known[item.item_id], route)
        if item.item_id in known
        else weight_without(task.task, fold)
        for item in items
    ]
    mean = min(sum(now) / len(now), 1.0)
    record = rules.history.record(task_key(route, task.task.kind, task.task.complexity))
    seconds = estimate.calls * estimate.call_completion / TOKENS_PER_SECOND
    if record.milliseconds.total >= ENOUGH:
        seconds = estimate.calls * record.milliseconds.quantile(QUANTILE) / 1000
    worth = value(len(items), weight, mean, estimate.total, QUANTILE, samples)
    own = tuple(items) if task.task.items else ()
    return Again(task, own, route, worth, seconds)


def _plan(turn: Turn, again: Sequence[Again]) -> None:
    """Admits the tasks of the round that begins."""
    fold = turn.fold
    for each in again:
        task = task_pb2.Task()
        task.CopyFrom(each.task.task)
        task.id = _new_id(turn.fold, f"{each.task.task.id[:56]}.r{fold.round}")
        del task.items[:]
        task.items.extend(each.items)
        task.critical = False
        if each.route.name != turn.rules.job_route(fold).name:
            task.route = each.route.name
        source = attempt_pb2.PLAN_SOURCE_STRUCTURAL
        admit_task(turn, task, source, redoes=each.task.uid)
    turn.change_state(job_pb2.JOB_STATE_RUNNING, f"round {fold.round}: {len(again)} tasks again")


def _new_id(fold: JobFold, name: str) -> str:
    """`name`, or with a number when a task of that name is there already.

    Unread and weak items of one task are asked apart, and long ids are cut.
    """
    number, found = 1, name
    while fold.task_by_id(found) is not None:
        number += 1
        found = f"{name}.{number}"
    return found


def _agreement(fold: JobFold) -> float:
    """Share of the items that two rounds have answered whose answers are the same; -1: none."""
    same = []
    for task in fold.tasks.values():
        before = fold.tasks.get(task.redoes)
        if before is None or before.result is None or task.result is None:
            continue
        old = {i.item_id: i.answer for i in before.result.items if weight_of(i) > EXTRACT_WEIGHT}
        for item in task.result.items:
            if item.item_id in old and weight_of(item) > EXTRACT_WEIGHT:
                one, other = item.answer.casefold().split(), old[item.item_id].casefold().split()
                same.append(one == other)
    return sum(same) / len(same) if same else -1.0


def _set(duration: Duration, seconds: float) -> None:
    duration.FromMicroseconds(int(seconds * 1e6))
