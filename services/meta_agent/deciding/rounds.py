"""After reducing: judges the answer without a judge, and plans another round where it pays.

Another round is planned by code, from what may be asked again (`asking_again`).
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.admitting import admit_task
from services.meta_agent.deciding.asking_again import Again, candidates, judge_of
from services.meta_agent.deciding.budget import purse_of, reserve
from services.meta_agent.deciding.deadlines import work_deadline
from services.meta_agent.deciding.estimate import QUANTILE
from services.meta_agent.deciding.halting import POLICIES, Verdict
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.deciding.settling import BAD_ENDS
from services.meta_agent.deciding.stopping import why_stop
from services.meta_agent.deciding.turn import Turn
from services.meta_agent.deciding.valuing import EXTRACT_WEIGHT, weight_of
from services.meta_agent.job.state import JobFold


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


def _funded(turn: Turn, tokens: int) -> tuple[list[Again], job_pb2.RoundFeatures]:
    """What another round would do with so many tokens, best first, and the features."""
    fold, rules = turn.fold, turn.rules
    room = tokens - reserve(fold, rules)
    places = rules.max_plan_tasks - len(fold.tasks)
    found = sorted(candidates(turn), key=lambda a: -a.value.gain_per_1000_tokens)
    taken: dict[tuple[str, str], Again] = {}
    for each in found:
        more = [again for again in (*each.first, each) if again.key not in taken]
        needed = sum(again.value.tokens for again in more) + _to_reduce(fold, rules, more)
        if needed <= room and len(taken) + len(more) <= places:
            taken.update({again.key: again for again in more})
            room -= needed
    chosen = list(taken.values())
    if not chosen and found and places > 0:
        # Not paid for; the least that would be says how much is missing.
        least = min(found, key=lambda a: sum(again.value.tokens for again in (*a.first, a)))
        chosen = [*least.first, least]
    return chosen, _features(turn, chosen, tokens)


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
    policy, judge = fold.created.policy, judge_of(fold, rules)
    features = job_pb2.RoundFeatures(
        items=len(asked),
        answered=len(read),
        grounded=sum(item.grounded for item in read),
        extracts=len(given) - len(read),
        missing=len(asked) - len(given),
        mean_logprob=sum(sure) / len(sure) if sure else 0.0,
        agreement=_agreement(fold),
        quality=sum(judge(item) for item in given) / max(len(asked), 1),
        quality_before=max((r.features.quality for r in fold.rounds), default=0.0),
        calibrated=route.profile.calibration is not None,
        tokens_left=tokens,
        reduce_tokens=reserve(fold, rules) + _to_reduce(fold, rules, again),
        another_round=_together(again),
        max_rounds=policy.max_rounds or 1,
        min_gain_per_1000_tokens=policy.min_gain_per_1000_tokens or rules.min_gain_per_1000_tokens,
    )
    _set(features.time_left, max(work_deadline(fold, rules) - turn.now, 0.0))
    _set(features.time_needed, max((_seconds(each) for each in again), default=0.0))
    return features


def _seconds(again: Again) -> float:
    """How long it takes, with what has to be asked before it."""
    return again.seconds + sum(first.seconds for first in again.first)


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


def _plan(turn: Turn, again: Sequence[Again]) -> None:
    """Admits the tasks of the round that begins."""
    fold = turn.fold
    names = _successors(fold)
    for each in again:
        task = task_pb2.Task()
        task.CopyFrom(each.task.task)
        task.id = _new_id(turn.fold, f"{each.task.task.id[:56]}.r{fold.round}")
        del task.items[:]
        task.items.extend(each.items)
        task.critical = False
        task.depends_on[:] = [names.get(name, name) for name in task.depends_on]
        if each.task.state in BAD_ENDS:
            names[each.task.task.id] = task.id
        if each.route.name != turn.rules.job_route(fold).name:
            task.route = each.route.name
        source = attempt_pb2.PLAN_SOURCE_STRUCTURAL
        admit_task(turn, task, source, redoes=each.task.uid)
    turn.change_state(job_pb2.JOB_STATE_RUNNING, f"round {fold.round}: {len(again)} tasks again")


def _successors(fold: JobFold) -> dict[str, str]:
    """By id, for each task that came to nothing, the one that has succeeded it."""
    names: dict[str, str] = {}
    for task in fold.tasks.values():
        before = fold.tasks.get(task.redoes)
        if before is not None and before.state in BAD_ENDS:
            names = {
                old: task.task.id if new == before.task.id else new for old, new in names.items()
            }
            names[before.task.id] = task.task.id
    return names


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
