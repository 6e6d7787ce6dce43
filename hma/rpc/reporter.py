"""Brings results home whose stream broke before they were acknowledged."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
from prometheus_client import CollectorRegistry, Gauge
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from hma.v1 import attempt_pb2, common_pb2, meta_agent_pb2, meta_agent_pb2_grpc

_log = logging.getLogger(__name__)
# Not UNAUTHENTICATED: it may be that keys are just being changed.
_FOR_GOOD = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


class ReportSink(Protocol):
    """Where a result goes that its driver did not acknowledge."""

    def report(
        self,
        ref: attempt_pb2.AttemptRef,
        result: attempt_pb2.AttemptResult,
        role: common_pb2.Role.ValueType,
    ) -> None:
        """Takes a result; never waits and never fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterLimits:
    """How hard the reporter tries.

    Attributes:
        pending: Most results kept; beyond it the oldest is given up.
        keep: How long one result is retried, in seconds.
        call_timeout: Deadline of one call, in seconds.
        first_wait: Upper bound of the first back-off; it doubles, jittered, in seconds.
        longest_wait: Upper bound of every back-off, in seconds.
        flush: How long leaving waits for what is pending, in seconds.
    """

    pending: int = 256
    keep: float = 120.0
    call_timeout: float = 5.0
    first_wait: float = 0.25
    longest_wait: float = 5.0
    flush: float = 10.0


class Reporter:
    """Retries `InternalService.ReportAttempt` until the result is taken.

    Any MetaAgent replica takes a report, and recording one twice is harmless.
    Used as a context manager; leaving it waits for what is pending, bounded.

    Args:
        channel: To the MetaAgent; stays the caller's.
        limits: How hard to try.
        registry: Where its metrics are registered, if anywhere.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        limits: ReporterLimits | None = None,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._stub = meta_agent_pb2_grpc.InternalServiceStub(channel)
        self._limits = limits or ReporterLimits()
        # In order of arrival, so that the first is the oldest.
        self._pending: dict[asyncio.Task[None], attempt_pb2.AttemptRef] = {}
        self.recorded = 0
        self.given_up = 0
        if registry is not None:
            self._export(registry)

    @property
    def pending(self) -> int:
        """How many results are on their way."""
        return len(self._pending)

    def report(
        self,
        ref: attempt_pb2.AttemptRef,
        result: attempt_pb2.AttemptResult,
        role: common_pb2.Role.ValueType,
    ) -> None:
        """Takes a result and sends it in the background."""
        if len(self._pending) >= self._limits.pending:
            oldest = next(iter(self._pending))
            oldest.cancel()
            self._give_up(self._pending.pop(oldest), "too many results are pending")
        request = meta_agent_pb2.ReportAttemptRequest(ref=ref, result=result, role=role)
        task = asyncio.create_task(
            self._send(request), name=f"report {ref.job_id}/{ref.task_uid}/{ref.attempt}"
        )
        self._pending[task] = ref
        task.add_done_callback(lambda done: self._pending.pop(done, None))

    def _export(self, registry: CollectorRegistry) -> None:
        pending = Gauge("hma_reports_pending", "Results not yet acknowledged", registry=registry)
        pending.set_function(lambda: self.pending)
        lost = Gauge("hma_reports_given_up", "Results given up since the start", registry=registry)
        lost.set_function(lambda: self.given_up)

    async def _send(self, request: meta_agent_pb2.ReportAttemptRequest) -> None:
        limits = self._limits
        retrying = AsyncRetrying(
            stop=stop_after_delay(limits.keep),
            wait=wait_random_exponential(multiplier=limits.first_wait, max=limits.longest_wait),
            retry=retry_if_exception(_is_worth_retrying),
            before_sleep=_note_retry,
            reraise=True,
        )
        try:
            response: meta_agent_pb2.ReportAttemptResponse = await retrying(self._call, request)
        except grpc.aio.AioRpcError as error:
            self._give_up(request.ref, error.code().name)
            return
        self.recorded += 1
        _log.info(
            "reported an unacknowledged result",
            extra={**_name(request.ref), "recorded": response.recorded},
        )

    async def _call(
        self, request: meta_agent_pb2.ReportAttemptRequest
    ) -> meta_agent_pb2.ReportAttemptResponse:
        call: Any = self._stub.ReportAttempt(request, timeout=self._limits.call_timeout)
        response: meta_agent_pb2.ReportAttemptResponse = await call
        return response

    def _give_up(self, ref: attempt_pb2.AttemptRef, why: str) -> None:
        self.given_up += 1
        _log.error("gave up reporting a result", extra={**_name(ref), "why": why})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._pending:
            return
        _, late = await asyncio.wait(self._pending, timeout=self._limits.flush)
        for task in late:
            self._give_up(self._pending[task], "the process is ending")
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)


def _is_worth_retrying(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() not in _FOR_GOOD


def _note_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "?"
    _log.debug("a report is retried", extra={"code": code, "tries": state.attempt_number})


def _name(ref: attempt_pb2.AttemptRef) -> dict[str, object]:
    return {"job_id": ref.job_id, "task_uid": ref.task_uid, "attempt": ref.attempt}
