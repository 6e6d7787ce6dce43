"""Serves Plan, Execute and Reduce: one attempt per stream.

    class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
        async def Execute(self, request_iterator, context):
            async for response in serve_attempt(
                request_iterator,
                context,
                start_of=lambda request: request.start,
                wrap_report=lambda report: ExecuteResponse(report=report),
                work=self._work,
                limiter=self._slots,
                reporter=self._reporter,
                role=ROLE_WORKER,
            ):
                yield response

The driver starts it, beats every second, grants call by call, may stop it, and
acknowledges the result after its commit. The service refuses before it has done
anything, reports each call's maximum before the call, and keeps the result until
it is acknowledged on the stream or taken by `InternalService.ReportAttempt`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from hma import errors
from hma.rpc.errors import abort
from hma.rpc.reporter import ReportSink
from hma.rpc.session import AttemptSession, AttemptTiming, ControlFrame, StartT, Work
from hma.rpc.slots import Slots
from hma.v1 import analyst_pb2, attempt_pb2, common_pb2

__all__ = ["AttemptTiming", "serve_attempt"]

RequestT = TypeVar("RequestT", bound=ControlFrame)
ResponseT = TypeVar("ResponseT")


async def serve_attempt(
    requests: AsyncIterable[RequestT],
    context: grpc.aio.ServicerContext[Any, Any],
    *,
    start_of: Callable[[RequestT], StartT],
    wrap_report: Callable[[attempt_pb2.AttemptReport], ResponseT],
    wrap_fragment: Callable[[analyst_pb2.PlanFragment], ResponseT] | None = None,
    work: Work[StartT],
    limiter: Slots,
    reporter: ReportSink,
    role: common_pb2.Role.ValueType,
    timing: AttemptTiming | None = None,
) -> AsyncIterator[ResponseT]:
    """Serves one attempt; yields the responses to send.

    Args:
        requests: The RPC's request iterator.
        context: The RPC's context.
        start_of: The role's start message, of a frame whose `frame` is start.
        wrap_report: Makes a response of a report.
        wrap_fragment: Makes a response of a plan fragment; Analyst only.
        work: Does the work. Its exceptions become a FAILED result; `attempt.calls`
            becomes `result.calls` in every case.
        limiter: The places of this process. Full: the RPC is refused with
            RESOURCE_EXHAUSTED before anything is done.
        reporter: Takes results that were not acknowledged.
        role: The role that works.
        timing: The protocol's times.

    Raises:
        grpc.aio.AbortError: The attempt was refused or fenced.
    """
    timing = timing or AttemptTiming()
    frames = aiter(requests)
    try:
        first = await _first(frames, timing.start)
        start = start_of(first)
        _check(start.attempt)
        session = AttemptSession(start, frames, work, reporter=reporter, role=role, timing=timing)
        limiter.start(session)
    except errors.HmaError as error:
        await abort(context, error)

    # The RPC may end while this generator is suspended in a yield.
    context.add_done_callback(lambda _: session.stream_ended())  # type: ignore[arg-type]
    try:
        async for frame in session.outbox.frames():
            if isinstance(frame, attempt_pb2.AttemptReport):
                yield wrap_report(frame)
            elif wrap_fragment is not None:
                yield wrap_fragment(frame)
    finally:
        session.stream_ended()
    if session.error is not None:
        await abort(context, session.error)


async def _first(frames: AsyncIterator[RequestT], timeout: float) -> RequestT:
    try:
        async with asyncio.timeout(timeout):
            first = await anext(frames)
    except TimeoutError:
        raise errors.DeadlinePassed(f"no start frame within {timeout:g} s") from None
    except StopAsyncIteration:
        raise errors.InvalidRequest.field("frame", "the first frame must be start") from None
    if first.WhichOneof("frame") != "start":
        raise errors.InvalidRequest.field("frame", "the first frame must be start")
    return first


def _check(start: attempt_pb2.AttemptStart) -> None:
    path = "start.attempt"
    faults = [
        (not start.ref.job_id, f"{path}.ref.job_id", "must not be empty"),
        (not start.ref.task_uid, f"{path}.ref.task_uid", "must not be empty"),
        (start.ref.attempt < 1, f"{path}.ref.attempt", "must be 1 or more"),
        (start.time_left.ToNanoseconds() <= 0, f"{path}.time_left", "must be more than 0 s"),
    ]
    violations = [errors.FieldViolation(field, text) for wrong, field, text in faults if wrong]
    if violations:
        raise errors.InvalidRequest(violations)
