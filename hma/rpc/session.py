"""One running attempt inside a service: work, heartbeat, time, stop, delivery."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from hma import errors
from hma.rpc.attempt import Attempt, AttemptStopped
from hma.rpc.errors import unexpected
from hma.rpc.outbox import Outbox
from hma.rpc.reporter import ReportSink
from hma.telemetry import logs
from hma.v1 import attempt_pb2, common_pb2

_log = logging.getLogger(__name__)


class Start(Protocol):
    """PlanStart, ExecuteStart or ReduceStart."""

    @property
    def attempt(self) -> attempt_pb2.AttemptStart:
        """The attempt."""


class ControlFrame(Protocol):
    """PlanRequest, ExecuteRequest or ReduceRequest."""

    @property
    def control(self) -> attempt_pb2.AttemptControl:
        """Set on all frames but the first."""

    def WhichOneof(self, oneof_group: Literal["frame"]) -> str | None:  # noqa: N802
        """Which one is set: start or control."""


StartT = TypeVar("StartT", bound=Start)
Work = Callable[[StartT, Attempt], Awaitable[attempt_pb2.AttemptResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptTiming:
    """The times of the protocol, in seconds.

    Attributes:
        start: How long the first frame may take.
        heartbeat: Without a sign of the driver for this long, the attempt stops.
        ack: How long the result waits to be acknowledged before it is reported.
        stop_grace: How long work may take to return after a stop.
        cancel_grace: How long work may take to unwind once it is cancelled.
        progress: Least time between two progress reports.
    """

    start: float = 10.0
    heartbeat: float = 3.0
    ack: float = 5.0
    stop_grace: float = 15.0
    cancel_grace: float = 5.0
    progress: float = 0.25


_CLASS_OF_STOP = {
    attempt_pb2.STOP_REASON_TIMEOUT: (
        common_pb2.FAILURE_CLASS_TIMEOUT,
        "the attempt's time was up",
    ),
    attempt_pb2.STOP_REASON_FENCED: (
        common_pb2.FAILURE_CLASS_CANCELLED,
        "another driver owns the job",
    ),
    attempt_pb2.STOP_REASON_INTERRUPT: (
        common_pb2.FAILURE_CLASS_CANCELLED,
        "the attempt was interrupted",
    ),
}
_CANCELLED = (common_pb2.FAILURE_CLASS_CANCELLED, "the attempt was cancelled")
_LOST = (common_pb2.FAILURE_CLASS_TRANSIENT, "the driver of the attempt was lost")
_ENDING = (common_pb2.FAILURE_CLASS_TRANSIENT, "the service that worked at it was stopped")
_DEFECT = common_pb2.FAILURE_CLASS_INTERNAL


class AttemptSession(Generic[StartT]):
    """Runs one attempt's work and carries its result home.

    It outlives its stream: when the stream breaks, work is stopped, and the
    result with its exact usage goes to the reporter.

    Args:
        start: The role's start message.
        requests: The frames after it.
        work: What to do.
        reporter: Takes the result when nobody acknowledges it.
        role: The role that works.
        timing: The protocol's times.
    """

    def __init__(
        self,
        start: StartT,
        requests: AsyncIterator[ControlFrame],
        work: Work[StartT],
        *,
        reporter: ReportSink,
        role: common_pb2.Role.ValueType,
        timing: AttemptTiming,
    ) -> None:
        self.ref = start.attempt.ref
        self.outbox = Outbox(timing.progress)
        self.attempt = Attempt(start.attempt, self.outbox)
        self.error: errors.HmaError | None = None
        self._start = start
        self._requests = requests
        self._work = work
        self._reporter = reporter
        self._role = role
        self._timing = timing
        self._result: attempt_pb2.AttemptResult | None = None
        self._acked = False
        self._lost = False
        self._ending = False
        self._unfinished = False
        self._settled = asyncio.Event()
        self._last_beat = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Works until the result is acknowledged or with the reporter."""
        ref = self.ref
        fields = {"job_id": ref.job_id, "task_uid": ref.task_uid, "attempt": ref.attempt}
        with logs.bind(**fields):
            # A first frame at once tells the driver that the attempt was admitted.
            self.attempt.progress(phase="accepted")
            try:
                async with asyncio.TaskGroup() as group:
                    helpers = [
                        group.create_task(self._listen()),
                        group.create_task(self._watch()),
                    ]
                    self._result = await self._perform()
                    if self._result is not None:
                        await self._deliver(self._result)
                    for helper in helpers:
                        helper.cancel()
            except asyncio.CancelledError:
                if not self._acked and not self._unfinished:
                    self._report(self._result or self._completed(self._failed(*_CANCELLED)))
                raise
            finally:
                self.outbox.close()

    def fence(self) -> None:
        """Another driver owns the job: stop, and say nothing more on this stream."""
        self.error = errors.Fenced("another driver owns the job")
        self.attempt.end(attempt_pb2.STOP_REASON_FENCED)
        self.outbox.discard()
        self._settled.set()

    def abandon(self) -> None:
        """The process ends: stop, keep what there is; another one may go on. Idempotent."""
        self._ending = self._ending or not self.attempt.stop.is_set()
        self.attempt.end(attempt_pb2.STOP_REASON_INTERRUPT)

    def stream_ended(self) -> None:
        """Nobody listens any more; idempotent, harmless after a normal end."""
        self.outbox.discard()
        if not self._acked and not self.attempt.stop.is_set():
            self._lost = True
            self.attempt.end(attempt_pb2.STOP_REASON_INTERRUPT)
        self._settled.set()

    async def _listen(self) -> None:
        """Takes what the driver says, until it has nothing more to say."""
        try:
            async for request in self._requests:
                self._last_beat = asyncio.get_running_loop().time()
                if request.WhichOneof("frame") != "control":
                    raise errors.InvalidRequest.field("frame", "only the first frame may be start")
                self._obey(request.control)
        except errors.InvalidRequest as error:
            self.error = error
            self.stream_ended()
        except (grpc.aio.BaseError, grpc.RpcError, DecodeError) as error:
            _log.debug("the driver's side of the stream broke", extra={"kind": type(error)})
            self.stream_ended()
        # A half-closed stream is left to the heartbeat: what was said still counts.

    def _obey(self, control: attempt_pb2.AttemptControl) -> None:
        self.attempt.hear_driver()
        kind = control.WhichOneof("control")
        if kind == "grant":
            self.attempt.receive_grant(control.grant)
        elif kind == "ack":
            self._acked = True
            self._settled.set()
        elif kind == "stop":
            _log.info(
                "told to stop",
                extra={
                    "reason": attempt_pb2.StopReason.Name(control.stop.reason),
                    "note": control.stop.note,
                },
            )
            if control.stop.reason == attempt_pb2.STOP_REASON_FENCED:
                self.fence()
            else:
                self.attempt.end(control.stop.reason)

    async def _watch(self) -> None:
        """Stops the attempt when its time is up or its driver falls silent."""
        loop = asyncio.get_running_loop()
        stop = self.attempt.stop
        while not stop.is_set():
            silent = self._last_beat + self._timing.heartbeat - loop.time()
            left = self.attempt.time_left()
            if left <= 0:
                self.attempt.end(attempt_pb2.STOP_REASON_TIMEOUT)
                return
            if silent <= 0:
                seen = self._last_beat
                # If it was this process that stood still, the beats are waiting to be read.
                await asyncio.sleep(self._timing.heartbeat / 20)
                if self._last_beat == seen and not stop.is_set():
                    _log.warning("no heartbeat from the driver; the attempt is stopped")
                    self._lost = True
                    self.attempt.end(attempt_pb2.STOP_REASON_INTERRUPT)
                continue
            try:
                async with asyncio.timeout(min(silent, left)):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _perform(self) -> attempt_pb2.AttemptResult | None:
        """Runs the work; bounded once it was told to stop.

        None when it did not end even so. What its running call costs is not known then,
        and a result without that call would say that it cost nothing. Without a result
        the driver loses the attempt, and books what was granted as unknown.
        """
        work = asyncio.ensure_future(self._work(self._start, self.attempt))
        stop = asyncio.create_task(self.attempt.stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait({work}, timeout=self._timing.stop_grace)
        finally:
            stop.cancel()
            if not work.done():
                work.cancel()
                self._unfinished = True  # also when this wait is cancelled
                await asyncio.wait({work}, timeout=self._timing.cancel_grace)
            self._unfinished = not work.done()
        if self._unfinished:
            _log.error("work did not end when it was cancelled")
            return None
        return self._completed(self._outcome_of(work))

    def _outcome_of(
        self, work: asyncio.Future[attempt_pb2.AttemptResult]
    ) -> attempt_pb2.AttemptResult:
        if work.cancelled():
            return self._failed(*self._why_stopped())
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, AttemptStopped):
            return self._failed(*self._why_stopped())
        if isinstance(error, errors.CallFailed):
            return self._failed(error.failure_class, error.message, error.retry_after)
        if isinstance(error, errors.RetryableError):
            transient = common_pb2.FAILURE_CLASS_TRANSIENT
            return self._failed(transient, error.message, error.retry_after)
        if isinstance(error, errors.DeadlinePassed):
            return self._failed(common_pb2.FAILURE_CLASS_TIMEOUT, error.message)
        if isinstance(error, errors.HmaError):
            return self._failed(_DEFECT, error.message)
        return self._failed(_DEFECT, unexpected(error, "the work of an attempt").message)

    def _completed(self, result: attempt_pb2.AttemptResult) -> attempt_pb2.AttemptResult:
        """Adds what the session knows: the calls, and why it is not whole."""
        del result.calls[:]
        result.calls.extend(self.attempt.calls)
        if result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED:
            return result
        failure = result.failure
        cancelled = failure.failure_class in (
            common_pb2.FAILURE_CLASS_UNSPECIFIED,
            common_pb2.FAILURE_CLASS_CANCELLED,
        )
        # Work only knows that it was interrupted; a lost driver or place is worth another try.
        elsewhere = self._lost or self._ending
        if self.attempt.stop.is_set() and cancelled and (elsewhere or not failure.message):
            failure.failure_class, failure.message = self._why_stopped()
        # What failed by itself just then stays that failure.
        transient = failure.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
        result.handed_over = (self._ending or self._lost) and transient
        if result.HasField("failure") and not failure.role:
            failure.role = self._role
        return result

    def _failed(
        self,
        failure_class: common_pb2.FailureClass.ValueType,
        message: str,
        retry_after: float | None = None,
    ) -> attempt_pb2.AttemptResult:
        failure = common_pb2.Failure(failure_class=failure_class, message=message)
        if retry_after is not None:
            failure.retry_after.FromNanoseconds(int(max(0.0, retry_after) * 1e9))
        return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_FAILED, failure=failure)

    def _why_stopped(self) -> tuple[common_pb2.FailureClass.ValueType, str]:
        if self._ending:
            return _ENDING
        return _LOST if self._lost else _CLASS_OF_STOP.get(self.attempt.stop_reason, _CANCELLED)

    async def _deliver(self, result: attempt_pb2.AttemptResult) -> None:
        """On the stream when somebody acknowledges it there, else by the reporter."""
        if not self._settled.is_set():
            try:
                async with asyncio.timeout(self._timing.ack):
                    await self.outbox.put(attempt_pb2.AttemptReport(result=result))
                    # A silent driver may still read it, but it is not waited for.
                    if not self._lost:
                        await self._settled.wait()
            except TimeoutError:
                _log.warning("the result was not acknowledged")
        if not self._acked:
            self._report(result)

    def _report(self, result: attempt_pb2.AttemptResult) -> None:
        self._reporter.report(self.ref, result, self._role)
