"""What a replica that has lost its lease does, and what the one after it finds."""

from __future__ import annotations

from typing import Any

from hma.rpc.attempt import Attempt
from hma.v1 import attempt_pb2, job_pb2, task_pb2, worker_pb2
from services.meta_agent.job.state import JobFold
from tests.integration.meta_agent.replica import Scripts, answer_task, open_replica, serve_scripts
from tests.integration.store.proxy import Proxy
from tests.unit.meta_agent.simulation import make_created


async def test_a_replica_without_its_database_hangs_up_before_another_may_claim(
    postgres_url: str,
) -> None:
    order: list[str] = []

    def observe(event: job_pb2.JobEvent, _before: JobFold, _after: JobFold) -> None:
        if event.job_claimed.epoch == 2:
            order.append("claimed by another")

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        epoch = start.attempt.ref.epoch
        order.append(f"begun by {epoch}")
        if epoch == 1:
            await attempt.stop.wait()
            order.append("hung up on")
            return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        Proxy(postgres_url).running() as proxy,
        open_replica(proxy.url, channel) as cut_off,
    ):
        plan = task_pb2.Plan(tasks=[task_pb2.Task(id="only", instruction="do")])
        job_id = await cut_off.create(make_created(items=0, plan=plan))
        await cut_off.until(job_id, lambda fold: any(fold.open_attempts()))
        async with open_replica(postgres_url, channel, observers=[observe]) as heir:
            proxy.stall()
            fold = await heir.ended(job_id, timeout=40)
            assert cut_off.drivers.driving == 0
            proxy.resume()
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert order == ["begun by 1", "hung up on", "claimed by another", "begun by 2"]
