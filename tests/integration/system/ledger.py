"""The ledger of jobs against what the scripted server counted."""

from __future__ import annotations

from collections import Counter

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

import hma
from hma.v1 import common_pb2, job_pb2
from tests.integration.system.whole import Whole
from tests.scripted_llm import Call


def calls_of(job: hma.Job, whole: Whole) -> list[Call]:
    """The calls that the server was asked for in a job's name."""
    return [call for call in whole.llm.calls if call.headers.get("x-hma-job") == job.job_id]


def agrees(job: hma.Job, whole: Whole) -> None:
    """known <= counted <= known + unknown <= budget (SPINE, section 4), for one job.

    Call by call: slack of one must not hide what another lacks.
    """
    ledger = job.ledger
    counted = Counter[str]()
    for call in calls_of(job, whole):
        counted[call.headers["x-hma-call"]] += call.total_tokens
    for row in ledger.rows:
        if row.kind != job_pb2.LEDGER_ROW_KIND_CALL:
            continue
        name, usage = f"{row.task_uid}/{row.attempt}/{row.call.call}", row.call.usage
        booked, truth = usage.prompt_tokens + usage.completion_tokens, counted.pop(name, 0)
        exact = usage.accuracy == common_pb2.ACCURACY_EXACT
        assert booked == truth if exact else booked >= truth, name
        assert booked <= row.call.max_tokens, name
    assert counted.total() <= ledger.unknown_tokens, "calls that are not in the ledger"
    assert ledger.spent_tokens + ledger.unknown_tokens <= ledger.budget_tokens
    assert ledger.outstanding_tokens == 0


def agrees_exactly(job: hma.Job, whole: Whole) -> None:
    """Nothing is unknown or a bound: the ledger is what the server counted."""
    agrees(job, whole)
    exact = common_pb2.ACCURACY_EXACT
    assert [row for row in job.ledger.rows if row.call.usage.accuracy != exact] == []
    ledger, calls = job.ledger, calls_of(job, whole)
    assert ledger.unknown_tokens == 0
    assert ledger.prompt_tokens == sum(call.prompt_tokens for call in calls)
    assert ledger.cached_prompt_tokens == sum(call.cached_tokens for call in calls)
    assert ledger.completion_tokens == sum(call.completion_tokens for call in calls)
    assert ledger.reasoning_tokens == sum(call.reasoning_tokens for call in calls)


async def server_counters(whole: Whole) -> dict[str, float]:
    """The token counters on the server's /metrics, by name."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{whole.llm.root_url}/metrics") as response,
    ):
        page = await response.text()
    families = text_string_to_metric_families(page)
    return {sample.name: sample.value for family in families for sample in family.samples}
