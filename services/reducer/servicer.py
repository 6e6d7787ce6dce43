"""The Reducer's RPC edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from hma.llm.base import LLM
from hma.llm.budgeted import BudgetedLLM
from hma.llm.routes import Routes
from hma.rpc.attempt import Attempt
from hma.rpc.attempt_server import AttemptTiming, serve_attempt
from hma.rpc.reporter import ReportSink
from hma.rpc.route_windows import RouteWindows
from hma.rpc.slots import Slots
from hma.v1 import attempt_pb2, common_pb2, reducer_pb2, reducer_pb2_grpc
from services.reducer.extracts import Reader
from services.reducer.reduction import Reduction


class ReducerServicer(reducer_pb2_grpc.ReducerServiceServicer):
    """Serves Reduce.

    Args:
        llm: The provider of models.
        routes: All routes.
        reader: Reads documents.
        slots: The places of this process.
        reporter: Takes results that nobody acknowledged.
        timing: Times of the attempt protocol.
    """

    def __init__(
        self,
        llm: LLM,
        routes: Routes,
        reader: Reader,
        slots: Slots,
        reporter: ReportSink,
        timing: AttemptTiming | None = None,
        windows: RouteWindows | None = None,
    ) -> None:
        self._llm = llm
        self._routes = routes
        self._reader = reader
        self._slots = slots
        self._reporter = reporter
        self._timing = timing
        self._windows = windows

    async def Reduce(
        self,
        request_iterator: AsyncIterator[reducer_pb2.ReduceRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[reducer_pb2.ReduceResponse]:
        """Makes one answer; see reducer.proto."""
        async for response in serve_attempt(
            request_iterator,
            context,
            start_of=lambda request: request.start,
            wrap_report=lambda report: reducer_pb2.ReduceResponse(report=report),
            work=self._work,
            limiter=self._slots,
            reporter=self._reporter,
            role=common_pb2.ROLE_REDUCER,
            timing=self._timing,
        ):
            yield response

    async def readiness(self) -> tuple[bool, str]:
        """Ready while there is a place: merging needs no model."""
        if self._slots.running >= self._slots.limit:
            return False, f"all {self._slots.limit} places are taken"
        return True, "takes work"

    async def _work(
        self, start: reducer_pb2.ReduceStart, attempt: Attempt
    ) -> attempt_pb2.AttemptResult:
        # A route that only the MetaAgent knows (settings being rolled out) costs the
        # prose, not the answer.
        known = not attempt.route or attempt.route in self._routes
        route = self._routes.choose(attempt.route) if known else self._routes.default
        writer = BudgetedLLM(self._llm, self._routes, attempt, self._windows) if known else None
        return await Reduction(start, attempt, self._reader, writer, route.context_tokens).run()
