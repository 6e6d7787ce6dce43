"""ExplainJob over gRPC, on logs in a real database."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from hma.errors import InvalidRequest, NotFound
from hma.rpc.status import from_rpc_error
from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2
from services.meta_agent.edge import reader
from tests.integration.edge.edge import Edge

Explain = meta_agent_pb2.ExplainJobRequest
UNKNOWN = "job-01k0000000000000000000000000"


async def explain(edge: Edge, job_id: str) -> Any:
    return await edge.api.ExplainJob(Explain(job_id=job_id), timeout=30)


async def test_a_job_that_waits_is_explained(edge: Edge) -> None:
    job_id = await edge.create()
    told = await explain(edge, job_id)
    assert (told.job_id, told.state) == (job_id, job_pb2.JOB_STATE_QUEUED)
    assert told.ledger.budget_tokens == 2000
    assert not told.accounts
    assert not told.sentences


async def test_the_whole_of_a_long_log_is_told(edge: Edge) -> None:
    job_id = await edge.create()
    ref = await edge.start_attempt(job_id)
    await edge.note(job_id, "much happens", count=reader.PAGE + 50)
    usage = common_pb2.Usage(prompt_tokens=100, completion_tokens=20)
    result = attempt_pb2.AttemptResult(
        state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED,
        calls=[attempt_pb2.CallUsage(call=1, route="fast", usage=usage)],
    )
    await edge.append(job_id, attempt_finished=job_pb2.AttemptFinished(ref=ref, result=result))
    running = await explain(edge, job_id)
    (account,) = running.accounts
    assert (account.task_uid, account.prompt_tokens, account.completion_tokens) == ("1.1", 100, 20)
    assert running.ledger.spent_tokens == 120
    assert not running.ledger.rows, "where the tokens are, without rows"
    await edge.finish(job_id)
    ended = await explain(edge, job_id)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert "The job succeeded (by hand); 120 of 2,000 tokens were spent." in ended.sentences
    assert await explain(edge, job_id) == ended


async def test_the_jobs_shape_is_shown_with_its_outcome(edge: Edge) -> None:
    job_id = await edge.create()
    decided = job_pb2.ShapeDecided(
        shape=job_pb2.JOB_SHAPE_TEAM, reason="it pays", predicted_team_tokens=900
    )
    await edge.append(job_id, shape_decided=decided)
    outcome = job_pb2.ShapeOutcome(
        shape=job_pb2.JOB_SHAPE_TEAM, predicted_tokens=900, actual_tokens=450, error_percent=-50
    )
    finished = job_pb2.JobFinished(state=job_pb2.JOB_STATE_FAILED, shape_outcome=outcome)
    job = await edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), timeout=30)
    assert (job.shape_decision, job.HasField("shape_outcome")) == (decided, False)
    await edge.append(job_id, seal=True, job_finished=finished)
    job = await edge.api.GetJob(meta_agent_pb2.GetJobRequest(job_id=job_id), timeout=30)
    assert (job.shape_decision, job.shape_outcome) == (decided, outcome)
    told = await explain(edge, job_id)
    assert (told.shape, told.shape_outcome) == (decided, outcome)


@pytest.mark.parametrize(
    ("job_id", "error"), [(UNKNOWN, NotFound), ("no id", NotFound), ("", InvalidRequest)]
)
async def test_what_is_no_job_is_not_explained(
    edge: Edge, job_id: str, error: type[Exception]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await explain(edge, job_id)
    assert isinstance(from_rpc_error(caught.value), error)


async def test_jobs_of_other_tenants_and_deleted_ones_are_not_explained(fresh_edge: Edge) -> None:
    other, gone = await fresh_edge.create(), await fresh_edge.create()
    await fresh_edge.finish(gone)
    await explain(fresh_edge, gone)
    delete = meta_agent_pb2.DeleteJobRequest(job_id=gone)
    await fresh_edge.api.DeleteJob(delete, timeout=30)
    await fresh_edge.store.database.pool.execute("UPDATE job SET tenant = 'acme'")
    for job_id in (other, gone):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explain(fresh_edge, job_id)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
