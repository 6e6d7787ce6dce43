"""The Analyst's RPC edge."""

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
from hma.v1 import analyst_pb2, analyst_pb2_grpc, attempt_pb2, common_pb2
from services.analyst.inputs import Inputs
from services.analyst.planning import plan


class AnalystServicer(analyst_pb2_grpc.AnalystServiceServicer):
    """Serves Plan.

    Args:
        llm: The provider of models.
        routes: All routes.
        slots: The places of this process.
        reporter: Takes results that nobody acknowledged.
        timing: Times of the attempt protocol.
    """

    def __init__(
        self,
        llm: LLM,
        routes: Routes,
        slots: Slots,
        reporter: ReportSink,
        timing: AttemptTiming | None = None,
        windows: RouteWindows | None = None,
    ) -> None:
        self._llm = llm
        self._routes = routes
        self._slots = slots
        self._reporter = reporter
        self._timing = timing
        self._windows = windows

    async def Plan(
        self,
        request_iterator: AsyncIterator[analyst_pb2.PlanRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[analyst_pb2.PlanResponse]:
        """Plans one job; see analyst.proto."""
        async for response in serve_attempt(
            request_iterator,
            context,
            start_of=lambda request: request.start,
            wrap_report=lambda report: analyst_pb2.PlanResponse(report=report),
            wrap_fragment=lambda fragment: analyst_pb2.PlanResponse(fragment=fragment),
            work=self._work,
            limiter=self._slots,
            reporter=self._reporter,
            role=common_pb2.ROLE_ANALYST,
            timing=self._timing,
        ):
            yield response

    async def readiness(self) -> tuple[bool, str]:
        """Ready while there is a place. The model server's state is the MetaAgent's business."""
        if self._slots.running >= self._slots.limit:
            return False, f"all {self._slots.limit} places are taken"
        return True, "takes work"

    async def _work(
        self, start: analyst_pb2.PlanStart, attempt: Attempt
    ) -> attempt_pb2.AttemptResult:
        if attempt.route and attempt.route not in self._routes:
            # The settings of the services differ, as while new ones are rolled out.
            why = f"the Analyst does not know the route {attempt.route!r}"
            return await plan(Inputs.of(start, self._routes.default, why), None, attempt)
        llm = BudgetedLLM(self._llm, self._routes, attempt, self._windows)
        return await plan(Inputs.of(start, self._routes.choose(attempt.route)), llm, attempt)
