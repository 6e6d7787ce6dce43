"""Jobs driven over real gRPC and a real PostgreSQL, by services that do scripted work."""

from __future__ import annotations

import asyncio
from typing import Any

from hma.rpc.attempt import Attempt
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2, worker_pb2
from services.meta_agent.job.times import timestamp
from services.meta_agent.recording.fleet_metrics import FleetCounters
from tests.integration.meta_agent.replica import (
    Scripts,
    answer_task,
    open_replica,
    serve_scripts,
)
from tests.integration.rpc.support import until
from tests.unit.meta_agent.simulation import make_created


def make_plan(**tasks: list[str]) -> task_pb2.Plan:
    return task_pb2.Plan(
        tasks=[
            task_pb2.Task(id=name, instruction="do", depends_on=after)
            for name, after in tasks.items()
        ]
    )


async def test_job_runs_from_plan_to_answer_with_an_exact_receipt(postgres_url: str) -> None:
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=4))
        fold = await replica.ended(job_id)
        events = await replica.events(job_id)
        row = await replica.store.jobs.get(job_id)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert fold.answer is not None
    assert fold.answer.text == "q1: yes; q2: yes; q3: yes; q4: yes"
    assert (fold.spent, fold.unknown) == (4 * 55, 0)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert row.sealed
    assert row.spent_tokens == 220


async def test_two_independent_tasks_overlap_and_dependents_do_not_wait_for_the_slowest(
    postgres_url: str,
) -> None:
    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        seconds = {"slow": 2.0, "quick": 2.0, "after": 0.1, "slowest": 2.5}[start.task.id]
        await asyncio.sleep(seconds)  # the task's own duration, not a wait for a state
        return await answer_task(start, attempt)

    plan = make_plan(slow=[], quick=[], slowest=[], after=["quick"])
    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=0, plan=plan))
        fold = await replica.ended(job_id)
    assert fold.finished is not None
    timings = {timing.task_id: timing for timing in fold.finished.agent_timings}
    overall = next(c for c in fold.finished.concurrency if c.layer_id == -1)
    assert overall.time_saved_percent > 30
    first = next(c for c in fold.finished.concurrency if c.layer_id == 0)
    assert first.pairwise_overlap_percent > 30
    assert timings["after"].end.ToNanoseconds() < timings["slowest"].end.ToNanoseconds()


async def test_interrupt_stops_the_work_in_band_and_answers_with_what_is_there(
    postgres_url: str,
) -> None:
    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.task.id == "done":
            return await answer_task(start, attempt)
        await attempt.ask(
            attempt_pb2.CallIntent(
                call=1, prompt_tokens=50, max_completion_tokens=20, min_completion_tokens=1
            )
        )
        attempt.progress(text="half an ans")
        await attempt.stop.wait()
        usage = common_pb2.Usage(prompt_tokens=50, completion_tokens=3)
        attempt.calls.append(attempt_pb2.CallUsage(call=1, usage=usage))
        items = [task_pb2.ItemAnswer(item_id="half", answer="half")]
        return attempt_pb2.AttemptResult(
            state=attempt_pb2.ATTEMPT_STATE_PARTIAL, task=task_pb2.TaskResult(items=items)
        )

    plan = make_plan(done=[], half=[], never=["half"])
    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=0, plan=plan))
        await replica.until(
            job_id, lambda f: any(t.state == job_pb2.TASK_STATE_SUCCEEDED for t in f.tasks.values())
        )
        snapshot = await replica.board.wait_newer(job_id, 0, 5)
        while snapshot is not None and not any(a.text for a in snapshot.progress.attempts):
            snapshot = await replica.board.wait_newer(job_id, snapshot.revision, 5)
        assert snapshot is not None
        assert snapshot.progress.attempts[0].text == "half an ans"
        await replica.store.log.append_fact(
            job_id,
            job_pb2.JobEvent(
                job_id=job_id,
                event_id="i",
                time=timestamp(replica.store.clock.now()),
                interrupt_requested=job_pb2.InterruptRequested(request_id="i"),
            ),
        )
        fold = await replica.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_PARTIAL
    states = {t.task.id: t.state for t in fold.tasks.values()}
    assert states == {
        "done": job_pb2.TASK_STATE_SUCCEEDED,
        "half": job_pb2.TASK_STATE_PARTIAL,
        "never": job_pb2.TASK_STATE_SKIPPED,
    }
    assert fold.answer is not None
    assert [item.item_id for item in fold.answer.items] == ["done", "half"]
    assert (fold.spent, fold.unknown) == (55 + 53, 0)


async def test_full_workers_refuse_and_the_queue_stays_with_the_meta_agent(
    postgres_url: str,
) -> None:
    running = 0
    most = 0

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.2)  # the task's own duration
            return await answer_task(start, attempt)
        finally:
            running -= 1

    async with (
        serve_scripts(Scripts(execute=work, places=3)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=10, budget=50_000))
        fold = await replica.ended(job_id, timeout=40)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert most <= 3
    assert any(a.refused for a in fold.attempts.values())
    assert fold.spent == 10 * 55


async def test_a_large_job_leaves_places_to_a_small_one(postgres_url: str) -> None:
    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await asyncio.sleep(0.1)  # the task's own duration
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, places=2) as replica,
    ):
        plan = make_plan(**{f"t{number}": [] for number in range(24)})
        large = await replica.create(make_created(items=0, budget=50_000, plan=plan))
        await replica.until(large, lambda f: any(a.open for a in f.attempts.values()))
        small = await replica.create(make_created(items=2))
        ended = await replica.ended(small)
        assert not (await replica.fold(large)).ended
        both = [ended, await replica.ended(large, timeout=40)]
    assert [fold.state for fold in both] == [job_pb2.JOB_STATE_SUCCEEDED] * 2


async def test_a_job_beyond_the_limit_ends_at_its_deadline_all_the_same(postgres_url: str) -> None:
    async def work(_start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await attempt.stop.wait()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, max_jobs=1) as replica,
    ):
        long = await replica.create(make_created(items=2))
        await replica.until(long, lambda f: any(a.open for a in f.attempts.values()))
        late = await replica.create(make_created(items=2), deadline=3.0)
        fold = await replica.ended(late, timeout=30)
        assert not (await replica.fold(long)).ended
    assert fold.state == job_pb2.JOB_STATE_FAILED
    assert (fold.spent, fold.unknown) == (0, 0)
    assert fold.end_time <= fold.deadline + 2


async def test_limit_of_the_replica_holds_over_all_its_jobs(postgres_url: str) -> None:
    running = 0
    most = 0

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.05)  # the task's own duration
            return await answer_task(start, attempt)
        finally:
            running -= 1

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel, places=2) as replica,
    ):
        jobs = [await replica.create(make_created(items=4)) for _ in range(4)]
        folds = [await replica.ended(job_id) for job_id in jobs]
    assert all(fold.state == job_pb2.JOB_STATE_SUCCEEDED for fold in folds)
    assert most <= 2


async def test_service_that_breaks_a_stream_is_replaced_and_its_grant_booked(
    postgres_url: str,
) -> None:
    tries = 0

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("a defect whose text must not reach anybody")
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=0, plan=make_plan(a=[])))
        fold = await replica.ended(job_id)
        events = await replica.events(job_id)
    assert tries == 2
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert not any(b"must not reach" in event.SerializeToString() for event in events)


async def test_nobody_there_costs_nothing_and_the_job_ends_at_its_deadline(
    postgres_url: str,
) -> None:
    from hma.rpc.channel import open_channel

    async with (
        open_channel("127.0.0.1:1") as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=2), deadline=4.0)
        fold = await replica.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_FAILED
    assert (fold.spent, fold.unknown) == (0, 0)
    assert fold.end_time <= fold.deadline


async def test_job_queues_while_the_model_loads_and_says_why(postgres_url: str) -> None:
    async with (
        serve_scripts(Scripts()) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        replica.model.ready = False
        await replica.watch.ask()
        job_id = await replica.create(make_created(items=2))
        waiting = await replica.until(job_id, lambda f: "still loading" in f.reason)
        assert waiting.state == job_pb2.JOB_STATE_QUEUED
        replica.model.ready = True
        fold = await replica.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_cancel_ends_the_job_and_keeps_the_receipt(postgres_url: str) -> None:
    async def work(_start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await attempt.stop.wait()
        usage = common_pb2.Usage(prompt_tokens=11)
        attempt.calls.append(attempt_pb2.CallUsage(call=1, usage=usage))
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        job_id = await replica.create(make_created(items=0, plan=make_plan(a=[])))
        await replica.until(job_id, lambda f: any(a.open for a in f.attempts.values()))
        request = job_pb2.CancelRequested(request_id="c", reason="enough")
        await replica.store.log.append_fact(
            job_id,
            job_pb2.JobEvent(
                job_id=job_id,
                event_id="c",
                time=timestamp(replica.store.clock.now()),
                cancel_requested=request,
            ),
        )
        fold = await replica.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_CANCELLED
    assert fold.reason == "cancelled: enough"
    assert (fold.spent, fold.unknown) == (11, 0)


async def test_another_replica_takes_over_when_the_first_one_is_gone(postgres_url: str) -> None:
    gate = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.task.id == "second" and not gate.is_set():
            await attempt.stop.wait()
            return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)
        return await answer_task(start, attempt)

    plan = make_plan(first=[], second=["first"])
    async with serve_scripts(Scripts(execute=work)) as channel:
        async with open_replica(postgres_url, channel) as one:
            job_id = await one.create(make_created(items=0, plan=plan))
            await one.until(
                job_id,
                lambda f: any(a.uid == "1.2" for a in f.open_attempts()),
            )
        gate.set()
        async with open_replica(postgres_url, channel) as two:
            fold = await two.ended(job_id, timeout=30)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert fold.epoch == 2
    assert len(fold.attempts_of("1.1")) == 1, "a finished task ran again"


async def test_a_report_that_came_while_nobody_drove_is_counted_once(postgres_url: str) -> None:
    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.attempt.ref.epoch > 1:
            return await answer_task(start, attempt)
        usage = common_pb2.Usage(prompt_tokens=30, completion_tokens=4)
        attempt.calls.append(attempt_pb2.CallUsage(call=1, route=attempt.route, usage=usage))
        at_work.set()
        await attempt.stop.wait()
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED)

    at_work = asyncio.Event()
    scripts, counters = Scripts(execute=work), FleetCounters()
    async with serve_scripts(scripts) as channel:
        async with open_replica(postgres_url, channel, observers=[counters.observe]) as one:
            job_id = await one.create(make_created(items=0, plan=make_plan(a=[])))
            async with asyncio.timeout(30):
                await at_work.wait()
            one.running.cancel()
            await until(lambda: bool(scripts.reports))
            [(ref, result)] = scripts.reports
            reported = job_pb2.AttemptReported(ref=ref, result=result)
            time = timestamp(one.store.clock.now())
            event = job_pb2.JobEvent(
                job_id=job_id, event_id="late", time=time, attempt_reported=reported
            )
            await one.store.log.append_fact(job_id, event)
        async with open_replica(postgres_url, channel, observers=[counters.observe]) as two:
            fold = await two.ended(job_id, timeout=30)
    taken = counters.take().items()
    counted = sum(value for (name, _), value in taken if name == "hma_tokens_total")
    assert (counted, fold.spent) == (34 + 55, 34 + 55)


async def test_a_row_keeps_the_budget_that_its_driver_has_no_news_of(postgres_url: str) -> None:
    gate = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        await gate.wait()
        return await answer_task(start, attempt)

    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as replica,
    ):
        jobs = [await replica.create(make_created(items=0, plan=make_plan(a=[]))) for _ in "ab"]
        for job_id in jobs:
            await replica.until(job_id, lambda f: any(True for _ in f.open_attempts()))
        newer, granted = jobs
        # Somebody else has written a row's budget; a driver has read of a grant.
        await replica.store.database.execute(
            "UPDATE job SET budget_tokens = 7777 WHERE id = $1", newer
        )
        event = job_pb2.JobEvent(
            job_id=granted,
            event_id="g",
            time=timestamp(replica.store.clock.now()),
            budget_granted=job_pb2.BudgetGranted(request_id="g", tokens=1000),
        )
        await replica.store.log.append_fact(granted, event)
        gate.set()
        folds = [await replica.ended(job_id) for job_id in jobs]
        rows = [await replica.store.jobs.get(job_id) for job_id in jobs]
    assert [row.budget_tokens for row in rows] == [7777, folds[1].budget]
    assert folds[1].budget == folds[0].budget + 1000


async def test_a_replica_that_leaves_ends_what_runs_and_gives_the_job_away(
    postgres_url: str,
) -> None:
    go_on = asyncio.Event()

    async def work(start: worker_pb2.ExecuteStart, attempt: Attempt) -> Any:
        if start.task.id == "first":
            await go_on.wait()
        return await answer_task(start, attempt)

    plan = make_plan(first=[], second=["first"])
    async with (
        serve_scripts(Scripts(execute=work)) as channel,
        open_replica(postgres_url, channel) as leaving,
    ):
        job_id = await leaving.create(make_created(items=0, plan=plan))
        await leaving.until(job_id, lambda fold: any(fold.open_attempts()))
        async with open_replica(postgres_url, channel) as heir:
            handing = asyncio.create_task(leaving.drivers.hand_over(15.0))
            later = await leaving.create(make_created(items=0, plan=make_plan(only=[])))
            await heir.ended(later)  # not claimed by the one that leaves
            assert not handing.done()
            go_on.set()
            await handing
            fold = await heir.ended(job_id)
    assert fold.state == job_pb2.JOB_STATE_SUCCEEDED
    assert {a.epoch for a in fold.attempts.values()} == {1, 2}
    assert {a.number for a in fold.attempts.values()} == {1}
    assert fold.unknown == 0
