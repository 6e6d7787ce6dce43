"""An attempt over a real stream: grants, stops, heartbeats, delivery, places."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from hma import errors
from hma.rpc.attempt import Attempt, AttemptStopped
from hma.rpc.attempt_stream import (
    AttemptStream,
    Finished,
    Lost,
    Refused,
    execute_stream,
    plan_stream,
)
from hma.rpc.slots import Slots
from hma.v1 import (
    analyst_pb2,
    analyst_pb2_grpc,
    attempt_pb2,
    common_pb2,
    worker_pb2,
    worker_pb2_grpc,
)
from tests.integration.rpc.support import (
    BEAT,
    PATIENT,
    Reports,
    ScriptedAnalyst,
    intent,
    serving,
    start_of,
    succeeded,
    until,
    usage_of,
    worker,
)

Result = attempt_pb2.AttemptResult
FAILED = attempt_pb2.ATTEMPT_STATE_FAILED


async def _read_all(stream: AttemptStream[Any]) -> None:
    async for _ in stream:
        pass


async def test_a_stream_that_cannot_be_written_to_is_lost_at_once() -> None:
    async def work(_start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        return Result(state=FAILED)

    async with worker(work) as setup:
        stream = execute_stream(setup.channel, start_of(), heartbeat=BEAT)

        def broken(_control: attempt_pb2.AttemptControl) -> Any:
            raise TypeError("planted")

        stream._wrap = broken
        async with asyncio.timeout(30), stream:
            await _read_all(stream)
    assert isinstance(stream.outcome, Lost)
    assert "failed to write" in stream.outcome.message


async def test_a_covered_intent_is_granted_without_an_answer() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        grant = await attempt.ask(intent(prompt=100, most=50))
        assert grant.tokens == 150
        attempt.calls.append(usage_of())
        return succeeded()

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(tokens=150), heartbeat=BEAT) as stream,
    ):
        items = [item async for item in stream]
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    assert [item for item in items if isinstance(item, attempt_pb2.CallIntent)] == [
        intent(prompt=100, most=50)
    ]
    assert list(stream.outcome.result.calls) == [usage_of()]
    assert setup.reports.taken == []


async def test_an_uncovered_intent_waits_for_a_grant_that_is_enough() -> None:
    got: list[attempt_pb2.Grant] = []

    async def work(start: Any, attempt: Attempt) -> Result:
        got.append(await attempt.ask(intent(prompt=100, most=50, least=10)))
        return succeeded()

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(tokens=149), heartbeat=BEAT) as stream,
    ):
        async for item in stream:
            if isinstance(item, attempt_pb2.CallIntent):
                # Too small to pay for even the least, of another call, then enough.
                stream.grant(attempt_pb2.Grant(call=1, tokens=109))
                stream.grant(attempt_pb2.Grant(call=2, tokens=999))
                await asyncio.sleep(0.05)
                assert got == []
                stream.grant(attempt_pb2.Grant(call=1, tokens=110))
        stream.ack()
    assert [grant.tokens for grant in got] == [110]


async def test_a_denied_grant_reaches_the_caller_and_usage_travels_with_the_next_intent() -> None:
    denied: list[attempt_pb2.Grant] = []

    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.ask(intent(call=1))
        attempt.calls.append(usage_of(call=1, tokens=42))
        denied.append(await attempt.ask(intent(call=2)))
        return succeeded()

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(tokens=150), heartbeat=BEAT) as stream,
    ):
        async for item in stream:
            if isinstance(item, attempt_pb2.CallIntent) and item.call == 2:
                assert item.previous == usage_of(call=1, tokens=42)
                stream.grant(attempt_pb2.Grant(call=2, denied=True, reason="spent"))
        stream.ack()
    assert [(grant.denied, grant.reason) for grant in denied] == [(True, "spent")]


async def test_stop_in_the_middle_of_a_call_brings_exact_usage_back() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.ask(intent())
        attempt.progress(call=1, text="half an ans")
        await attempt.stop.wait()
        assert attempt.stop_reason == attempt_pb2.STOP_REASON_INTERRUPT
        attempt.calls.append(usage_of(tokens=3))
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(tokens=150), heartbeat=BEAT) as stream,
    ):
        async for item in stream:
            if isinstance(item, attempt_pb2.AttemptProgress) and item.text:
                stream.stop(attempt_pb2.STOP_REASON_INTERRUPT, "the user is in a hurry")
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    result = stream.outcome.result
    assert result.state == attempt_pb2.ATTEMPT_STATE_PARTIAL
    assert list(result.calls) == [usage_of(tokens=3)]
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_CANCELLED
    assert result.failure.role == common_pb2.ROLE_WORKER
    assert setup.reports.taken == []


async def test_what_work_says_of_its_interruption_stands() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        cancelled = common_pb2.FAILURE_CLASS_CANCELLED
        failure = common_pb2.Failure(failure_class=cancelled, message="3 of 8 items are done")
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL, failure=failure)

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        async for _ in stream:
            stream.stop(attempt_pb2.STOP_REASON_INTERRUPT)
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    assert stream.outcome.result.failure.message == "3 of 8 items are done"


async def test_asking_after_a_stop_raises_and_spends_nothing() -> None:
    reasons: list[int] = []

    async def work(start: Any, attempt: Attempt) -> Result:
        try:
            await attempt.ask(intent())
        except AttemptStopped as stopped:
            reasons.append(stopped.reason)
        await attempt.ask(intent(call=2))
        raise AssertionError("not reached")

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        intents = 0
        async for item in stream:
            if isinstance(item, attempt_pb2.CallIntent):
                intents += 1
                stream.stop(attempt_pb2.STOP_REASON_CANCEL)
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    assert reasons == [attempt_pb2.STOP_REASON_CANCEL]
    assert intents == 1
    assert stream.outcome.result.state == FAILED


async def test_work_that_ignores_a_stop_is_cut_off_and_its_calls_are_kept() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        attempt.calls.append(usage_of(tokens=9))
        attempt.progress(phase="deaf")
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    async with (
        worker(work, timing=replace(PATIENT, stop_grace=0.2)) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        async for item in stream:
            if isinstance(item, attempt_pb2.AttemptProgress) and item.phase == "deaf":
                stream.stop(attempt_pb2.STOP_REASON_CANCEL)
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    assert stream.outcome.result.state == FAILED
    assert list(stream.outcome.result.calls) == [usage_of(tokens=9)]


async def test_work_that_cannot_be_ended_brings_no_result_that_lacks_its_running_call() -> None:
    release = asyncio.Event()

    async def work(start: Any, attempt: Attempt) -> Result:
        attempt.calls.append(usage_of(tokens=9))
        attempt.progress(phase="deaf")
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return Result(state=FAILED)

    try:
        async with (
            worker(work, timing=replace(PATIENT, stop_grace=0.2, cancel_grace=0.2)) as setup,
            execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
        ):
            async for item in stream:
                if isinstance(item, attempt_pb2.AttemptProgress) and item.phase == "deaf":
                    stream.stop(attempt_pb2.STOP_REASON_CANCEL)
            assert isinstance(stream.outcome, Lost)
            assert stream.outcome.admitted
            assert setup.reports.taken == []
    finally:
        release.set()


async def test_an_attempt_stops_when_its_time_is_up() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        assert attempt.time_left() == 0
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(time_left=0.15), heartbeat=BEAT) as stream,
    ):
        await _read_all(stream)
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    assert stream.outcome.result.failure.failure_class == common_pb2.FAILURE_CLASS_TIMEOUT


async def test_without_heartbeats_the_attempt_stops_and_the_result_is_reported() -> None:
    stopped = asyncio.Event()

    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        stopped.set()
        attempt.calls.append(usage_of(tokens=5))
        # Work cannot tell a lost driver from an interrupt; what it says is corrected.
        cancelled = common_pb2.FAILURE_CLASS_CANCELLED
        failure = common_pb2.Failure(failure_class=cancelled, message="interrupted")
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL, failure=failure)

    async with (
        worker(work, timing=replace(PATIENT, heartbeat=0.3)) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=3600) as stream,
    ):
        reading = asyncio.create_task(_read_all(stream))
        await asyncio.wait_for(stopped.wait(), 30)
        await until(lambda: setup.reports.taken)
        reading.cancel()
        await asyncio.wait({reading})
    ((_, result),) = setup.reports.taken
    assert list(result.calls) == [usage_of(tokens=5)]
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert result.handed_over


async def test_heartbeats_keep_an_attempt_alive_past_the_limit() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        await asyncio.sleep(2.0)
        assert not attempt.stop.is_set()
        return succeeded()

    async with (
        worker(work, timing=replace(PATIENT, heartbeat=1.0)) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        assert [item async for item in stream]
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    assert stream.outcome.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED


async def test_a_result_that_is_not_acknowledged_is_reported() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        attempt.calls.append(usage_of())
        return succeeded()

    async with (
        worker(work, timing=replace(PATIENT, ack=0.2)) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        assert [item async for item in stream]
        assert isinstance(stream.outcome, Finished)
        await until(lambda: setup.reports.taken)
    ((ref, result),) = setup.reports.taken
    assert ref.task_uid == "1.1"
    assert result == stream.outcome.result


async def test_a_cancelled_rpc_stops_the_work_and_its_usage_is_reported() -> None:
    started = asyncio.Event()

    async def work(start: Any, attempt: Attempt) -> Result:
        started.set()
        await attempt.stop.wait()
        attempt.calls.append(usage_of(tokens=11))
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    async with worker(work) as setup:
        stream = execute_stream(setup.channel, start_of(), heartbeat=BEAT)

        async def drive() -> None:
            async with stream:
                await _read_all(stream)

        driver = asyncio.create_task(drive())
        await started.wait()
        driver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driver
        await until(lambda: setup.reports.taken and not setup.slots.running)
    ((_, result),) = setup.reports.taken
    assert list(result.calls) == [usage_of(tokens=11)]
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert result.handed_over


async def test_leaving_the_block_hangs_up() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    async with worker(work) as setup:
        stream = execute_stream(setup.channel, start_of(), heartbeat=BEAT)
        async with stream:
            await anext(aiter(stream))
        await until(lambda: setup.reports.taken)  # long before it would miss the heartbeats


async def test_a_full_service_refuses_before_any_work_starts() -> None:
    begun: list[str] = []
    release = asyncio.Event()

    async def work(start: Any, attempt: Attempt) -> Result:
        begun.append(attempt.ref.task_uid)
        await release.wait()
        return succeeded()

    async with (
        worker(work, limit=1) as setup,
        execute_stream(setup.channel, start_of(task_uid="1.1"), heartbeat=BEAT) as first,
    ):
        await anext(aiter(first))
        assert first.admitted
        async with execute_stream(setup.channel, start_of(task_uid="1.2"), heartbeat=BEAT) as full:
            assert [item async for item in full] == []
            assert isinstance(full.outcome, Refused)
            assert full.outcome.retry_after == 1.0
        assert setup.slots.refused == 1
        release.set()
        await _read_all(first)
        first.ack()
        await until(lambda: not setup.slots.running)
        async with execute_stream(setup.channel, start_of(task_uid="1.3"), heartbeat=BEAT) as third:
            assert [item async for item in third]
            assert isinstance(third.outcome, Finished)
            third.ack()
    assert begun == ["1.1", "1.3"]


async def test_a_higher_epoch_stops_the_attempts_of_a_lower_one() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        if attempt.ref.epoch == 1:
            await attempt.stop.wait()
            assert attempt.stop_reason == attempt_pb2.STOP_REASON_FENCED
            attempt.calls.append(usage_of(tokens=2))
            return Result(state=FAILED)
        return succeeded()

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(epoch=1), heartbeat=BEAT) as zombie,
    ):
        zombie_items = aiter(zombie)
        await anext(zombie_items)
        async with execute_stream(
            setup.channel, start_of(epoch=2, task_uid="1.2"), heartbeat=BEAT
        ) as rightful:
            assert [item async for item in rightful]
            assert isinstance(rightful.outcome, Finished)
            rightful.ack()
        assert [item async for item in zombie_items] == []
        assert isinstance(zombie.outcome, Lost)
        assert zombie.outcome.fenced
        # Nor does a zombie get a new place.
        async with execute_stream(
            setup.channel, start_of(epoch=1, task_uid="1.9"), heartbeat=BEAT
        ) as late:
            assert [item async for item in late] == []
            assert isinstance(late.outcome, Lost)
            assert late.outcome.fenced
        await until(lambda: setup.reports.taken)
    ((ref, result),) = setup.reports.taken
    assert ref.epoch == 1
    assert list(result.calls) == [usage_of(tokens=2)]


async def test_the_same_attempt_is_not_run_twice_at_once() -> None:
    begun: list[str] = []

    async def work(start: Any, attempt: Attempt) -> Result:
        begun.append(attempt.ref.task_uid)
        await attempt.stop.wait()
        return succeeded()

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as first,
    ):
        await anext(aiter(first))
        async with execute_stream(setup.channel, start_of(), heartbeat=BEAT) as again:
            assert [item async for item in again] == []
            assert isinstance(again.outcome, Lost)
    assert begun == ["1.1"]


@pytest.mark.parametrize(
    ("raised", "failure_class"),
    [
        (
            errors.CallFailed("slow down", common_pb2.FAILURE_CLASS_RATE_LIMITED, retry_after=2.5),
            common_pb2.FAILURE_CLASS_RATE_LIMITED,
        ),
        (errors.Unavailable("the MetaAgent is away"), common_pb2.FAILURE_CLASS_TRANSIENT),
        (errors.DeadlinePassed("too late"), common_pb2.FAILURE_CLASS_TIMEOUT),
        (errors.NotFound("no such document"), common_pb2.FAILURE_CLASS_INTERNAL),
        (ZeroDivisionError("secret inner text"), common_pb2.FAILURE_CLASS_INTERNAL),
    ],
)
async def test_what_work_raises_becomes_a_failed_result_with_its_calls(
    raised: Exception, failure_class: int
) -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        attempt.calls.append(usage_of(tokens=1))
        raise raised

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        assert [item async for item in stream]
        assert isinstance(stream.outcome, Finished)
        stream.ack()
    result = stream.outcome.result
    assert result.state == FAILED
    assert result.failure.failure_class == failure_class
    assert list(result.calls) == [usage_of(tokens=1)]
    assert "secret" not in result.failure.message
    if isinstance(raised, errors.CallFailed):
        assert result.failure.retry_after.ToNanoseconds() == 2.5e9


async def test_all_text_arrives_before_the_result_with_gapless_offsets() -> None:
    words = [f"wört{n} " for n in range(400)]

    async def work(start: Any, attempt: Attempt) -> Result:
        for n, word in enumerate(words):
            attempt.progress(call=1, text=word)
            if n % 100 == 0:
                await asyncio.sleep(0.03)
        return succeeded()

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream,
    ):
        text, reports = "", 0
        async for item in stream:
            assert isinstance(item, attempt_pb2.AttemptProgress)
            assert item.offset == len(text)
            text += item.text
            reports += 1
        stream.ack()
    assert text == "".join(words)
    assert reports < 20


async def test_fragments_arrive_in_order_between_reports() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        for index in range(1, 201):
            await attempt.emit(analyst_pb2.PlanFragment(index=index))
        return Result(
            state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, plan=attempt_pb2.PlanOutcome(tasks=200)
        )

    servicer = ScriptedAnalyst(work, Slots(1), Reports(), PATIENT)
    start = analyst_pb2.PlanStart(attempt=start_of().attempt)
    async with (
        serving(lambda s: analyst_pb2_grpc.add_AnalystServiceServicer_to_server(servicer, s)) as ch,
        plan_stream(ch, start, heartbeat=BEAT) as stream,
    ):
        seen = [item.index async for item in stream if isinstance(item, analyst_pb2.PlanFragment)]
        stream.ack()
    assert seen == list(range(1, 201))


@pytest.mark.parametrize(
    ("start", "field"),
    [
        (start_of(job_id=""), "start.attempt.ref.job_id"),
        (start_of(task_uid=""), "start.attempt.ref.task_uid"),
        (start_of(attempt=0), "start.attempt.ref.attempt"),
        (start_of(time_left=0), "start.attempt.time_left"),
    ],
)
async def test_a_start_without_its_essentials_is_refused_by_field(start: Any, field: str) -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        raise AssertionError("not reached")

    async with (
        worker(work) as setup,
        execute_stream(setup.channel, start, heartbeat=BEAT) as stream,
    ):
        assert [item async for item in stream] == []
        assert isinstance(stream.outcome, Lost)
        assert field in stream.outcome.message


async def test_a_stream_whose_first_frame_is_missing_ends_with_a_clear_status() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        raise AssertionError("not reached")

    async with worker(work, timing=replace(PATIENT, start=0.2)) as setup:
        silent: Any = worker_pb2_grpc.WorkerServiceStub(setup.channel).Execute()
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await silent.read()
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        closed: Any = worker_pb2_grpc.WorkerServiceStub(setup.channel).Execute()
        await closed.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as empty:
            await closed.read()
        assert empty.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_to_nobody_is_lost_and_not_refused() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        raise AssertionError("not reached")

    async with worker(work) as setup:
        channel = setup.channel
        target = grpc.aio.insecure_channel("127.0.0.1:1")
    async with target, execute_stream(target, start_of(), heartbeat=BEAT) as stream:
        assert [item async for item in stream] == []
        assert isinstance(stream.outcome, Lost)
        assert stream.outcome.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
        assert not stream.outcome.admitted
    assert channel is not None


async def test_leaving_the_slots_stops_what_runs_and_reports_it() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        attempt.calls.append(usage_of(tokens=4))
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    async with worker(work, timing=replace(PATIENT, ack=0.2)) as setup:
        stream = execute_stream(setup.channel, start_of(), heartbeat=BEAT)
        async with stream:
            await anext(aiter(stream))
            await setup.slots.__aexit__(None, None, None)
            assert not setup.slots.running
    ((_, result),) = setup.reports.taken
    assert list(result.calls) == [usage_of(tokens=4)]


async def test_no_call_starts_before_the_driver_has_heard_of_the_service() -> None:
    granted: list[attempt_pb2.Grant] = []

    async def work(start: Any, attempt: Attempt) -> Result:
        granted.append(await attempt.ask(intent(prompt=100, most=50)))
        return succeeded()

    async with worker(work) as setup:
        call: Any = worker_pb2_grpc.WorkerServiceStub(setup.channel).Execute()
        await call.write(worker_pb2.ExecuteRequest(start=start_of(tokens=150)))
        while not (await call.read()).report.HasField("intent"):
            pass
        await asyncio.sleep(0.05)
        assert granted == []
        beat = attempt_pb2.AttemptControl(heartbeat=attempt_pb2.Heartbeat(sequence=1))
        await call.write(worker_pb2.ExecuteRequest(control=beat))
        await until(lambda: granted)
        call.cancel()


async def test_a_driver_says_nothing_more_until_it_has_heard_of_the_service() -> None:
    seen: list[str] = []
    speak = asyncio.Event()

    class Mute(worker_pb2_grpc.WorkerServiceServicer):
        async def Execute(self, request_iterator: Any, context: Any) -> Any:
            async def listen() -> None:
                async for request in request_iterator:
                    seen.append(request.control.WhichOneof("control") or "start")

            listening = asyncio.create_task(listen())
            await speak.wait()
            report = attempt_pb2.AttemptReport(progress=attempt_pb2.AttemptProgress(phase="here"))
            yield worker_pb2.ExecuteResponse(report=report)
            await listening

    async with (
        serving(
            lambda s: worker_pb2_grpc.add_WorkerServiceServicer_to_server(Mute(), s)
        ) as channel,
        execute_stream(channel, start_of(), heartbeat=BEAT) as stream,
    ):
        reading = asyncio.create_task(_read_all(stream))
        stream.grant(attempt_pb2.Grant(call=1, tokens=1))
        await asyncio.sleep(3 * BEAT)
        assert seen == ["start"]
        speak.set()
        await until(lambda: seen.count("heartbeat") >= 3)
        assert "grant" in seen
        reading.cancel()
        await asyncio.wait({reading})


async def test_a_service_that_reads_nothing_is_given_up_instead_of_piling_up() -> None:
    class Deaf(worker_pb2_grpc.WorkerServiceServicer):
        async def Execute(self, request_iterator: Any, context: Any) -> Any:
            report = attempt_pb2.AttemptReport(progress=attempt_pb2.AttemptProgress(phase="here"))
            yield worker_pb2.ExecuteResponse(report=report)
            await asyncio.Event().wait()

    async with (
        serving(
            lambda s: worker_pb2_grpc.add_WorkerServiceServicer_to_server(Deaf(), s)
        ) as channel,
        execute_stream(channel, start_of(), heartbeat=3600) as stream,
    ):
        reading = asyncio.create_task(_read_all(stream))
        await until(lambda: stream.admitted)
        for call in range(100_000):
            stream.grant(attempt_pb2.Grant(call=call, reason="x" * 1000))
            if call % 50 == 0:
                await asyncio.sleep(0)
            if reading.done():
                break
        await asyncio.wait_for(reading, 30)
        assert isinstance(stream.outcome, Lost)
        assert "does not read" in stream.outcome.message


async def test_a_process_that_ends_refuses_new_attempts() -> None:
    async def work(start: Any, attempt: Attempt) -> Result:
        raise AssertionError("not reached")

    async with worker(work) as setup:
        await setup.slots.__aexit__(None, None, None)
        async with execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream:
            await _read_all(stream)
            assert isinstance(stream.outcome, Refused)
            assert stream.outcome.retry_after == 1.0


async def test_places_are_exported() -> None:
    registry = CollectorRegistry()
    Slots(7, registry=registry)
    assert registry.get_sample_value("hma_attempts_limit") == 7
    assert registry.get_sample_value("hma_attempts_running") == 0
    assert registry.get_sample_value("hma_attempts_refused") == 0


async def test_a_drain_lets_attempts_end_and_brings_the_rest_home_in_band() -> None:
    finish = asyncio.Event()

    async def work(start: Any, attempt: Attempt) -> Result:
        if start.task.title == "quick":
            await finish.wait()
            return succeeded()
        await attempt.stop.wait()
        attempt.calls.append(usage_of(1, 9))
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    quick, slow = start_of(task_uid="1.1"), start_of(task_uid="1.2")
    quick.task.title = "quick"
    async with (
        worker(work) as setup,
        execute_stream(setup.channel, quick, heartbeat=BEAT) as first,
        execute_stream(setup.channel, slow, heartbeat=BEAT) as second,
    ):

        async def read(stream: Any) -> Result:
            await _read_all(stream)
            assert isinstance(stream.outcome, Finished)
            stream.ack()
            return stream.outcome.result

        reading = [asyncio.create_task(read(stream)) for stream in (first, second)]
        await until(lambda: setup.slots.running == 2)
        handing = asyncio.create_task(setup.slots.hand_over(8))
        finish.set()
        whole, result = await asyncio.gather(*reading)
        await asyncio.wait_for(handing, 30)
        assert setup.slots.running == 0
        assert whole.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        # What was spent is known, and another place may go on: it is no cancellation.
        assert [call.usage.completion_tokens for call in result.calls] == [9]
        assert result.failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
        assert (result.handed_over, whole.handed_over) == (True, False)
        assert setup.reports.taken == []


async def test_work_that_ends_only_after_the_drain_was_handed_over_all_the_same() -> None:
    unwind = asyncio.Event()

    async def work(_start: Any, attempt: Attempt) -> Result:
        await attempt.stop.wait()
        await unwind.wait()
        return Result(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)

    async with worker(work) as setup:
        async with execute_stream(setup.channel, start_of(), heartbeat=BEAT) as stream:
            await anext(aiter(stream))
            await setup.slots.hand_over(0.2)
        # Its stream is cut; the process waits for it when its places are closed.
        leaving = asyncio.create_task(setup.slots.__aexit__(None, None, None))
        await asyncio.sleep(0)
        unwind.set()
        await leaving
        [(_, result)] = setup.reports.taken
    assert result.failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert result.handed_over
