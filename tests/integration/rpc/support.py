"""Real servers on loopback, with scripted work and a scripted MetaAgent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from hma.rpc.attempt import Attempt
from hma.rpc.attempt_server import AttemptTiming, serve_attempt
from hma.rpc.channel import open_channel
from hma.rpc.interceptor import AccessMetrics, RpcInterceptor
from hma.rpc.slots import Slots
from hma.v1 import (
    analyst_pb2,
    analyst_pb2_grpc,
    attempt_pb2,
    common_pb2,
    meta_agent_pb2,
    meta_agent_pb2_grpc,
    task_pb2,
    worker_pb2,
    worker_pb2_grpc,
)

BEAT = 0.03
# Nothing here ends because the machine is slow; a test says which time is to pass.
PATIENT = AttemptTiming(
    start=60, heartbeat=60, ack=60, stop_grace=60, cancel_grace=60, progress=0.02
)
Work = Callable[[Any, Attempt], Awaitable[attempt_pb2.AttemptResult]]


@dataclass
class Reports:
    """Keeps what is reported."""

    taken: list[tuple[attempt_pb2.AttemptRef, attempt_pb2.AttemptResult]] = field(
        default_factory=list
    )

    def report(
        self,
        ref: attempt_pb2.AttemptRef,
        result: attempt_pb2.AttemptResult,
        role: common_pb2.Role.ValueType,
    ) -> None:
        assert role == common_pb2.ROLE_WORKER
        self.taken.append((ref, result))


class ScriptedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Serves Execute with the given work."""

    def __init__(self, work: Work, slots: Slots, reports: Reports, timing: AttemptTiming) -> None:
        self.work, self.slots, self.reports, self.timing = work, slots, reports, timing

    async def Execute(self, request_iterator: Any, context: Any) -> Any:
        async for response in serve_attempt(
            request_iterator,
            context,
            start_of=lambda request: request.start,
            wrap_report=lambda report: worker_pb2.ExecuteResponse(report=report),
            work=self.work,
            limiter=self.slots,
            reporter=self.reports,
            role=common_pb2.ROLE_WORKER,
            timing=self.timing,
        ):
            yield response


class ScriptedAnalyst(analyst_pb2_grpc.AnalystServiceServicer):
    """Serves Plan with the given work."""

    def __init__(self, work: Work, slots: Slots, reports: Reports, timing: AttemptTiming) -> None:
        self.work, self.slots, self.reports, self.timing = work, slots, reports, timing

    async def Plan(self, request_iterator: Any, context: Any) -> Any:
        async for response in serve_attempt(
            request_iterator,
            context,
            start_of=lambda request: request.start,
            wrap_report=lambda report: analyst_pb2.PlanResponse(report=report),
            wrap_fragment=lambda fragment: analyst_pb2.PlanResponse(fragment=fragment),
            work=self.work,
            limiter=self.slots,
            reporter=self.reports,
            role=common_pb2.ROLE_WORKER,
            timing=self.timing,
        ):
            yield response


class ScriptedInternal(meta_agent_pb2_grpc.InternalServiceServicer):
    """A MetaAgent that first fails as often as it is told, and serves documents."""

    def __init__(self, *, failures: list[grpc.StatusCode] | None = None) -> None:
        self.failures = failures or []
        self.reports: list[meta_agent_pb2.ReportAttemptRequest] = []
        self.tries = 0
        self.documents: dict[tuple[str, str], bytes] = {}
        self.reads = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def ReportAttempt(self, request: Any, context: Any) -> Any:
        self.tries += 1
        if self.failures:
            await context.abort(self.failures.pop(0), "scripted")
        self.reports.append(request)
        return meta_agent_pb2.ReportAttemptResponse(recorded=True)

    async def WatchProgress(self, request: Any, context: Any) -> Any:
        raise NotImplementedError
        yield

    async def ReserveRoute(self, request: Any, context: Any) -> Any:
        return meta_agent_pb2.ReserveRouteResponse(granted=True)

    async def ReadDocument(self, request: Any, context: Any) -> Any:
        self.reads += 1
        await self.hold.wait()
        if self.failures:
            await context.abort(self.failures.pop(0), "scripted")
        content = self.documents[request.job_id, request.document_id]
        for start in range(0, len(content), 5):
            yield meta_agent_pb2.ReadDocumentResponse(chunk=content[start : start + 5])


@asynccontextmanager
async def serving(
    *register: Callable[[grpc.aio.Server], None],
    registry: CollectorRegistry | None = None,
    intercepted: bool = True,
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with the given servicers."""
    metrics = AccessMetrics(registry or CollectorRegistry())
    server = grpc.aio.server(interceptors=[RpcInterceptor(metrics)] if intercepted else [])
    for each in register:
        each(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


@dataclass
class WorkerSetup:
    """A served worker and what it reports."""

    channel: grpc.aio.Channel
    slots: Slots
    reports: Reports


@asynccontextmanager
async def worker(
    work: Work, *, limit: int = 4, timing: AttemptTiming = PATIENT
) -> AsyncIterator[WorkerSetup]:
    """A worker whose tasks do `work`."""
    reports = Reports()
    async with Slots(limit, grace=2) as slots:
        servicer = ScriptedWorker(work, slots, reports, timing)
        async with serving(
            lambda server: worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
        ) as channel:
            yield WorkerSetup(channel, slots, reports)


def start_of(
    *,
    job_id: str = "job-1",
    task_uid: str = "1.1",
    epoch: int = 1,
    attempt: int = 1,
    time_left: float = 30,
    tokens: int = 0,
) -> worker_pb2.ExecuteStart:
    """A start frame for a Worker."""
    start = worker_pb2.ExecuteStart()
    start.attempt.ref.job_id = job_id
    start.attempt.ref.task_uid = task_uid
    start.attempt.ref.epoch = epoch
    start.attempt.ref.attempt = attempt
    start.attempt.route = "fast"
    start.attempt.time_left.FromNanoseconds(int(time_left * 1e9))
    if tokens:
        start.attempt.grant.call = 1
        start.attempt.grant.tokens = tokens
    return start


def intent(
    call: int = 1, prompt: int = 100, most: int = 50, least: int = 10
) -> attempt_pb2.CallIntent:
    """An intent."""
    return attempt_pb2.CallIntent(
        call=call,
        prompt_tokens=prompt,
        max_completion_tokens=most,
        min_completion_tokens=least,
        purpose=attempt_pb2.CALL_PURPOSE_WORK,
    )


def usage_of(call: int = 1, tokens: int = 7) -> attempt_pb2.CallUsage:
    """What a call cost."""
    return attempt_pb2.CallUsage(call=call, usage=common_pb2.Usage(completion_tokens=tokens))


def succeeded() -> attempt_pb2.AttemptResult:
    """A result that is whole."""
    return attempt_pb2.AttemptResult(
        state=attempt_pb2.ATTEMPT_STATE_SUCCEEDED, task=task_pb2.TaskResult(notes="done")
    )


async def until(condition: Callable[[], object], timeout: float = 30) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - any condition, also of a library
            await asyncio.sleep(0.005)
