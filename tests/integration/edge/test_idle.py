"""What a replica remembers of jobs goes when nobody asks about them."""

from __future__ import annotations

from hma.v1 import meta_agent_pb2
from tests.integration.edge.edge import Edge

Get = meta_agent_pb2.GetJobRequest


async def test_jobs_that_were_read_are_dropped_when_nobody_asks_and_read_again(edge: Edge) -> None:
    old, new = await edge.create(), await edge.create()
    for job_id in (old, new):
        await edge.api.GetJob(Get(job_id=job_id), timeout=30)
    assert edge.reader.forget_idle(3600) == 0
    edge.reader._asked_at[old] -= 3600
    assert edge.reader.forget_idle(3600) == 1
    assert old not in edge.reader
    assert new in edge.reader
    job = await edge.api.GetJob(Get(job_id=old), timeout=30)
    assert job.last_sequence == 1


async def test_jobs_that_were_heard_of_are_dropped_and_heard_of_again(edge: Edge) -> None:
    old, new = await edge.create(), await edge.create()
    notifications = edge.store.notifications
    assert notifications.known(old) == 1
    for job_id in list(notifications._heard_at):
        if job_id != new:
            notifications._heard_at[job_id] -= 3600
    assert notifications.forget_idle(3600) >= 1
    assert (notifications.known(old), notifications.known(new)) == (0, 1)
    assert set(notifications._heard_at) == set(notifications._known)
    await edge.note(old, "news")
    assert notifications.known(old) == 2


async def test_a_read_that_meets_a_deletion_keeps_nothing(edge: Edge) -> None:
    job_id = await edge.create()
    await edge.finish(job_id)
    read = edge.store.log.read

    async def deleted_meanwhile(*arguments: object) -> object:
        events = await read(*arguments)  # type: ignore[arg-type]
        edge.reader.forget(job_id)
        return events

    edge.store.log.read = deleted_meanwhile  # type: ignore[method-assign, assignment]
    try:
        await edge.reader.read(job_id)
    finally:
        edge.store.log.read = read  # type: ignore[method-assign]
    assert job_id not in edge.reader
