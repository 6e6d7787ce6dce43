"""The Worker's RPC edge."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from hma.llm.base import LLM
from hma.llm.budgeted import BudgetedLLM
from hma.llm.routes import Routes
from hma.rpc.attempt import Attempt, AttemptStopped
from hma.rpc.attempt_server import AttemptTiming, serve_attempt
from hma.rpc.reporter import ReportSink
from hma.rpc.route_windows import RouteWindows
from hma.rpc.slots import Slots
from hma.v1 import attempt_pb2, common_pb2, worker_pb2, worker_pb2_grpc
from services.worker.execution import Execution
from services.worker.metrics import WorkerMetrics
from services.worker.reading import Library, Source


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves Execute.

    Args:
        llm: The provider of models.
        routes: All routes.
        library: Opens documents.
        slots: The places of this process.
        reporter: Takes results that nobody acknowledged.
        metrics: Counts attempts.
        timing: Times of the attempt protocol.
    """

    def __init__(
        self,
        llm: LLM,
        routes: Routes,
        library: Library,
        slots: Slots,
        reporter: ReportSink,
        metrics: WorkerMetrics,
        timing: AttemptTiming | None = None,
        windows: RouteWindows | None = None,
    ) -> None:
        self._llm = llm
        self._routes = routes
        self._library = library
        self._slots = slots
        self._reporter = reporter
        self._metrics = metrics
        self._timing = timing
        self._windows = windows

    async def Execute(
        self,
        request_iterator: AsyncIterator[worker_pb2.ExecuteRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[worker_pb2.ExecuteResponse]:
        """Executes one task; see worker.proto."""
        async for response in serve_attempt(
            request_iterator,
            context,
            start_of=lambda request: request.start,
            wrap_report=lambda report: worker_pb2.ExecuteResponse(report=report),
            work=self._work,
            limiter=self._slots,
            reporter=self._reporter,
            role=common_pb2.ROLE_WORKER,
            timing=self._timing,
        ):
            yield response

    async def readiness(self) -> tuple[bool, str]:
        """Ready as long as it runs: a full Worker refuses, and the caller learns from that."""
        return True, f"{self._slots.running} of {self._slots.limit} places are taken"

    async def _work(
        self, start: worker_pb2.ExecuteStart, attempt: Attempt
    ) -> attempt_pb2.AttemptResult:
        # Replaced by how it ends, unless it ends with an error.
        result = attempt_pb2.AttemptResult(
            state=attempt_pb2.ATTEMPT_STATE_FAILED,
            failure=common_pb2.Failure(failure_class=common_pb2.FAILURE_CLASS_INTERNAL),
        )
        begin = time.monotonic()
        try:
            # First of all: an unknown route fails before anything is fetched.
            llm = BudgetedLLM(self._llm, self._routes, attempt, self._windows)
            attempt.progress(phase="reading")
            source = await _open(self._library, start, attempt)
            result = await Execution(start, attempt, source, llm).run()
        finally:
            self._metrics.record(result, attempt.calls, time.monotonic() - begin)
        return result


async def _open(library: Library, start: worker_pb2.ExecuteStart, attempt: Attempt) -> Source:
    """What the task reads; nothing when it is stopped first.

    Raises:
        hma.errors.HmaError: A document is not there, or cannot be fetched now.
    """
    job_id = start.attempt.ref.job_id
    try:
        return await attempt.unless_stopped(
            library.open(job_id, start.documents, start.section_ids)
        )
    except AttemptStopped:
        return Source(())
