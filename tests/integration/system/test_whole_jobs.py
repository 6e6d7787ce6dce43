"""Whole jobs through all services: what the ledger says is what the server counted."""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from hma import errors
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from tests.integration.system.ledger import agrees
from tests.integration.system.whole import open_whole
from tests.scripted_llm import Call, Reply, Rule, refuse, say

MILLS = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n")
QUESTIONS = "Answer these questions:\n" + "\n".join(
    f"{n}. In which year was mill number {n} built?" for n in range(1, 13)
)
PLAN = {
    "brief": {
        "objective": "Compare the mills.",
        "audience": "",
        "constraints": [],
        "acceptance": [],
        "dropped": [],
    },
    "shape": "team",
    "n": 2,
    "tasks": [
        {"do": "List the years.", "in": [], "after": [], "size": "low", "kind": "extract"},
        {"do": "Compare them.", "in": [], "after": [1], "size": "medium", "kind": "write"},
    ],
}


async def test_weak_model_gets_one_question_a_call_and_every_token_is_in_the_ledger(
    postgres_url: str,
) -> None:
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        job = await whole.client.run(QUESTIONS, documents=[MILLS], budget=8000, deadline=60)
        assert job.ledger.spent_tokens == whole.llm.total_tokens
        agrees(job, whole)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.plan_source == attempt_pb2.PLAN_SOURCE_STRUCTURAL
    assert [item.answer for item in job.answer.items] == ["1764"] * 12
    assert len(job.ledger.rows) == 12
    assert not any(row.task_uid.startswith(("p", "r")) for row in job.ledger.rows)


async def test_strong_model_answers_a_batch_alone_because_a_team_does_not_pay(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply:
        ids = re.findall(r"^(q\d+):", call.prompt, re.MULTILINE)
        return Reply(
            json={"items": [{"id": i, "answer": "1764", "evidence": ""} for i in ids], "notes": ""}
        )

    async with open_whole(postgres_url, script) as whole:
        task = "1. When was it built?\n2. What was the year?"
        job = await whole.client.run(task, documents=[MILLS], budget=9000, deadline=60)
        agrees(job, whole)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.shape == job_pb2.JOB_SHAPE_SINGLE
    assert len(job.ledger.rows) == 1


async def test_team_plans_with_the_model_and_the_reducer_writes_the_answer(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply | None:
        if call.purpose == "PLAN":
            return Reply(json=PLAN)
        if call.purpose == "REDUCE":
            return say("The mill was built in 1764, and Anna Hale paid for it.")
        return None

    async with open_whole(postgres_url, script) as whole:
        job = await whole.client.run(
            "Compare the mills and recommend one to buy.",
            documents=[MILLS],
            budget=40_000,
            deadline=60,
            shape="team",
        )
        assert job.ledger.spent_tokens == whole.llm.total_tokens
        agrees(job, whole)
    purposes = {row.call.purpose for row in job.ledger.rows}
    assert attempt_pb2.CALL_PURPOSE_PLAN in purposes
    assert job.brief.objective == "Compare the mills."
    assert [t.task.id for t in job.tasks] == ["t1", "t2"]
    assert list(job.tasks[1].task.depends_on) == ["t1"]
    assert job.answer.text


async def test_broken_plan_is_completed_by_code(postgres_url: str) -> None:
    broken = say('{"brief": {"objective": "x", "aud')
    script = [Rule(broken, when=lambda call: call.purpose in ("PLAN", "REASK"))]
    async with open_whole(postgres_url, script) as whole:
        job = await whole.client.run(
            QUESTIONS, documents=[MILLS], budget=60_000, deadline=60, shape="team"
        )
        agrees(job, whole)
    assert job.plan_source != attempt_pb2.PLAN_SOURCE_MODEL
    claimed = {item.item_id for t in job.tasks for item in t.task.items}
    assert claimed == {f"q{n}" for n in range(1, 13)}


async def test_a_dozen_faults_of_the_server_never_cost_more_than_the_budget(
    postgres_url: str,
) -> None:
    chance = random.Random(7)

    def script(call: Call) -> Reply:
        roll = chance.random()
        if roll < 0.1:
            return refuse(429, retry_after=0.05)
        if roll < 0.2:
            return refuse(500)
        if roll < 0.3:
            return Reply(text=" 1764\n", disconnect_after=1)
        return say(" 1764\n")

    async with open_whole(postgres_url, script, profile="smollm2") as whole:
        job = await whole.client.run(QUESTIONS, documents=[MILLS], budget=6000, deadline=60)
        await whole.llm.wait_idle()
        agrees(job, whole)
    assert job.state in (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_PARTIAL)
    assert len(job.answer.items) == 12


async def test_small_budget_buys_some_answers_and_the_rest_are_extracts(
    postgres_url: str,
) -> None:
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        job = await whole.client.run(QUESTIONS, documents=[MILLS], budget=700, deadline=60)
        agrees(job, whole)
    assert job.state == job_pb2.JOB_STATE_PARTIAL
    origins = [item.origin for item in job.answer.items]
    assert 0 < origins.count(common_pb2.ORIGIN_MODEL) < 12
    assert origins.count(common_pb2.ORIGIN_EXTRACT) > 0
    assert all(missing.reason for missing in job.answer.missing)


async def test_interrupt_answers_with_what_is_there_and_stops_the_server(
    postgres_url: str,
) -> None:
    def script(call: Call) -> Reply:
        if "mill number 1 " in call.prompt.rpartition("Question:")[2]:
            return say(" 1764\n")
        return Reply(text=" 17 64 and so on and on\n", token_delay=0.5)

    async with open_whole(postgres_url, script, profile="smollm2") as whole:
        job_id = await whole.client.submit(QUESTIONS, documents=[MILLS], budget=8000, deadline=60)
        async for update in whole.client.watch(job_id):
            settled = update.event.task_settled
            if settled.state == job_pb2.TASK_STATE_SUCCEEDED:
                break
        await whole.client.interrupt(job_id, reason="enough")
        job = await whole.client.wait(job_id)
        await whole.llm.wait_idle()
        agrees(job, whole)
    assert job.state == job_pb2.JOB_STATE_PARTIAL
    assert any(item.origin == common_pb2.ORIGIN_MODEL for item in job.answer.items)
    assert "interrupted" in job.state_reason


async def test_jobs_of_many_clients_run_side_by_side_and_keep_their_ledgers_apart(
    postgres_url: str,
) -> None:
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        jobs = await asyncio.gather(
            *(
                whole.client.run(QUESTIONS, documents=[MILLS], budget=4000, deadline=60)
                for _ in range(8)
            )
        )
        assert sum(job.ledger.spent_tokens for job in jobs) == whole.llm.total_tokens
    assert len({job.job_id for job in jobs}) == 8
    assert {job.state for job in jobs} == {job_pb2.JOB_STATE_SUCCEEDED}


async def test_callers_plan_runs_in_its_order_and_its_cycle_is_refused(postgres_url: str) -> None:
    plan = task_pb2.Plan(
        tasks=[
            task_pb2.Task(id="b", instruction="Then this.", depends_on=["a"]),
            task_pb2.Task(id="a", instruction="First this."),
        ]
    )
    async with open_whole(postgres_url) as whole:
        job = await whole.client.run("Do it.", plan=plan, budget=20_000, deadline=60)
        agrees(job, whole)
        plan.tasks[1].depends_on.append("b")
        with pytest.raises(errors.InvalidRequest) as refused:
            await whole.client.run("Do it.", plan=plan, budget=20_000, deadline=60)
    assert job.plan_source == attempt_pb2.PLAN_SOURCE_CALLER
    start = {timing.task_id: timing.start.ToNanoseconds() for timing in job.agent_timings}
    assert start["a"] < start["b"]
    assert "a -> b -> a" in str(refused.value) or "b -> a -> b" in str(refused.value)


async def test_prefix_cache_is_hit_by_the_tasks_of_a_job(postgres_url: str) -> None:
    async with open_whole(postgres_url, lambda _: say(" 1764\n"), profile="smollm2") as whole:
        job = await whole.client.run(QUESTIONS, documents=[MILLS], budget=8000, deadline=60)
    cached = sum(row.call.usage.cached_prompt_tokens for row in job.ledger.rows)
    assert cached > 0.3 * job.ledger.prompt_tokens
