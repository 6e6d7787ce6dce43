"""Many tasks and jobs at once, on little money and a bad server: nothing is ever overspent."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter

import pytest

import hma
from hma.v1 import common_pb2, job_pb2, task_pb2
from tests.integration.system.ledger import agrees, agrees_exactly, server_counters
from tests.integration.system.whole import Whole, open_whole
from tests.scripted_llm import Call, Reply, refuse, say

MILLS = ("mills.md", "# Mills\n\nThe mill was built in 1764. Anna Hale paid for it.\n")
ASKED = 100
FAULTY = 0.3
JOBS = 16


def questions(count: int, first: int = 1) -> str:
    mills = range(first, first + count)
    lines = (f"{n}. In which year was mill number {m} built?" for n, m in enumerate(mills, 1))
    return "Answer these questions:\n" + "\n".join(lines)


def plan_of(count: int) -> task_pb2.Plan:
    """Tasks of three questions each, longer than expected: the last ones are not paid for."""
    words = "The mill has changed hands many times, and its year is not what people say. " * 10
    plan = task_pb2.Plan()
    for n in range(1, count + 1):
        task = plan.tasks.add(id=f"t{n}", instruction="Answer the questions.")
        for each in range(3):
            task.items.add(item_id=f"t{n}.{each}", text=f"{words}Mill {n}.{each}: which year?")
    return plan


def _slow_at_first(call: Call) -> Reply:
    """So slow at the first call of each task that all of them overlap."""
    first = call.headers["x-hma-call"].endswith("/1/1")
    return say(" 1764\n", first_delay=6.0 if first else 0.1)


@pytest.mark.parametrize(
    ("plan", "budget", "at_once"),
    [(None, 9_000, 8), (plan_of(ASKED), 66_000, 90)],
    ids=["questions", "plan"],
)
async def test_hundred_tasks_at_once_never_overshoot_a_budget_that_pays_for_some(
    postgres_url: str, plan: task_pb2.Plan | None, budget: int, at_once: int
) -> None:
    task = questions(ASKED) if plan is None else "Find the years."
    async with open_whole(
        postgres_url,
        _slow_at_first,
        profile="smollm2",
        places=ASKED,
        in_flight=ASKED,
    ) as whole:
        job = await whole.client.run(
            task, documents=[MILLS], budget=budget, deadline=120, plan=plan
        )
        agrees_exactly(job, whole)
        counters = await server_counters(whole)
        together = whole.llm.max_concurrency
    # What the server counted on the page that an operator would look at.
    assert counters["vllm:prompt_tokens_total"] == job.ledger.prompt_tokens
    assert counters["vllm:generation_tokens_total"] == job.ledger.completion_tokens
    assert counters["vllm:prompt_tokens_cached_total"] == job.ledger.cached_prompt_tokens
    overshoot = max(sum(map(int, _totals(counters))) - budget, 0)
    assert overshoot == 0
    assert together >= at_once
    read = sum(row.call.usage.completion_tokens > 0 for row in job.ledger.rows)
    assert 25 < read < sum(len(task.task.items) for task in job.tasks)
    assert job.state == job_pb2.JOB_STATE_PARTIAL


def _totals(counters: dict[str, float]) -> tuple[float, float]:
    return counters["vllm:prompt_tokens_total"], counters["vllm:generation_tokens_total"]


class BadServer:
    """Answers the questions; three of ten times in some wrong way, the same for a call each time.

    Attributes:
        met: The faults that were met.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tries = Counter[tuple[str, str]]()
        self.met: set[str] = set()

    def __call__(self, call: Call) -> Reply:
        # The job's id differs from run to run; its questions do not.
        asked, name = re.findall(r"mill number (\d+)", call.prompt), call.headers["x-hma-call"]
        dice = random.Random(f"{self._seed}/{asked}/{name}/{self._tries[asked[-1], name]}")
        self._tries[asked[-1], name] += 1
        good = self._good(call)
        if dice.random() >= FAULTY:
            return good
        name, fault = dice.choice(list(self._faults(good).items()))
        self.met.add(name)
        return fault

    def _good(self, call: Call) -> Reply:
        ids = re.findall(r"^(q\d+):", call.prompt, re.MULTILINE)
        if call.purpose not in ("WORK", "REASK"):
            return Reply()
        if not ids:
            return say(" built in 1764\n")
        items = [{"id": name, "answer": "1764", "evidence": ""} for name in ids]
        return Reply(json={"items": items, "notes": ""})

    def _faults(self, good: Reply) -> dict[str, Reply]:
        text, json = good.text, good.json
        return {
            "429": refuse(429, retry_after=0.05),
            "500": refuse(500),
            "broken in the middle": Reply(text=text, json=json, disconnect_after=2),
            "error in the stream": Reply(text=text, json=json, error_after=2),
            "hangs at once": Reply(hang_after=0),
            "hangs in the middle": Reply(text=text, json=json, hang_after=2),
            "white space": Reply(text=text, json=json, whitespace=2),
            "no JSON": say('{"items": [{"id": 7 and so on'),
        }


@pytest.mark.parametrize("profile", ["smollm2", "standard"])
async def test_three_in_ten_calls_at_fault_and_every_job_ends_in_time_with_answer_or_reason(
    postgres_url: str, profile: str
) -> None:
    script = BadServer(11)
    async with open_whole(
        postgres_url,
        script,
        profile=profile,
        places=JOBS * 6,
        in_flight=JOBS * 6,
        llm_settings={"stall_timeout": 0.5, "backoff_initial": 0.05, "tries": 2},
    ) as whole:
        jobs = await asyncio.gather(*(_faulty_job(whole, n, profile) for n in range(JOBS)))
        await whole.llm.wait_idle()
        for job in jobs:
            agrees(job, whole)
            _ends_well(job)
    assert len(script.met) >= 7, script.met
    # Faults cost answers, not jobs: what was lost in a try is asked again.
    read = sum(item.origin == common_pb2.ORIGIN_MODEL for job in jobs for item in job.answer.items)
    assert read > 0.9 * sum(len(job.items) for job in jobs)


async def _faulty_job(whole: Whole, number: int, profile: str) -> hma.Job:
    team = profile == "standard" and number % 2
    return await whole.client.run(
        questions(3 + number % 5, 10 * number),
        documents=[MILLS],
        budget=60_000 if profile == "standard" else 6_000,
        deadline=40,
        shape="team" if team else "auto",
    )


def _ends_well(job: hma.Job) -> None:
    assert job.end_time.ToNanoseconds() <= job.deadline_time.ToNanoseconds()
    if job.state in (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_PARTIAL):
        assert job.answer.text or job.answer.items
        answered = {item.item_id for item in job.answer.items if item.answer}
        missing = {gap.item_id: gap.reason for gap in job.answer.missing}
        assert all(missing.get(i.item_id) for i in job.items if i.item_id not in answered)
    else:
        assert job.state == job_pb2.JOB_STATE_FAILED
        assert job.failure.message
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED or job.state_reason


async def test_a_full_model_server_slows_work_down_and_fails_none_of_it(postgres_url: str) -> None:
    plan = task_pb2.Plan()
    for n in range(1, 41):
        task = plan.tasks.add(id=f"t{n}", instruction="Answer the question.")
        task.items.add(item_id=f"t{n}", text=f"Mill {n}: which year?")
    async with open_whole(
        postgres_url,
        lambda _: say(" 1764\n", first_delay=0.6),
        profile="smollm2",
        places=40,
        in_flight=40,
        max_waiting=1,
        slots=2,
        max_queued=2,
    ) as whole:
        job = await whole.client.run(
            "Find the years.", documents=[MILLS], budget=100_000, deadline=90, plan=plan
        )
        agrees_exactly(job, whole)
        refused = sum(call.state == "refused" for call in whole.llm.calls)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.state_reason
    assert {task.state for task in job.tasks} == {job_pb2.TASK_STATE_SUCCEEDED}
    assert refused > 0, "it was asked for more than it had places for"
    (limited,) = job.failure_report.counts
    assert limited.failure_class == common_pb2.FAILURE_CLASS_RATE_LIMITED
    assert limited.retried == limited.count
    assert job.failure_report.tokens_lost == 0
