"""Defects, dead Workers and broken routes: what they cost, and what they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from hma.rpc.attempt import Attempt
from hma.rpc.slots import Slots
from hma.v1 import attempt_pb2, common_pb2, job_pb2, reducer_pb2, worker_pb2, worker_pb2_grpc
from services.meta_agent.deciding.decide import decide as right
from services.meta_agent.driving import poison
from services.meta_agent.driving.breaker import BreakerRules
from services.meta_agent.driving.route_gates import GateRules
from services.meta_agent.driving.streams import Services
from services.meta_agent.job.leniently import fold_what_folds
from tests.integration.meta_agent.replica import (
    Scripts,
    Servicer,
    answer_task,
    open_replica,
    reduce_all,
    serve_scripts,
)
from tests.unit.meta_agent.simulation import make_created, make_rules


def test_a_poisoned_job_is_left_alone_for_longer_each_time() -> None:
    waits = [poison.wait_after(failures) for failures in range(1, 9)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert [poison.wait_after_losses(losses) for losses in range(5)] == [0, 0, 0, 2, 4]
    assert poison.failures_now(3, drove=1.0) == 4
    assert poison.failures_now(3, drove=poison.HEALTHY) == 1


async def test_a_job_that_costs_processes_is_slowed_and_ended_in_its_time(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poison, "FIRST_WAIT", 0.05)
    at_work = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        at_work.set()
        await attempt.stop.wait()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    async with serve_scripts(Scripts(execute=work)) as channel:
        async with open_replica(postgres_url, channel) as first:
            job_id = await first.create(make_created(items=1), deadline=8.0)
            await first.until(job_id, lambda fold: any(fold.open_attempts()))
        lose = "UPDATE job SET driver = 'dead', lost_drivers = 5 WHERE id = $1"
        async with open_replica(postgres_url, channel) as heir:
            # It is left alone, then driven all the same: it may be innocent.
            await heir.store.database.execute(lose, job_id)
            await heir.until(job_id, lambda fold: fold.epoch >= 3)
            await heir.store.database.execute(
                "UPDATE job SET driver = 'dead', lost_drivers = 5, epoch = epoch + 1, "
                "deadline = clock_timestamp() WHERE id = $1",
                job_id,
            )
            fold = await heir.ended(job_id)
            row = await heir.store.jobs.get(job_id)
    assert (fold.state, row.sealed) == (job_pb2.JOB_STATE_FAILED, True)
    assert "processes that drove the job ended" in fold.reason
    assert fold.outstanding == 0


async def test_a_job_whose_rules_fail_is_ended_with_what_it_has_and_others_go_on(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(fold: Any, *rest: Any) -> Any:
        answered = any(task.result is not None for task in fold.tasks.values())
        if fold.created.task_description == "poison" and answered:
            raise ZeroDivisionError("planted")
        return right(fold, *rest)

    monkeypatch.setattr("services.meta_agent.driving.driver.decide", decide)
    monkeypatch.setattr(poison, "FIRST_WAIT", 0.05)
    created = make_created(items=3)
    created.task_description = "poison"
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        poisoned = await replica.create(created)
        healthy = await replica.create(make_created(items=3))
        good = await replica.ended(healthy)
        bad = await replica.ended(poisoned, timeout=40)
        row = await replica.store.jobs.get(poisoned)
    assert good.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (bad.state, row.sealed) == (job_pb2.JOB_STATE_FAILED, True)
    assert "failed 5 times in a row by a defect of HMA" in bad.reason
    assert "planted" not in bad.reason
    assert bad.outstanding == 0
    assert bad.finished is not None
    assert {item.answer for item in bad.finished.answer.items} == {"yes"}
    assert bad.finished.failure_report.tokens_lost == bad.unknown


async def test_trouble_of_the_database_s_own_is_no_defect_of_a_driver(postgres_url: str) -> None:
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        database = replica.store.database
        # A sequence goes on though its transaction does not: every other write fails.
        await database.execute("CREATE SEQUENCE trouble")
        await database.execute(
            "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF nextval('trouble') % 2 = 0 THEN RAISE 'planted' USING ERRCODE = 'XX000'; END IF; "
            "RETURN NEW; END $$"
        )
        await database.execute(
            "CREATE TRIGGER planted BEFORE INSERT ON job_event "
            "FOR EACH STATEMENT EXECUTE FUNCTION planted()"
        )
        job_id = await replica.create(make_created(items=4))
        fold = await replica.ended(job_id)
        row = await database.fetchrow("SELECT failed_claims, epoch FROM job")
        failed = await database.fetchrow("SELECT last_value FROM trouble")
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED, fold.reason
    assert failed is not None
    assert failed["last_value"] > 8, "it did not get into trouble"
    assert row is not None
    assert (row["failed_claims"], row["epoch"]) == (0, 1), "it was driven once, and on"
    assert fold.finished is not None
    assert not fold.finished.HasField("failure_report")


def test_an_end_without_deciding_tells_what_the_log_holds() -> None:
    log = [
        job_pb2.JobEvent(sequence=1, job_created=make_created(items=2)),
        job_pb2.JobEvent(sequence=2, job_claimed=job_pb2.JobClaimed(replica="r", epoch=4)),
        job_pb2.JobEvent(sequence=3),  # what no version can fold
    ]
    admitted = job_pb2.TaskAdmitted(task_uid="1.1")
    admitted.task.id = "a"
    log.append(job_pb2.JobEvent(sequence=4, task_admitted=admitted))
    for number in (1, 2):
        ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=number, epoch=4)
        started = job_pb2.AttemptStarted(
            ref=ref, role=common_pb2.ROLE_WORKER, grant=attempt_pb2.Grant(call=1, tokens=70)
        )
        log.append(job_pb2.JobEvent(sequence=len(log) + 1, attempt_started=started))
    result = attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)
    result.task.items.add(item_id="q1", answer="yes")
    ref = attempt_pb2.AttemptRef(task_uid="1.1", attempt=1, epoch=4)
    finished = job_pb2.AttemptFinished(ref=ref, result=result)
    log.append(job_pb2.JobEvent(sequence=len(log) + 1, attempt_finished=finished))
    fold = fold_what_folds(log)
    assert fold.version == len(log)
    events, after = poison.last_events(
        fold, make_rules(), version=len(log), epoch=5, why="by a defect", now=9.0
    )
    assert [event.WhichOneof("payload") for event in events] == ["attempt_lost", "job_finished"]
    assert after.unknown == 70
    assert after.finished is not None
    assert [item.item_id for item in after.finished.answer.items] == ["q1"]
    assert [gap.item_id for gap in after.finished.answer.missing] == ["q2"]


@asynccontextmanager
async def serve_worker(scripts: Scripts) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    """A Worker of its own, at its own address."""
    async with Slots(scripts.places, grace=1) as slots:
        server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(Servicer(scripts, slots), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", server
        finally:
            await server.stop(0)


async def test_a_task_of_a_dead_worker_goes_to_another_one(postgres_url: str) -> None:
    holding = asyncio.Event()
    ran: list[str] = []

    async def holds(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        ran.append("dies")
        holding.set()
        return await hang(start, attempt)

    async def hang(_start: Any, attempt: Attempt) -> Any:
        await attempt.stop.wait()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    async def works(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        ran.append("lives")
        return await answer_task(start, attempt)

    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(serve_scripts(Scripts()))
        dying, server = await stack.enter_async_context(serve_worker(Scripts(execute=holds)))
        living, _ = await stack.enter_async_context(serve_worker(Scripts(execute=works)))
        # One channel over both, as a balancer is; it leaves out what does not answer.
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(
                f"ipv4:{dying},{living}",
                options=[("grpc.lb_policy_name", "pick_first"), ("grpc.enable_retries", 0)],
            )
        )
        replica = await stack.enter_async_context(
            open_replica(postgres_url, rest, services=Services(rest, channel, rest))
        )
        job_id = await replica.create(make_created(items=1))
        await asyncio.wait_for(holding.wait(), 30)
        await server.stop(0)
        fold = await replica.ended(job_id, timeout=30)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert ran == ["dies", "lives"]
    assert fold.finished is not None
    report = fold.finished.failure_report
    assert report.lost_attempts == 1
    (count,) = report.counts
    assert (count.count, count.retried + count.fell_back) == (1, 1)


async def test_a_broken_route_is_left_alone_across_jobs_and_tried_again_by_one(
    postgres_url: str,
) -> None:
    broken, calls = True, 0

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        nonlocal calls
        calls += 1
        if not broken:
            return await answer_task(start, attempt)
        attempt.calls.append(attempt_pb2.CallUsage(call=1, finish_reason="error"))
        failure = common_pb2.Failure(
            failure_class=common_pb2.FAILURE_CLASS_TRANSIENT, message="the model server broke"
        )
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED, failure=failure)

    created = make_created(items=10)
    created.policy.route = "fast"
    created.policy.max_attempts = 10
    # Of the half minute that it may be open in the end, a test need not wait the whole.
    gates = GateRules(breaker=BreakerRules(longest=2.0))
    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, gates=gates) as replica,
    ):
        first = await replica.create(created)
        second = await replica.create(created)
        for job_id in (first, second):
            waiting = await replica.until(
                job_id, lambda fold: "waits for route fast" in fold.reason
            )
            assert "the model server broke" in waiting.reason
        broken, before = False, calls
        for job_id in (first, second):
            fold = await replica.ended(job_id, timeout=40)
            assert fold.state == job_pb2.JOB_STATE_SUCCEEDED, fold.reason
        assert replica.watch.states["fast"].ready
    # Each opening lets one attempt through, whatever number of jobs wait.
    assert before < 60, "it was not called again and again"


async def test_a_replica_whose_places_are_all_taken_still_reduces(postgres_url: str) -> None:
    holding, release = asyncio.Event(), asyncio.Event()
    reduced: list[int] = []

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.task.instruction.startswith("block"):
            holding.set()
            await release.wait()
        return await answer_task(start, attempt)

    async def reduce(start: reducer_pb2.ReduceStart, attempt: Attempt) -> Any:
        reduced.append(attempt.priority)
        return await reduce_all(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work, reduce=reduce)) as channel,
        open_replica(postgres_url, channel, places=1) as replica,
    ):
        quick = await replica.create(make_created(items=1))
        await replica.until(quick, lambda fold: any(t.settled for t in fold.tasks.values()))
        blocking = make_created(items=0)
        blocking.plan.tasks.add(id="a", instruction="block")
        blocked = await replica.create(blocking)
        await asyncio.wait_for(holding.wait(), 30)
        assert (await replica.ended(quick)).state == job_pb2.JOB_STATE_SUCCEEDED
        release.set()
        assert (await replica.ended(blocked)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert all(priority < 0 for priority in reduced), "before work at the model server"
