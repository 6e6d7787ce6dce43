"""GetUsage: what the ledger adds up to, by tenant, route and day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from hma.errors import InvalidRequest
from hma.rpc.status import from_rpc_error
from hma.v1 import attempt_pb2, meta_agent_pb2
from tests.integration.edge.edge import Edge
from tests.integration.store.ledgers import call_usage, settled

GetUsage = meta_agent_pb2.GetUsageRequest
Row = meta_agent_pb2.UsageRow
TENANT = meta_agent_pb2.USAGE_GROUPING_TENANT
ROUTE = meta_agent_pb2.USAGE_GROUPING_ROUTE
DAY = meta_agent_pb2.USAGE_GROUPING_DAY


async def book(
    edge: Edge,
    job_id: str,
    *calls: attempt_pb2.CallUsage,
    cost: float = 0.0,
    task_uid: str = "1.1",
    at: datetime | None = None,
) -> None:
    """Settles calls as the job's driver does; `at` moves them to another time."""
    for call in calls:
        event = settled(job_id, call, task_uid=task_uid, cost=cost)
        await edge.append(job_id, call_settled=event.call_settled)
    if at is not None:
        await edge.store.database.execute(
            "UPDATE ledger_entry SET settle_time = $1 WHERE job_id = $2 AND task_uid = $3",
            at,
            job_id,
            task_uid,
        )


def moment(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


async def test_without_a_ledger_there_is_one_sum_of_nothing(fresh_edge: Edge) -> None:
    response = await fresh_edge.api.GetUsage(GetUsage(), timeout=30)
    assert list(response.rows) == [Row()]
    assert response.total == Row()
    grouped = await fresh_edge.api.GetUsage(GetUsage(by=[ROUTE, DAY]), timeout=30)
    assert list(grouped.rows) == []
    assert grouped.total == Row()


async def test_sums_hold_every_class_of_tokens(fresh_edge: Edge) -> None:
    one, two = await fresh_edge.create(), await fresh_edge.create()
    await book(fresh_edge, one, call_usage(1, 100, 20, cached=60, reasoning=15), cost=0.25)
    await book(fresh_edge, one, call_usage(2, 50, 5, exact=False), cost=0.5)
    await book(fresh_edge, two, call_usage(1, 10, 1, route="reasoning"), cost=1.0)
    response = await fresh_edge.api.GetUsage(GetUsage(by=[ROUTE]), timeout=30)
    assert list(response.rows) == [
        Row(
            route="fast",
            jobs=1,
            calls=2,
            prompt_tokens=150,
            cached_prompt_tokens=60,
            completion_tokens=25,
            reasoning_tokens=15,
            upper_bound_tokens=55,
            cost=0.75,
        ),
        Row(route="reasoning", jobs=1, calls=1, prompt_tokens=10, completion_tokens=1, cost=1.0),
    ]
    assert (response.total.jobs, response.total.calls, response.total.cost) == (2, 3, 1.75)
    assert response.total.prompt_tokens == 160
    assert response.total.route == ""


async def test_days_come_latest_first_and_end_at_midnight_utc(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    today = midnight - timedelta(days=1)
    before = midnight - timedelta(days=2)
    await book(fresh_edge, job_id, call_usage(1, 10, 0), task_uid="1.1", at=today)
    await book(
        fresh_edge,
        job_id,
        call_usage(1, 20, 0, route="reasoning"),
        task_uid="1.2",
        at=today - timedelta(microseconds=1),
    )
    await book(fresh_edge, job_id, call_usage(1, 30, 0), task_uid="1.3", at=before)
    response = await fresh_edge.api.GetUsage(GetUsage(by=[DAY, ROUTE, TENANT]), timeout=30)
    assert [(r.day, r.route, r.tenant, r.prompt_tokens) for r in response.rows] == [
        (f"{today:%Y-%m-%d}", "fast", "default", 10),
        (f"{before:%Y-%m-%d}", "fast", "default", 30),
        (f"{before:%Y-%m-%d}", "reasoning", "default", 20),
    ]
    # The start belongs to the period, the end does not.
    period = GetUsage(start_time=moment(before), end_time=moment(today))
    assert (await fresh_edge.api.GetUsage(period, timeout=30)).total.prompt_tokens == 50


async def test_thirty_days_are_looked_at_unless_asked_otherwise(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    old = datetime.now(UTC) - timedelta(days=31)
    await book(fresh_edge, job_id, call_usage(), at=old)
    assert (await fresh_edge.api.GetUsage(GetUsage(), timeout=30)).total.calls == 0
    since = GetUsage(start_time=moment(old))
    assert (await fresh_edge.api.GetUsage(since, timeout=30)).total.calls == 1


async def test_pages_fit_together_though_calls_settle_meanwhile(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    for number in range(5):
        call = call_usage(1, 10 * (number + 1), 0, route=f"r{number}")
        await book(fresh_edge, job_id, call, task_uid=f"1.{number}")
    seen: list[str] = []
    request = GetUsage(by=[ROUTE], page_size=2)
    for page in range(3):
        response = await fresh_edge.api.GetUsage(request, timeout=30)
        seen += [row.route for row in response.rows]
        assert response.total.prompt_tokens == 150
        assert bool(response.next_page_token) == (page < 2)
        request.page_token = response.next_page_token
        late = call_usage(1, 1000 * (page + 1), 0, route=f"late{page}")
        await book(fresh_edge, job_id, late, task_uid=f"2.{page}")
    assert seen == ["r4", "r3", "r2", "r1", "r0"]


async def test_a_token_of_another_question_is_refused(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    for number in range(2):
        call = call_usage(1, route=f"r{number}")
        await book(fresh_edge, job_id, call, task_uid=f"1.{number}")
    first = await fresh_edge.api.GetUsage(GetUsage(by=[ROUTE], page_size=1), timeout=30)
    for request in (
        GetUsage(by=[DAY], page_size=1, page_token=first.next_page_token),
        GetUsage(by=[ROUTE], page_size=1, page_token="x" + first.next_page_token),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await fresh_edge.api.GetUsage(request, timeout=30)
        found = from_rpc_error(error.value)
        assert isinstance(found, InvalidRequest)
        assert found.violations[0].field == "page_token"


async def test_only_the_caller_s_tenant_is_summed_and_deleted_jobs_stay(fresh_edge: Edge) -> None:
    mine, others = await fresh_edge.create(), await fresh_edge.create()
    await fresh_edge.store.database.execute("UPDATE job SET tenant = 'other' WHERE id = $1", others)
    await book(fresh_edge, mine, call_usage(1, 7, 0))
    await book(fresh_edge, others, call_usage(1, 1000, 0))
    await fresh_edge.finish(mine)
    await fresh_edge.api.DeleteJob(meta_agent_pb2.DeleteJobRequest(job_id=mine), timeout=30)
    response = await fresh_edge.api.GetUsage(GetUsage(by=[TENANT]), timeout=30)
    assert [(r.tenant, r.prompt_tokens) for r in response.rows] == [("default", 7)]


async def test_a_late_report_through_the_edge_is_booked_once(fresh_edge: Edge) -> None:
    job_id = await fresh_edge.create()
    ref = await fresh_edge.start_attempt(job_id)
    report = meta_agent_pb2.ReportAttemptRequest(ref=ref)
    report.result.calls.append(call_usage(1, 1_000_000, 500_000))
    for _ in range(2):
        await fresh_edge.internal.ReportAttempt(report, timeout=30)
    total = (await fresh_edge.api.GetUsage(GetUsage(), timeout=30)).total
    job = await fresh_edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), timeout=30)
    assert total.prompt_tokens + total.completion_tokens == job.ledger.spent_tokens == 1_500_000
    assert total.cost == job.ledger.cost == 2.0
