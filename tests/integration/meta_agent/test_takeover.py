"""What a replica that has lost its lease does, and what the one after it finds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hma.rpc.attempt import Attempt
from hma.v1 import attempt_pb2, job_pb2, task_pb2, worker_pb2
from services.meta_agent.driving import poison
from services.meta_agent.job.state import JobFold
from tests.integration.meta_agent.replica import Scripts, answer_task, open_replica, serve_scripts
from tests.integration.store.proxy import Proxy
from tests.unit.meta_agent.simulation import make_created, make_rules


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


async def test_a_driver_that_reads_another_s_claim_hangs_up_though_its_lease_is_held(
    postgres_url: str,
) -> None:
    begun: list[tuple[str, int]] = []
    hung_up = asyncio.Event()

    async def beside(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        begun.append((start.task.id, start.attempt.ref.epoch))
        await attempt.stop.wait()
        hung_up.set()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    plan = task_pb2.Plan(tasks=[task_pb2.Task(id=name, instruction="do") for name in "ab"])
    async with (
        serve_scripts(Scripts(execute=beside)) as there,
        serve_scripts(Scripts()) as here,
        open_replica(postgres_url, there, places=1) as first,
        open_replica(postgres_url, here, max_jobs=0) as heir,
    ):
        job_id = await first.create(make_created(items=0, plan=plan))
        await first.until(job_id, lambda fold: any(fold.open_attempts()))
        heir.drivers._max_jobs = 9
        while (await first.store.jobs.get(job_id)).driver == first.store.replica_id:
            # As when the database's clock is set: the lease is over there, and held here.
            await first.store.database.execute(
                "UPDATE replica SET beat = beat - interval '1 hour' WHERE id = $1",
                first.store.replica_id,
            )
            heir.store.notifications.publish_claimable()
            await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            await hung_up.wait()
        fold = await heir.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert begun == [("a", 1)]


async def test_an_accepted_job_goes_on_however_many_of_its_drivers_die(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poison, "FIRST_WAIT", 0.05)
    deaths = 4

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.attempt.ref.attempt > deaths:
            return await answer_task(start, attempt)
        await attempt.stop.wait()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    rules = make_rules(report_grace=0.2)
    created = make_created(items=1)
    created.policy.max_attempts = 1
    job_id = ""
    async with serve_scripts(Scripts(execute=work)) as channel:
        for number in range(1, deaths + 1):
            async with open_replica(postgres_url, channel, rules=rules) as replica:
                job_id = job_id or await replica.create(created)
                await replica.until(job_id, lambda fold, n=number: ("1.1", n) in fold.attempts)  # type: ignore[misc]
        async with open_replica(postgres_url, channel, rules=rules) as heir:
            fold = await heir.ended(job_id)
            row = await heir.store.jobs.get(job_id)
            failed = await heir.store.database.fetchrow(
                "SELECT failed_claims FROM job WHERE id = $1", job_id
            )
    assert (fold.state, row.sealed) == (job_pb2.JOB_STATE_SUCCEEDED, True), fold.reason
    assert failed is not None
    assert failed["failed_claims"] == 0, "nor is it taken for a job that its driver fails at"
    assert fold.finished is not None
    report = fold.finished.failure_report
    assert (report.takeovers, report.handed_over_attempts) == (deaths, deaths)
    assert fold.spent + fold.unknown <= fold.budget
    assert fold.unknown > 0, "nobody has said what the lost attempts have cost"


async def test_a_job_that_its_drivers_die_of_is_ended_in_its_time_though_no_try_is_used_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poison, "FIRST_WAIT", 0.05)

    async def work(_start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await attempt.stop.wait()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    def begun(fold: JobFold) -> bool:
        return fold.ended or any(a.epoch == fold.epoch for a in fold.open_attempts())

    rules = make_rules(report_grace=0.1)
    job_id, deaths = "", 0
    async with serve_scripts(Scripts(execute=work)) as channel:
        while True:
            async with open_replica(postgres_url, channel, rules=rules) as replica:
                job_id = job_id or await replica.create(make_created(items=1), deadline=8.0)
                fold = await replica.until(job_id, begun)
                if fold.ended:
                    row = await replica.store.jobs.get(job_id)
                    break
            deaths += 1  # before it can do anything about it
    assert (fold.state, row.sealed) == (job_pb2.JOB_STATE_FAILED, True)
    assert "processes that drove the job ended" in fold.reason
    assert all(a.orphaned for a in fold.attempts.values())
    assert deaths > poison.PATIENCE
    assert fold.outstanding == 0
    assert fold.spent + fold.unknown <= fold.budget
