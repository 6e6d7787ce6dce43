"""What only a real vLLM can show: its own counters, and its prefix cache.

`make test-vllm` starts one. The other end-to-end tests run against it as well.
"""

from __future__ import annotations

import os
import statistics
import time

import pytest

import hma
from hma.llm.counters import ServerCounters, read_counters
from hma.v1 import common_pb2, job_pb2, meta_agent_pb2, task_pb2
from tests.e2e.conftest import DOCUMENT, Stack

URL = os.environ.get("HMA_LLM_BASE_URL", "")
pytestmark = pytest.mark.skipif(
    not URL, reason="needs a real vLLM: make test-vllm starts one and sets HMA_LLM_BASE_URL"
)
QUESTIONS = (
    "Who approves refunds above 200 euros?",
    "When does the harbour office open?",
    "When does the harbour office close?",
    "What is the ferry called?",
    "How many passengers does the ferry carry?",
    "Who approves smaller refunds?",
)
BERTHS = tuple(f"Which boat lies at berth {n} on Mondays?" for n in range(1, 19))
WRITERS = 4
"""Tasks that write at once: their generations are what interruptions cut."""


def counters_at_rest() -> ServerCounters:
    """vLLM's counters, once nothing runs any more and two looks agree."""
    end, before = time.monotonic() + 60, None
    while time.monotonic() < end:
        seen = read_counters(URL)
        if seen.running == 0 and seen == before:
            return seen
        before = seen
        time.sleep(0.5)  # vLLM renews its gauges with its engine's steps, and tells nobody
    raise AssertionError("vLLM did not come to rest")


def essay() -> task_pb2.Plan:
    """Tasks whose answers are long enough to be cut."""
    return task_pb2.Plan(
        tasks=[
            task_pb2.Task(
                id=f"w{n}",
                instruction=f"Write a long story about harbour number {n} and its ferry.",
                kind=common_pb2.TASK_KIND_WRITE,
                complexity=common_pb2.COMPLEXITY_HIGH,
                max_result_tokens=400,
            )
            for n in range(WRITERS)
        ]
    )


def interrupted(client: hma.Client) -> hma.Job:
    """A job that is told to answer while it writes."""
    job_id = client.submit("Write four stories.", plan=essay(), budget=8000, deadline="2m")
    for update in client.watch(job_id):
        if _writing(update) >= WRITERS // 2:
            client.interrupt(job_id, reason="enough")
            break
    return client.wait(job_id)


def _writing(update: meta_agent_pb2.WatchJobResponse) -> int:
    """How many attempts have written enough to hold a whole sentence that can be saved."""
    return sum(a.usage.completion_tokens > 100 for a in update.progress.attempts)


def test_ledger_is_what_vllm_counted_to_the_token_with_interruptions(stack: Stack) -> None:
    before = counters_at_rest()
    with hma.Client(stack.address) as client:
        jobs = [interrupted(client) for _ in range(3)]
        jobs.append(
            client.run(
                "\n".join(f"{n}. {q}" for n, q in enumerate(QUESTIONS, 1)),
                documents=[("handbook.md", DOCUMENT)],
                budget=6000,
                deadline="2m",
            )
        )
    counted = counters_at_rest().since(before)
    assert counted is not None
    rows = [row for job in jobs for row in job.ledger.rows]
    aborted = [row for row in rows if row.call.finish_reason == "abort"]
    assert aborted, [(row.task_uid, row.call.finish_reason) for row in rows]
    assert sum(job.ledger.unknown_tokens for job in jobs) == 0
    inexact = [row for row in rows if row.call.usage.accuracy != common_pb2.ACCURACY_EXACT]
    assert not inexact, [(row.task_uid, row.call.finish_reason) for row in inexact]
    assert sum(job.ledger.prompt_tokens for job in jobs) == counted.prompt
    assert sum(job.ledger.completion_tokens for job in jobs) == counted.completion
    assert {job.state for job in jobs[:3]} == {job_pb2.JOB_STATE_PARTIAL}


def test_tasks_of_a_job_hit_the_prefix_cache_for_what_they_share(stack: Stack) -> None:
    text = "\n".join(f"{n}. {q}" for n, q in enumerate(QUESTIONS + BERTHS, 1))
    with hma.Client(stack.address) as client:
        job = client.run(text, documents=[("handbook.md", DOCUMENT)], budget=20_000, deadline="3m")
    calls = [row.call for row in job.ledger.rows]
    assert len(calls) >= 20
    # What they all begin with, in the whole blocks that vLLM caches, and without what two
    # that happen to be alike share beyond that. The first call can find none of it.
    shared = statistics.mode(call.usage.cached_prompt_tokens for call in calls)
    possible = shared * (len(calls) - 1)
    cached = sum(min(call.usage.cached_prompt_tokens, shared) for call in calls[1:])
    assert shared >= 64, "the prompts of a job's tasks share nothing worth caching"
    print(f"prefix cache: {cached} of {possible} shared prompt tokens ({cached / possible:.0%})")
    assert cached >= 0.6 * possible
