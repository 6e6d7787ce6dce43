from __future__ import annotations

import asyncio

import grpc
import pytest

from hma.v1 import attempt_pb2, common_pb2, job_pb2, meta_agent_pb2, task_pb2
from services.meta_agent.job.apply import fold_events
from services.meta_agent.store.ids import new_job_id
from tests.integration.edge.edge import Edge

Report = meta_agent_pb2.ReportAttemptRequest
Read = meta_agent_pb2.ReadDocumentRequest


def report(ref: attempt_pb2.AttemptRef, answer: str = "8080") -> Report:
    calls = [
        attempt_pb2.CallUsage(
            call=number,
            route="fast",
            usage=common_pb2.Usage(
                prompt_tokens=100 * number, cached_prompt_tokens=10, completion_tokens=5
            ),
        )
        for number in (1, 2)
    ]
    result = attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, calls=calls)
    result.task.items.append(task_pb2.ItemAnswer(item_id="q1", answer=answer))
    return Report(ref=ref, result=result, role=common_pb2.ROLE_WORKER)


async def test_a_late_result_is_logged_once_with_its_price(edge: Edge) -> None:
    job_id = await edge.create()
    ref = await edge.start_attempt(job_id)
    answers = await asyncio.gather(
        *(edge.internal.ReportAttempt(report(ref), timeout=30) for _ in range(4))
    )
    assert all(answer.recorded for answer in answers)
    events = await edge.store.log.read(job_id)
    (logged,) = [e for e in events if e.HasField("attempt_reported")]
    assert logged.epoch == 0
    # Per million: 1.0 for what was not cached, 0.5 cached, 2.0 completion.
    assert list(logged.attempt_reported.costs) == pytest.approx([105e-6, 205e-6])
    fold = fold_events(events)
    assert (fold.spent, fold.outstanding) == (310, 0)
    assert fold.cost == pytest.approx(310e-6)


async def test_reports_of_another_epoch_are_facts_of_their_own(edge: Edge) -> None:
    job_id = await edge.create()
    ref = await edge.start_attempt(job_id)
    await edge.internal.ReportAttempt(report(ref), timeout=30)
    other = attempt_pb2.AttemptRef()
    other.CopyFrom(ref)
    other.epoch += 1
    await edge.internal.ReportAttempt(report(other), timeout=30)
    events = await edge.store.log.read(job_id)
    assert sum(e.HasField("attempt_reported") for e in events) == 2


async def test_a_report_nobody_needs_is_taken_all_the_same(edge: Edge) -> None:
    job_id = await edge.create()
    ref = await edge.start_attempt(job_id)
    await edge.finish(job_id)
    gone = attempt_pb2.AttemptRef(job_id=new_job_id(), epoch=1, task_uid="1.1", attempt=1)
    junk = attempt_pb2.AttemptRef(job_id="junk", epoch=1, task_uid="1.1", attempt=1)
    for late in (ref, gone, junk):
        answer = await edge.internal.ReportAttempt(report(late), timeout=30)
        assert not answer.recorded
    last = (await edge.store.log.read(job_id))[-1]
    assert last.HasField("job_finished")


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Report(), "ref"),
        (Report(ref=attempt_pb2.AttemptRef(task_uid="1.1", attempt=1)), "ref.job_id"),
        (Report(ref=attempt_pb2.AttemptRef(job_id="j", attempt=1)), "ref.task_uid"),
        (Report(ref=attempt_pb2.AttemptRef(job_id="j", task_uid="1.1")), "ref.attempt"),
        (Report(ref=attempt_pb2.AttemptRef(job_id="j", task_uid="a\0", attempt=1)), "ref.task_uid"),
    ],
)
async def test_a_report_without_a_name_is_refused(edge: Edge, bad: Report, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=field) as error:
        await edge.internal.ReportAttempt(bad, timeout=30)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_documents_are_read_in_bounded_chunks(edge: Edge) -> None:
    text = "Zeile äöü\n" * 60_000
    spec = job_pb2.JobSpec(task_description="Why?", total_budget_tokens=2000)
    spec.documents.add(name="big.txt", text=text)
    spec.documents.add(name="empty.txt")
    request = meta_agent_pb2.CreateJobRequest(job=spec)
    job_id = (await edge.api.CreateJob(request, timeout=30)).job_id
    chunks = [
        part.chunk
        async for part in edge.internal.ReadDocument(Read(job_id=job_id, document_id="d1"))
    ]
    assert b"".join(chunks).decode() == text
    assert max(map(len, chunks)) <= 256 * 1024
    empty = edge.internal.ReadDocument(Read(job_id=job_id, document_id="d2"))
    assert b"".join([part.chunk async for part in empty]) == b""


@pytest.mark.parametrize("document_id", ["d2", "x\0", "a.md"])
async def test_an_unknown_document_is_not_found(edge: Edge, document_id: str) -> None:
    job_id = await edge.create()
    call = edge.internal.ReadDocument(Read(job_id=job_id, document_id=document_id), timeout=30)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(call))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
