"""Jobs under their tenant's quota: they wait for what the budget pays for, and for no more."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hma.v1 import common_pb2, job_pb2
from services.meta_agent.edge.explaining.sentences import sentences
from services.meta_agent.edge.explaining.story import Story
from services.meta_agent.job.apply import apply, fold_events
from services.meta_agent.job.state import JobFold
from tests.unit.meta_agent.simulation import Faults, Quota, World, make_created, make_rules
from tests.unit.meta_agent.test_simulated_jobs import HARSH, check_end, make_policy

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


def make_world(
    seed: int,
    *,
    limit: int,
    faults: Faults | None = None,
    items: int = 6,
    budget: int = 8000,
    deadline: float = 3600.0,
    tranche: int = 1000,
    others: bool = False,
    busy: float = 0.0,
    draws: bool = True,
    policy: job_pb2.JobPolicy | None = None,
    preset: str = "smollm2",
) -> World:
    """A job whose tenant may use so many tokens a minute."""
    created = make_created(
        items=items, budget=budget, deadline=deadline, draws=draws, policy=policy
    )
    dice = random.Random(seed)
    quota = Quota(limit, tranche, busy=busy)
    if others:
        quota.others = lambda _: dice.choice([0, limit // 2, limit])
    return World(seed, created, make_rules(preset), faults, slots=4, quota=quota)


@pytest.mark.parametrize("preset", ["smollm2", "standard"])
@pytest.mark.parametrize("seed", range(20))
def test_a_tight_window_changes_when_a_job_is_done_and_not_what_comes_of_it(
    seed: int, preset: str
) -> None:
    budget, limit = (8000, 700) if preset == "smollm2" else (60_000, 5000)
    free = make_world(seed, limit=10**9, budget=budget, preset=preset)
    tight = make_world(seed, limit=limit, budget=budget, preset=preset, others=seed % 2 == 0)
    one, other = free.run(), tight.run()
    check_end(tight)
    assert one.state == other.state == SUCCEEDED
    assert {i.item_id for i in other.answer.items} == {f"q{n}" for n in range(1, 7)}  # type: ignore[union-attr]
    assert not any(_denied(event) for event in tight.log)
    assert other.end_time >= one.end_time


def test_tight_windows_are_met_by_waiting() -> None:
    world = make_world(3, limit=700)
    fold = world.run()
    assert fold.state == SUCCEEDED
    assert fold.spent > 700
    assert fold.end_time - fold.create_time > 60.0 * (fold.spent // 700)
    reasons = {e.state_changed.reason for e in world.log if e.HasField("state_changed")}
    assert any(reason.startswith("waits for quota: tokens_per_minute") for reason in reasons)
    assert "tasks run" in reasons


def test_waiting_is_logged_once_for_each_change_and_not_for_each_try() -> None:
    world = make_world(3, limit=700)
    world.run()
    assert world.quota is not None
    drawn = [e for e in world.log if e.HasField("quota_drawn")]
    assert world.quota.tries > 4 * len(drawn)


def test_a_call_for_which_too_little_is_drawn_waits_and_is_granted_whole() -> None:
    seen = 0
    for seed in range(40):
        world = make_world(seed, limit=900, tranche=100, others=True)
        world.run()
        check_end(world)
        seen += any(event.HasField("call_deferred") for event in world.log)
    assert seen


@pytest.mark.parametrize("cause", ["interrupt", "cancel"])
def test_who_waits_can_be_told_to_end(cause: str) -> None:
    world = make_world(5, limit=700)
    assert world.quota is not None
    world.quota.others = lambda now: 700 if now > world.fold.create_time + 5 else 0
    if cause == "interrupt":
        world.at(30.0, lambda: world.say(interrupt_requested=job_pb2.InterruptRequested()))
    else:
        world.at(30.0, lambda: world.say(cancel_requested=job_pb2.CancelRequested()))
    fold = world.run()
    check_end(world)
    assert fold.end_time - fold.create_time < 45.0
    if cause == "cancel":
        assert fold.state == job_pb2.JOB_STATE_CANCELLED


def test_at_the_deadline_a_job_that_waits_ends_with_what_it_has() -> None:
    world = make_world(5, limit=700, deadline=120.0)
    assert world.quota is not None
    world.quota.others = lambda now: 700 if now > world.fold.create_time + 5 else 0
    fold = world.run()
    check_end(world)
    assert fold.finished is not None
    late = [t.failure.message for t in fold.tasks.values() if t.failure is not None]
    assert any("it waited for quota: tokens_per_minute" in words for words in late)


def test_a_job_without_limits_of_tokens_neither_draws_nor_waits() -> None:
    world = make_world(1, limit=1, draws=False)
    world.quota = None
    assert world.run().state == SUCCEEDED
    kinds = Counter(event.WhichOneof("payload") for event in world.log)
    assert not kinds["quota_drawn"]
    assert not kinds["call_deferred"]


def test_who_finds_no_room_gives_back_what_no_call_holds() -> None:
    """Two that wait, each holding what the other lacks, would wait for ever."""
    gave = 0
    for seed in range(30):
        world = make_world(seed, limit=900, tranche=300, others=True)
        world.run()
        fold = JobFold()
        for event in world.log:
            fold = apply(fold, event)
            if event.quota_drawn.tokens < 0:
                gave += 1
                assert not fold.outstanding
                assert fold.drawn == fold.spent + fold.unknown
    assert gave


def test_hundreds_of_jobs_with_faults_keep_window_budget_and_deadline() -> None:
    seen = Counter[str]()
    for seed in range(300):
        world = make_world(
            seed,
            limit=300 + 61 * (seed % 40),
            faults=HARSH,
            items=seed % 9,
            budget=100 + 37 * (seed % 300),
            deadline=20 + 5 * (seed % 100),
            tranche=50 + 100 * (seed % 20),
            others=seed % 3 == 0,
            busy=0.2 if seed % 4 == 0 else 0.0,
            policy=make_policy(seed),
            preset="standard" if seed % 3 == 1 else "smollm2",
        )
        fold = world.run()
        check_end(world)
        assert (fold.drawn or 0) >= fold.spent + fold.unknown
        seen.update(event.WhichOneof("payload") or "" for event in world.log)
    for kind in ("quota_drawn", "call_deferred", "attempt_reported"):
        assert seen[kind], kind


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    items=st.integers(0, 8),
    budget=st.integers(1, 20_000),
    deadline=st.integers(1, 900),
    limit=st.integers(1, 20_000),
    tranche=st.integers(1, 20_000),
    others=st.booleans(),
    preset=st.sampled_from(["smollm2", "standard"]),
    grants=st.lists(st.tuples(st.floats(0, 60), st.integers(1, 5000)), max_size=2),
)
def test_any_job_under_any_limit_ends_within_what_it_has_drawn(
    seed: int,
    items: int,
    budget: int,
    deadline: int,
    limit: int,
    tranche: int,
    others: bool,
    preset: str,
    grants: list[tuple[float, int]],
) -> None:
    world = make_world(
        seed,
        limit=limit,
        faults=HARSH,
        items=items,
        budget=budget,
        deadline=deadline,
        tranche=tranche,
        others=others,
        policy=make_policy(seed),
        preset=preset,
    )
    for delay, tokens in grants:
        granted = job_pb2.BudgetGranted(tokens=tokens)
        world.at(delay, lambda granted=granted: world.say(budget_granted=granted))  # type: ignore[misc]
    world.run()
    check_end(world)


def test_a_log_with_draws_folds_to_what_was_drawn_and_what_waits() -> None:
    world = make_world(7, limit=700, faults=HARSH)
    world.run()
    assert fold_events(world.log) == world.fold


def test_a_waiting_job_says_until_when_before_anybody_drives_it() -> None:
    fold = apply(
        JobFold(), job_pb2.JobEvent(job_created=make_created(draws=True), event_id="1", sequence=1)
    )
    full = job_pb2.QuotaDrawn(limit="requests_per_minute")
    full.retry_time.FromSeconds(1_700_000_000)
    fold = apply(fold, job_pb2.JobEvent(quota_drawn=full, event_id="2", sequence=2))
    words = "waits for quota: requests_per_minute has room again at 22:13:20 UTC"
    assert (fold.drawn, fold.reason) == (0, words)
    accepted = job_pb2.QuotaDrawn(tokens=500, total_tokens=500)
    fold = apply(fold, job_pb2.JobEvent(quota_drawn=accepted, event_id="3", sequence=3))
    assert (fold.drawn, fold.reason) == (500, "waits for a driver")


def _denied(event: job_pb2.JobEvent) -> bool:
    settled = event.task_settled
    budget = settled.failure.failure_class == common_pb2.FAILURE_CLASS_BUDGET
    return event.call_granted.grant.denied or budget


def test_the_explanation_says_for_which_limit_the_job_waited_and_how_long() -> None:
    world = make_world(3, limit=700)
    world.run()
    story = Story()
    story.take(world.log)
    told = sentences(story, world.rules)
    waited = [text for text in told if "The tenant's limit tokens_per_minute had no room" in text]
    assert waited
    assert waited[0].endswith(" s.")
