from __future__ import annotations

import asyncio
import contextlib
import urllib.request

import pytest

from hma.telemetry.metrics import MetricsServer
from hma.v1 import attempt_pb2, common_pb2, job_pb2, task_pb2
from services.meta_agent.job.apply import apply
from services.meta_agent.job.state import JobFold
from services.meta_agent.recording.fleet_metrics import FleetCounters, FleetPage
from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.store import Store, open_store


def usage(call: int, prompt: int, cached: int, completion: int) -> attempt_pb2.CallUsage:
    counted = common_pb2.Usage(
        prompt_tokens=prompt,
        cached_prompt_tokens=cached,
        completion_tokens=completion,
        reasoning_tokens=completion // 2,
    )
    return attempt_pb2.CallUsage(call=call, route="fast", usage=counted)


class Job:
    """A job whose events are folded and counted, as a driver does."""

    def __init__(self, job_id: str) -> None:
        self.fold = JobFold()
        self.job_id = job_id
        self.time = 1_000.0
        self.ref = attempt_pb2.AttemptRef(job_id=job_id, epoch=1, task_uid="1.1", attempt=1)

    def say(self, counters: FleetCounters | None, epoch: int = 0, **payload: object) -> None:
        event = job_pb2.JobEvent(
            job_id=self.job_id,
            sequence=self.fold.version + 1,
            epoch=epoch,
            **payload,  # type: ignore[arg-type]
        )
        event.time.FromMicroseconds(round(self.time * 1e6))
        before, self.fold = self.fold, apply(self.fold, event)
        if counters is not None:
            counters.observe(event, before, self.fold)

    def start(self, counters: FleetCounters) -> None:
        self.say(counters, job_created=job_pb2.JobCreated(tenant="acme"))
        self.say(counters, job_claimed=job_pb2.JobClaimed(epoch=1))
        task = task_pb2.Task(id="a")
        self.say(counters, task_admitted=job_pb2.TaskAdmitted(task_uid="1.1", task=task))
        started = job_pb2.AttemptStarted(ref=self.ref, role=common_pb2.ROLE_WORKER, route="fast")
        self.say(counters, attempt_started=started)

    def end(self, counters: FleetCounters) -> None:
        """The second call, the first again, a failure, and the end after 3 s."""
        result = attempt_pb2.AttemptResult(
            state=attempt_pb2.ATTEMPT_STATE_PARTIAL,
            calls=[usage(1, 100, 40, 10), usage(2, 50, 0, 4)],
            failure=common_pb2.Failure(failure_class=common_pb2.FAILURE_CLASS_TIMEOUT),
        )
        self.say(counters, attempt_finished=job_pb2.AttemptFinished(ref=self.ref, result=result))
        self.time += 3
        partial = job_pb2.TASK_STATE_PARTIAL
        self.say(counters, task_settled=job_pb2.TaskSettled(task_uid="1.1", state=partial))
        finished = job_pb2.JobFinished(state=job_pb2.JOB_STATE_PARTIAL)
        self.say(counters, job_finished=finished)


def names(counters: FleetCounters) -> dict[str, float]:
    return {
        " ".join([name, *(f"{key}={value}" for key, value in labels)]): value
        for (name, labels), value in counters.take().items()
    }


def test_each_token_is_counted_once_and_the_classes_add_up() -> None:
    counters, job = FleetCounters(), Job("j")
    job.start(counters)
    job.say(counters, call_settled=job_pb2.CallSettled(ref=job.ref, call=usage(1, 100, 40, 10)))
    assert names(counters) == {
        "hma_tokens_total class=prompt role=worker route=fast tenant=acme": 60,
        "hma_tokens_total class=cached_prompt role=worker route=fast tenant=acme": 40,
        "hma_tokens_total class=completion role=worker route=fast tenant=acme": 5,
        "hma_tokens_total class=reasoning role=worker route=fast tenant=acme": 5,
    }
    job.end(counters)
    assert names(counters) == {
        "hma_tokens_total class=prompt role=worker route=fast tenant=acme": 50,
        "hma_tokens_total class=completion role=worker route=fast tenant=acme": 2,
        "hma_tokens_total class=reasoning role=worker route=fast tenant=acme": 2,
        "hma_worker_errors_total class=TIMEOUT tenant=acme": 1,
        "hma_task_duration_seconds_sum": 3,
        "hma_task_duration_seconds_bucket le=5": 1,
        "hma_jobs_finished_total state=PARTIAL tenant=acme": 1,
    }


@pytest.mark.parametrize("way", ["lost", "reported"])
def test_the_death_of_a_driver_is_no_error_of_a_worker(way: str) -> None:
    counters, job = FleetCounters(), Job("j")
    job.start(counters)
    names(counters)
    job.say(counters, job_claimed=job_pb2.JobClaimed(epoch=2))
    if way == "lost":
        job.say(counters, 2, attempt_lost=job_pb2.AttemptLost(ref=job.ref))
    else:
        result = attempt_pb2.AttemptResult(
            state=attempt_pb2.ATTEMPT_STATE_FAILED,
            failure=common_pb2.Failure(failure_class=common_pb2.FAILURE_CLASS_TRANSIENT),
            handed_over=True,
        )
        job.say(counters, attempt_reported=job_pb2.AttemptReported(ref=job.ref, result=result))
    assert names(counters) == {}


def test_a_driver_that_takes_over_counts_only_what_is_new() -> None:
    first, second, job = FleetCounters(), FleetCounters(), Job("j")
    job.start(first)
    job.say(first, call_settled=job_pb2.CallSettled(ref=job.ref, call=usage(1, 100, 0, 10)))
    job.say(second, job_claimed=job_pb2.JobClaimed(epoch=2))
    job.say(second, call_settled=job_pb2.CallSettled(ref=job.ref, call=usage(2, 7, 0, 0)))
    assert names(second) == {"hma_tokens_total class=prompt role=worker route=fast tenant=acme": 7}


async def page_of(store: Store, counters: FleetCounters) -> str:
    """The /fleet page of a replica, after it has written what it counted."""
    page = FleetPage(counters, store.fleet, store.jobs)
    await page.flush()
    with MetricsServer("127.0.0.1", 0, {"/fleet": page}) as server:
        url = f"http://127.0.0.1:{server.port}/fleet"
        response = await asyncio.to_thread(urllib.request.urlopen, url, timeout=30)
        return str(response.read().decode())


async def test_every_replica_serves_the_sum_of_all(postgres_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(
                open_store(postgres_url, replica_id=new_replica_id(n), address="127.0.0.1:1")
            )
            for n in "ab"
        ]
        counted = [FleetCounters(), FleetCounters()]
        for number, counters in enumerate(counted):
            job = Job(f"j{number}")
            job.start(counters)
            job.end(counters)
        for store, counters in zip(stores, counted, strict=True):
            await page_of(store, counters)
        pages = [await page_of(store, FleetCounters()) for store in stores]
    for page in pages:
        assert (
            'hma_tokens_total{class="prompt",role="worker",route="fast",tenant="acme"} 220.0'
            in page
        )
        assert 'hma_worker_errors_total{class="TIMEOUT",tenant="acme"} 2.0' in page
        assert 'hma_task_duration_seconds_bucket{le="2.5"} 0.0' in page
        assert 'hma_task_duration_seconds_bucket{le="+Inf"} 2.0' in page
        assert "hma_task_duration_seconds_count 2.0" in page
        assert "hma_task_duration_seconds_sum 6.0" in page
        assert 'hma_jobs_finished_total{state="PARTIAL",tenant="acme"} 2.0' in page
        assert 'hma_jobs{state="QUEUED"} 0.0' in page


async def test_what_was_counted_last_is_written_on_leaving(postgres_url: str) -> None:
    async with open_store(
        postgres_url, replica_id=new_replica_id("a"), address="127.0.0.1:1"
    ) as store:
        counters, job = FleetCounters(), Job("j")
        async with FleetPage(counters, store.fleet, store.jobs, interval=60):
            await asyncio.sleep(0)
            job.start(counters)
            job.end(counters)
        assert sum(v for (n, _), v in (await store.fleet.totals()).items() if "tokens" in n) == 164
