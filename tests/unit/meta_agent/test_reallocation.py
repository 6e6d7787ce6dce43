"""Moving tokens while a job runs beats fixed shares: same jobs, same services."""

from __future__ import annotations

import random
from math import comb

import pytest

from hma.v1 import job_pb2, task_pb2
from services.meta_agent.deciding.valuing import EXTRACT_WEIGHT, weight_of
from tests.unit.meta_agent.plans import itemised_plan
from tests.unit.meta_agent.simulation import Faults, World, make_created, make_rules

SEEDS = range(60)

FAULTS = Faults(failed=0.15, partial=0.15, broken=0.05, ungrounded=0.2, empty=0.1)


class Unchecked(World):
    """The invariants are checked elsewhere; here many jobs are run."""

    def _check(self) -> None:
        pass


def make_plan(dice: random.Random, items: int, kind: str) -> task_pb2.Plan | None:
    if kind == "flat":
        return None  # the Analyst's
    sizes: list[int] = []
    while sum(sizes) < items:
        size = dice.choice([1, 1, 2, 3, 5]) if kind == "uneven" else 1
        sizes.append(min(size, items - sum(sizes)))
    return itemised_plan(sizes, chain=3 if kind == "chains" else 0)


def worth_of_answer(seed: int, kind: str, budgeting: job_pb2.Switch.ValueType) -> float:
    """Mean weight of the answers of one job whose budget is rather short."""
    dice = random.Random(seed)
    items = dice.randint(6, 24)
    budget = int(items * dice.uniform(80, 260))
    created = make_created(
        items=items,
        budget=budget,
        documents=1,
        plan=make_plan(dice, items, kind),
        policy=job_pb2.JobPolicy(budgeting=budgeting, shape=job_pb2.JOB_SHAPE_TEAM),
    )
    fold = Unchecked(seed, created, make_rules(), FAULTS, slots=8).run()
    got = {i.item_id: weight_of(i) for i in fold.answer.items} if fold.answer is not None else {}
    total: float = sum(got.get(item.item_id, EXTRACT_WEIGHT) for item in created.items)
    return total / items


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact sign test: probability of so uneven a split of fair coins."""
    tries, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(comb(tries, k) for k in range(fewer + 1)) / 2**tries)


@pytest.mark.parametrize("kind", ["flat", "chains", "uneven"])
def test_dynamic_budgeting_beats_static_allocation(kind: str) -> None:
    dynamic = [worth_of_answer(seed, kind, job_pb2.SWITCH_ON) for seed in SEEDS]
    static = [worth_of_answer(seed, kind, job_pb2.SWITCH_OFF) for seed in SEEDS]
    wins = sum(one > other for one, other in zip(dynamic, static, strict=True))
    losses = sum(one < other for one, other in zip(dynamic, static, strict=True))
    assert sum(dynamic) > sum(static)
    assert wins > losses
    assert sign_test(wins, losses) < 0.05, f"{wins} wins, {losses} losses"


def test_sign_test_is_exact() -> None:
    assert sign_test(5, 5) == 1.0
    assert sign_test(6, 0) == 2 / 2**6
    assert sign_test(0, 0) == 1.0
