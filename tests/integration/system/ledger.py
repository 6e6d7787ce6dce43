"""The ledger of jobs against what the scripted server counted."""

from __future__ import annotations

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

import hma
from hma.v1 import common_pb2
from tests.integration.system.whole import Whole
from tests.scripted_llm import Call


def calls_of(job: hma.Job, whole: Whole) -> list[Call]:
    """The calls that the server was asked for in a job's name."""
    return [call for call in whole.llm.calls if call.headers.get("x-hma-job") == job.job_id]


def agrees(job: hma.Job, whole: Whole) -> None:
    """known <= counted <= known + unknown <= budget (SPINE, section 4), for one job."""
    ledger = job.ledger
    rows = ledger.rows
    counted = sum(call.total_tokens for call in calls_of(job, whole))
    exact = sum(
        row.call.usage.prompt_tokens + row.call.usage.completion_tokens
        for row in rows
        if row.call.usage.accuracy == common_pb2.ACCURACY_EXACT
    )
    most = ledger.spent_tokens + ledger.unknown_tokens
    assert exact <= counted <= most <= ledger.budget_tokens
    assert ledger.outstanding_tokens == 0
    assert sum(row.call.max_tokens for row in rows) >= ledger.spent_tokens


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
