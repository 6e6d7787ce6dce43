"""The driver's side of an attempt, used by the MetaAgent.

    async with execute_stream(channel, start) as stream:
        async for item in stream:
            match item:
                case CallIntent(): ...  # commit, then stream.grant(grant)
                case AttemptProgress(): ...
                case PlanFragment(): ...
        match stream.outcome:
            case Finished(result): ...  # commit, then stream.ack()
            case Refused(message, retry_after): ...
            case Lost(failure_class, message): ...

Leaving the block without `ack` cancels the RPC; the service then reports its result
by `InternalService.ReportAttempt`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from hma import errors
from hma.rpc.status import from_rpc_error
from hma.v1 import (
    analyst_pb2,
    analyst_pb2_grpc,
    attempt_pb2,
    common_pb2,
    reducer_pb2,
    reducer_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

_log = logging.getLogger(__name__)

RequestT = TypeVar("RequestT", covariant=True)
Item = attempt_pb2.CallIntent | attempt_pb2.AttemptProgress | analyst_pb2.PlanFragment

_MAX_QUEUED = 256
_MARGIN = 60.0
_CLOSE_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The service said its last word; acknowledge it after the commit."""

    result: attempt_pb2.AttemptResult


@dataclass(frozen=True, slots=True)
class Refused:
    """The service did nothing and spent nothing.

    Attributes:
        message: Why, for the log.
        retry_after: Seconds to wait before the next try; None when not said.
    """

    message: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream broke. What was spent is not known unless a report brings it.

    Attributes:
        failure_class: What kind of failure it is.
        message: One sentence.
        admitted: Whether the service was seen to have begun. When not, no heartbeat was
            sent, and without one a service makes no call: nothing was spent.
        fenced: Whether the service knows of a driver with a higher epoch.
    """

    failure_class: common_pb2.FailureClass.ValueType
    message: str
    admitted: bool
    fenced: bool = False


Outcome = Finished | Refused | Lost


class AttemptStream(Generic[RequestT]):
    """One attempt, as its driver sees it.

    Args:
        method: The stub's method.
        start: The first frame.
        wrap: Makes a frame of a control.
        timeout: Deadline of the whole RPC, in seconds.
        heartbeat: Interval of the heartbeat, in seconds.
    """

    def __init__(
        self,
        method: Callable[..., grpc.aio.StreamStreamCall[RequestT, Any]],
        start: RequestT,
        wrap: Callable[[attempt_pb2.AttemptControl], RequestT],
        *,
        timeout: float,
        heartbeat: float = 1.0,
    ) -> None:
        self.outcome: Outcome | None = None
        self.admitted = False
        self._method = method
        self._start = start
        self._wrap = wrap
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._queue: asyncio.Queue[attempt_pb2.AttemptControl] = asyncio.Queue(_MAX_QUEUED)
        self._call: grpc.aio.StreamStreamCall[RequestT, Any] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._acked = False
        # Why this side gave the stream up; empty while it has not.
        self._given_up = ""
        self._begun = asyncio.Event()

    def grant(self, grant: attempt_pb2.Grant) -> None:
        """Pays for one call, or denies it."""
        self._say(attempt_pb2.AttemptControl(grant=grant))

    def stop(self, reason: attempt_pb2.StopReason.ValueType, note: str = "") -> None:
        """Asks the service to end; its result, with exact usage, still comes."""
        self._say(attempt_pb2.AttemptControl(stop=attempt_pb2.Stop(reason=reason, note=note)))

    def ack(self) -> None:
        """Says that the result is committed; the last thing to say."""
        self._acked = True
        self._say(attempt_pb2.AttemptControl(ack=attempt_pb2.Ack()))

    async def __aenter__(self) -> Self:
        self._call = self._method(timeout=self._timeout)
        self._writer = asyncio.create_task(self._write(self._call), name="attempt writer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call, writer = self._opened()
        try:
            if self._acked and kind is None:
                # The service closes the stream once it has read the acknowledgement.
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await asyncio.wait({writer})
                    await call.code()
        except TimeoutError:
            _log.warning("a service did not close its stream after the acknowledgement")
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.wait({writer})

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Intents, progress and fragments until `outcome` is set. Iterate once."""
        call, _ = self._opened()
        while self.outcome is None:
            try:
                response = await call.read()
            except grpc.aio.AioRpcError as error:
                self.outcome = self._failed(error)
                return
            except asyncio.CancelledError:
                if not self._given_up or _is_cancelled():
                    raise
                self.outcome = self._lost(self._given_up)
                return
            if response is grpc.aio.EOF:
                self.outcome = self._lost("the service ended the stream without a result")
                return
            self.admitted = True
            self._begun.set()
            item = self._read(response)
            if item is not None:
                yield item

    def _read(self, response: Any) -> Item | None:
        if response.WhichOneof("frame") == "fragment":
            fragment: analyst_pb2.PlanFragment = response.fragment
            return fragment
        report: attempt_pb2.AttemptReport = response.report
        kind = report.WhichOneof("report")
        if kind == "result":
            self.outcome = Finished(report.result)
        elif kind == "intent":
            return report.intent
        elif kind == "progress":
            return report.progress
        return None

    async def _write(self, call: grpc.aio.StreamStreamCall[RequestT, Any]) -> None:
        """Start; once the service was heard of, controls, with a heartbeat in every pause."""
        loop = asyncio.get_running_loop()
        sequence = 0
        try:
            await call.write(self._start)
            # The first beat answers the sign that the attempt was admitted: it is
            # the leave to spend. An RPC that ends before that ends the iteration too.
            await self._begun.wait()
            beat_at = loop.time()
            while True:
                try:
                    async with asyncio.timeout_at(beat_at):
                        control = await self._queue.get()
                except TimeoutError:
                    sequence += 1
                    beat = attempt_pb2.Heartbeat(sequence=sequence)
                    control = attempt_pb2.AttemptControl(heartbeat=beat)
                    beat_at = loop.time() + self._heartbeat
                await call.write(self._wrap(control))
                if control.HasField("ack"):
                    await call.done_writing()
                    return
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            # The RPC has ended; whoever reads learns how.
            return
        except Exception:  # noqa: BLE001 - whoever reads would wait until the deadline
            _log.exception("writing to a stream failed")
            self._given_up = "the MetaAgent failed to write to it"
            call.cancel()

    def _say(self, control: attempt_pb2.AttemptControl) -> None:
        call, _ = self._opened()
        try:
            self._queue.put_nowait(control)
        except asyncio.QueueFull:
            self._given_up = "the service does not read what it is told"
            call.cancel()

    def _failed(self, error: grpc.aio.AioRpcError) -> Outcome:
        known = from_rpc_error(error)
        # Unavailable proves it only in HMA's own words: a broken connection proves nothing.
        full = isinstance(known, errors.Overloaded)
        ending = isinstance(known, errors.Unavailable) and known.retry_after is not None
        if not self.admitted and (full or ending):
            return Refused(known.message, getattr(known, "retry_after", None))
        failure_class = _CLASSES.get(error.code(), common_pb2.FAILURE_CLASS_INTERNAL)
        if isinstance(known, errors.CallFailed):
            failure_class = known.failure_class
        fenced = isinstance(known, errors.Fenced)
        return Lost(failure_class, known.message, self.admitted, fenced)

    def _lost(self, message: str) -> Lost:
        return Lost(common_pb2.FAILURE_CLASS_TRANSIENT, message, self.admitted)

    def _opened(self) -> tuple[grpc.aio.StreamStreamCall[RequestT, Any], asyncio.Task[None]]:
        if self._call is None or self._writer is None:
            raise RuntimeError("the stream is used outside of its `async with` block")
        return self._call, self._writer


_CLASSES = {
    grpc.StatusCode.UNAVAILABLE: common_pb2.FAILURE_CLASS_TRANSIENT,
    grpc.StatusCode.UNKNOWN: common_pb2.FAILURE_CLASS_TRANSIENT,
    grpc.StatusCode.CANCELLED: common_pb2.FAILURE_CLASS_TRANSIENT,
    grpc.StatusCode.ABORTED: common_pb2.FAILURE_CLASS_TRANSIENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: common_pb2.FAILURE_CLASS_RATE_LIMITED,
    grpc.StatusCode.DEADLINE_EXCEEDED: common_pb2.FAILURE_CLASS_TIMEOUT,
    # Keys or certificates that are just being changed: worth another try.
    grpc.StatusCode.UNAUTHENTICATED: common_pb2.FAILURE_CLASS_TRANSIENT,
    grpc.StatusCode.PERMISSION_DENIED: common_pb2.FAILURE_CLASS_AUTH,
}


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _timeout_of(start: attempt_pb2.AttemptStart) -> float:
    """Behind the attempt's own end, so that its result is not cut off."""
    return start.time_left.ToNanoseconds() / 1e9 + _MARGIN


def plan_stream(
    channel: grpc.aio.Channel, start: analyst_pb2.PlanStart, *, heartbeat: float = 1.0
) -> AttemptStream[analyst_pb2.PlanRequest]:
    """Plans a job at an Analyst."""
    return AttemptStream(
        analyst_pb2_grpc.AnalystServiceStub(channel).Plan,
        analyst_pb2.PlanRequest(start=start),
        lambda control: analyst_pb2.PlanRequest(control=control),
        timeout=_timeout_of(start.attempt),
        heartbeat=heartbeat,
    )


def execute_stream(
    channel: grpc.aio.Channel, start: worker_pb2.ExecuteStart, *, heartbeat: float = 1.0
) -> AttemptStream[worker_pb2.ExecuteRequest]:
    """Executes a task at a Worker."""
    return AttemptStream(
        worker_pb2_grpc.WorkerServiceStub(channel).Execute,
        worker_pb2.ExecuteRequest(start=start),
        lambda control: worker_pb2.ExecuteRequest(control=control),
        timeout=_timeout_of(start.attempt),
        heartbeat=heartbeat,
    )


def reduce_stream(
    channel: grpc.aio.Channel, start: reducer_pb2.ReduceStart, *, heartbeat: float = 1.0
) -> AttemptStream[reducer_pb2.ReduceRequest]:
    """Reduces results at a Reducer."""
    return AttemptStream(
        reducer_pb2_grpc.ReducerServiceStub(channel).Reduce,
        reducer_pb2.ReduceRequest(start=start),
        lambda control: reducer_pb2.ReduceRequest(control=control),
        timeout=_timeout_of(start.attempt),
        heartbeat=heartbeat,
    )
