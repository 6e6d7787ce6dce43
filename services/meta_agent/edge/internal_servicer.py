"""What services ask of the MetaAgent: take a late result, give a document."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from hma.errors import NotFound, PreconditionFailed
from hma.rpc.validation import Violations, check
from hma.telemetry import logs
from hma.v1 import attempt_pb2, job_pb2, meta_agent_pb2, meta_agent_pb2_grpc
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.edge.validation import check_job_id
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.ids import is_job_id
from services.meta_agent.store.route_room import RouteLimits
from services.meta_agent.store.store import Store

Context = grpc.aio.ServicerContext[Any, Any]

MAX_CALL_ID_CHARS = 64

PATIENCE = 1.0
"""Seconds that another replica's watchers wait for the first snapshot of a job driven here."""


class InternalServicer(meta_agent_pb2_grpc.InternalServiceServicer):
    """Serves `hma.v1.InternalService`; any replica takes any job's."""

    def __init__(self, store: Store, rules: Rules, board: ProgressBoard) -> None:
        """Reads and writes nothing yet.

        Args:
            store: Where jobs are.
            rules: Prices calls.
            board: Where progress is.
        """
        self._store = store
        self._board = board
        self._rules = rules

    async def ReportAttempt(
        self, request: meta_agent_pb2.ReportAttemptRequest, context: Context
    ) -> meta_agent_pb2.ReportAttemptResponse:
        """Logs a result whose stream broke. The same report again changes nothing."""
        _check_report(request)
        ref = request.ref
        event = job_pb2.JobEvent(
            job_id=ref.job_id,
            event_id=report_event_id(ref),
            time=timestamp(self._store.clock.now()),
            attempt_reported=job_pb2.AttemptReported(
                ref=ref,
                result=request.result,
                costs=[self._rules.cost(call) for call in request.result.calls],
            ),
        )
        with logs.bind(job_id=ref.job_id, task_uid=ref.task_uid, attempt=ref.attempt):
            try:
                if is_job_id(ref.job_id):
                    await self._store.log.append_fact(ref.job_id, event)
                    return meta_agent_pb2.ReportAttemptResponse(recorded=True)
            except (NotFound, PreconditionFailed):
                # Gone or sealed: the service must stop trying all the same.
                pass
            return meta_agent_pb2.ReportAttemptResponse(recorded=False)

    async def WatchProgress(
        self, request: meta_agent_pb2.WatchProgressRequest, context: Context
    ) -> AsyncIterator[meta_agent_pb2.WatchProgressResponse]:
        """Streams what runs of a job that this replica drives, always the latest."""
        Violations(check(request)).raise_if_any()
        check_job_id(request.job_id)
        snapshots = self._board.follow_driven(request.job_id, PATIENCE)
        async with contextlib.aclosing(snapshots):
            async for progress in snapshots:
                yield meta_agent_pb2.WatchProgressResponse(progress=progress)

    async def ReserveRoute(
        self, request: meta_agent_pb2.ReserveRouteRequest, context: Context
    ) -> meta_agent_pb2.ReserveRouteResponse:
        """Answers whether a route's windows have room for a call; notes what one took."""
        faults = Violations(check(request))
        faults.require("\x00" not in request.call_id, "call_id", "must be text")
        faults.at_most(request.call_id, MAX_CALL_ID_CHARS, "call_id")
        faults.require(request.tokens >= 0, "tokens", "must be 0 or more")
        faults.require(abs(request.priority) <= 10, "priority", "must be -10 to 10")
        faults.raise_if_any()
        route = self._rules.routes.get(request.route)
        if route is None or not route.limited:
            # Settings being rolled out: here no limit is known.
            return meta_agent_pb2.ReserveRouteResponse(granted=True)
        windows = self._store.route_windows
        if request.HasField("used_tokens"):
            used = max(request.used_tokens, 0)
            await windows.settle(route.name, request.call_id, used)
            return meta_agent_pb2.ReserveRouteResponse(granted=True)
        limits = RouteLimits(requests=route.requests_per_minute, tokens=route.tokens_per_minute)
        room = await windows.reserve(
            route.name, request.call_id, request.tokens, limits, request.priority
        )
        response = meta_agent_pb2.ReserveRouteResponse(granted=room.granted)
        if room.retry_after is not None:
            response.retry_after.FromMicroseconds(int(room.retry_after * 1e6))
        return response

    async def ReadDocument(
        self, request: meta_agent_pb2.ReadDocumentRequest, context: Context
    ) -> AsyncIterator[meta_agent_pb2.ReadDocumentResponse]:
        """Streams a document, a part at a time."""
        Violations(check(request)).raise_if_any()
        check_job_id(request.job_id)
        if "\x00" in request.document_id:
            raise NotFound("There is no document with this id.")
        async for part in self._store.documents.read(request.job_id, request.document_id):
            yield meta_agent_pb2.ReadDocumentResponse(chunk=part)


def report_event_id(ref: attempt_pb2.AttemptRef) -> str:
    """The id of the fact that an attempt's result was reported."""
    return f"report.{ref.task_uid}.{ref.attempt}.{ref.epoch}"


def _check_report(request: meta_agent_pb2.ReportAttemptRequest) -> None:
    faults = Violations(check(request))
    ref = request.ref
    faults.require(ref.job_id, "ref.job_id", "is required")
    faults.require(ref.task_uid, "ref.task_uid", "is required")
    faults.require("\x00" not in ref.task_uid, "ref.task_uid", "must be text")
    faults.at_most(ref.task_uid, 64, "ref.task_uid")
    faults.require(ref.attempt >= 1, "ref.attempt", "must be 1 or more")
    faults.raise_if_any()
