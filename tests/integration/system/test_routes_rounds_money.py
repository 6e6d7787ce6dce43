"""Reasoning and its fallback, second rounds, budgets in money, and what history teaches."""

from __future__ import annotations

import re

import pytest

import hma
from hma.v1 import common_pb2, job_pb2, task_pb2
from services.meta_agent.deciding.history import ENOUGH, task_key
from tests.integration.system.ledger import agrees, agrees_exactly, calls_of
from tests.integration.system.whole import open_whole
from tests.scripted_llm import Call, Reply, refuse, say

MILLS = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n")
PRICES = {"price_prompt": 1.0, "price_cached_prompt": 0.1, "price_completion": 4.0}
"""Per million tokens."""


def questions(count: int) -> str:
    lines = (f"{n}. In which year was mill number {n} built?" for n in range(1, count + 1))
    return "Answer these questions:\n" + "\n".join(lines)


def thinks(call: Call) -> bool:
    """Whether the request switches thinking on."""
    switch = call.body.get("chat_template_kwargs", {}).get("enable_thinking")
    assert isinstance(switch, bool)
    return switch


def answers(call: Call, **more: object) -> Reply:
    """A whole answer to every item of a call."""
    ids = re.findall(r"^(\S+): ", call.prompt.partition("Items:\n")[2], re.MULTILINE)
    items = [{"id": name, "answer": "1764", "evidence": ""} for name in ids]
    return Reply(json={"items": items, "notes": ""}, **more)  # type: ignore[arg-type]


def hard_and_easy() -> task_pb2.Plan:
    """Two tasks, each with one of the job's two questions."""
    plan = task_pb2.Plan()
    for number, (name, complexity) in enumerate(
        (("hard", common_pb2.COMPLEXITY_HIGH), ("easy", common_pb2.COMPLEXITY_LOW)), 1
    ):
        task = plan.tasks.add(id=name, instruction=f"Answer for {name}.", complexity=complexity)
        task.items.add(item_id=f"q{number}", text=f"In which year was mill {number} built?")
    return plan


def attempts_at(name: str, job: hma.Job, events: list[job_pb2.JobEvent]) -> list[str]:
    """The routes of the attempts at a task of the plan, in order."""
    uid = next(status.task_uid for status in job.tasks if status.task.id == name)
    started = [e.attempt_started for e in events if e.HasField("attempt_started")]
    return [each.route for each in started if each.ref.task_uid == uid]


async def test_hard_task_reasons_and_its_thoughts_are_a_class_of_the_ledger(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply:
        if thinks(call):
            return answers(call, reasoning="Let me think about mills and years. " * 3)
        return answers(call)

    async with open_whole(postgres_url, script) as whole:
        job = await whole.client.run(questions(2), plan=hard_and_easy(), budget=40_000, deadline=60)
        agrees_exactly(job, whole)
        events = await whole.events(job.job_id)
        thought = {"for hard" in call.prompt: thinks(call) for call in calls_of(job, whole)}
    assert thought == {True: True, False: False}
    assert attempts_at("hard", job, events) == ["reasoning"]
    assert attempts_at("easy", job, events) == ["fast"]
    assert job.ledger.reasoning_tokens > 20
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_hard_task_falls_back_to_the_fast_route_when_the_reasoning_one_fails(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply:
        return refuse(500) if thinks(call) else answers(call)

    settings = {"backoff_initial": 0.01, "tries": 2}
    async with open_whole(postgres_url, script, llm_settings=settings) as whole:
        job = await whole.client.run(questions(2), plan=hard_and_easy(), budget=40_000, deadline=60)
        agrees_exactly(job, whole)
        events = await whole.events(job.job_id)
    assert attempts_at("hard", job, events) == ["reasoning", "fast"]
    reasons = [e.attempt_started.route_reason for e in events if e.HasField("attempt_started")]
    assert "high complexity" in reasons[0]
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("rounds", [1, 2])
async def test_second_round_answers_what_the_first_could_not(
    postgres_url: str, rounds: int
) -> None:
    broken = 0

    def script(call: Call) -> Reply:
        nonlocal broken
        if "number 2 " in call.prompt.rpartition("Question:")[2] and broken < 2:
            broken += 1
            return say(" 17", disconnect_after=1)
        return say(" 1764\n")

    policy = job_pb2.JobPolicy(max_rounds=rounds, max_attempts=1)
    async with open_whole(
        postgres_url,
        script,
        profile="smollm2",
        llm_settings={"backoff_initial": 0.01, "tries": 2},
    ) as whole:
        job = await whole.client.run(
            questions(4), documents=[MILLS], budget=9_000, deadline=60, policy=policy
        )
        agrees(job, whole)
    origins = {item.item_id: item.origin for item in job.answer.items}
    assert broken == 2
    assert len(job.rounds) == rounds
    if rounds == 2:
        assert job.rounds[0].another_round
        assert origins["q2"] == common_pb2.ORIGIN_MODEL
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    else:
        assert origins.get("q2") != common_pb2.ORIGIN_MODEL
        assert job.state == job_pb2.JOB_STATE_PARTIAL


async def test_money_buys_some_answers_and_is_never_exceeded(postgres_url: str) -> None:
    most = 0.001
    async with open_whole(
        postgres_url, lambda _: say(" 1764\n"), profile="smollm2", llm_settings=PRICES
    ) as whole:
        job = await whole.client.run(
            questions(60), documents=[MILLS], budget=50_000, max_cost=most, deadline=60
        )
        agrees_exactly(job, whole)
        calls = calls_of(job, whole)
    cost = sum(
        (c.prompt_tokens - c.cached_tokens) * PRICES["price_prompt"]
        + c.cached_tokens * PRICES["price_cached_prompt"]
        + c.completion_tokens * PRICES["price_completion"]
        for c in calls
    )
    assert job.ledger.cost == pytest.approx(cost / 1e6, rel=1e-9)
    # How much of it is used depends on how many calls run at once, each held at its most.
    assert 0.25 * most < cost / 1e6 <= most
    assert 0 < len(calls) < 60
    assert job.state == job_pb2.JOB_STATE_PARTIAL


async def test_next_job_expects_what_calls_have_cost_before(postgres_url: str) -> None:
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        first = await whole.client.run(
            questions(ENOUGH + 4), documents=[MILLS], budget=20_000, deadline=60
        )
        assert len(calls_of(first, whole)) > ENOUGH
        await whole.learn()
        task = first.tasks[0].task
        route = whole.llm.routes(profile="smollm2")["fast"]
        record = whole.history.latest.record(task_key(route, task.kind, task.complexity))
        assert record.completion.total > ENOUGH
        assert record.asked > ENOUGH
        second = await whole.client.run(questions(3), documents=[MILLS], budget=20_000, deadline=60)
        logs = [await whole.events(job.job_id) for job in (first, second)]
    sizes = [row.call.usage for row in first.ledger.rows]
    before, after = (
        next(e.task_admitted for e in log if e.HasField("task_admitted")) for log in logs
    )
    decided = next(e.shape_decided for e in logs[1] if e.HasField("shape_decided"))
    # The profile's guess, and then what was measured: at most 15 % above the truth.
    assert before.expected_completion_tokens > 2 * after.expected_completion_tokens
    completion = max(usage.completion_tokens for usage in sizes)
    assert completion <= after.expected_completion_tokens <= 1.15 * completion + 1
    prompt = max(usage.prompt_tokens for usage in sizes)
    assert 0.85 * prompt <= after.expected_prompt_tokens <= 1.15 * prompt + 1
    assert after.value.samples > ENOUGH
    assert decided.samples > ENOUGH
