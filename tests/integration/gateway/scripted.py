"""Scripted services behind a real Envoy: what arrives is recorded, what to answer is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from hma.errors import Overloaded, QuotaExceeded
from hma.ext_authz.v1 import ext_authz_pb2
from hma.rpc.errors import code_of, trailers_of
from hma.v1 import (
    admin_pb2,
    analyst_pb2,
    analyst_pb2_grpc,
    explanation_pb2,
    job_pb2,
    meta_agent_pb2,
    meta_agent_pb2_grpc,
    reducer_pb2,
    reducer_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", -1)]


class ScriptedMetaAgent(
    meta_agent_pb2_grpc.MetaAgentServiceServicer, meta_agent_pb2_grpc.InternalServiceServicer
):
    """Answers by rule of the job id; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.left: list[float] = []
        self.release = threading.Event()

    def CreateJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        if request.request_id == "too-many":
            # As the MetaAgent refuses what does not fit.
            full = Overloaded("Full.", reason="QUEUE_FULL", retry_after=4.2)
            context.set_trailing_metadata(trailers_of(full))
            context.abort(code_of(full), full.message)
        if request.request_id == "over-quota":
            subject = "tenant:acme/tokens_per_minute"
            over = QuotaExceeded("Full.", subject=subject, retry_after=6.1, limit=900, remaining=12)
            context.set_trailing_metadata(trailers_of(over))
            context.abort(code_of(over), over.message)
        return meta_agent_pb2.CreateJobResponse(
            job_id="job-1", state=job_pb2.JOB_STATE_QUEUED, watch_url="/v1/jobs/job-1:watch"
        )

    def GetJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.left.append(context.time_remaining())
        if request.job_id == "job-slow":
            _wait_for_the_end(context)
        if request.job_id == "job-missing":
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="hma"))
            context.abort_with_status(
                rpc_status.to_status(
                    status_pb2.Status(code=5, message="No job job-missing.", details=[detail])
                )
            )
        return job_pb2.Job(job_id=request.job_id, last_sequence=3)

    def CancelJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return job_pb2.Job(job_id=request.job_id)

    def DeleteJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return meta_agent_pb2.DeleteJobResponse()

    def ListJobs(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        if request.page_token == "slow":
            context.add_callback(self.release.set)
            self.release.wait(60)
        return meta_agent_pb2.ListJobsResponse(jobs=[job_pb2.Job(job_id="job-1")])

    def InterruptJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return job_pb2.Job(job_id=request.job_id)

    def GrantBudget(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return job_pb2.Job(job_id=request.job_id)

    def ExplainJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return explanation_pb2.Explanation(job_id=request.job_id, sentences=["So it was."])

    def GetUsage(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        row = meta_agent_pb2.UsageRow(route="fast", calls=2)
        return meta_agent_pb2.GetUsageResponse(rows=[row], total=row)

    def GetQuota(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return admin_pb2.Quota(tenant="acme")

    def ReserveRoute(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return meta_agent_pb2.ReserveRouteResponse(granted=True)

    def GetSystemStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return meta_agent_pb2.SystemStatus(version="scripted")

    def ReportAttempt(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return meta_agent_pb2.ReportAttemptResponse(recorded=True)

    def ReadDocument(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.requests.append(request)
        yield meta_agent_pb2.ReadDocumentResponse(chunk=b"text")

    def WatchProgress(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.requests.append(request)
        yield meta_agent_pb2.WatchProgressResponse()

    def WatchJob(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.requests.append(request)
        self.left.append(context.time_remaining())
        yield _event(request.job_id, 1)
        if request.job_id == "job-endless":
            _wait_for_the_end(context)
        if request.job_id == "job-held":
            # The second event waits, so a reader proves that the first was not held back.
            self.release.wait(30)
        yield _event(request.job_id, 2)


def _wait_for_the_end(context: grpc.ServicerContext) -> None:
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(30)


def _event(job_id: str, sequence: int) -> Any:
    event = job_pb2.JobEvent(job_id=job_id, sequence=sequence)
    event.state_changed.reason = f"line {sequence}"
    return meta_agent_pb2.WatchJobResponse(event=event)


class ScriptedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Echoes a report for every frame, naming itself. A slow one holds its streams."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.streams = 0
        self.slow = False
        self.server: grpc.Server | None = None
        self.release = threading.Event()

    def Execute(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        self.streams += 1
        for _ in requests:
            response = worker_pb2.ExecuteResponse()
            response.report.progress.phase = self.name
            yield response
            if dict(context.invocation_metadata()).get("endless"):
                _wait_for_the_end(context)
            if self.slow:
                self.release.wait(30)


class ScriptedAnalyst(analyst_pb2_grpc.AnalystServiceServicer):
    """Says that it is the Analyst."""

    def Plan(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        response = analyst_pb2.PlanResponse()
        response.report.progress.phase = "analyst"
        yield response


class ScriptedReducer(reducer_pb2_grpc.ReducerServiceServicer):
    """Says that it is the Reducer."""

    def Reduce(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        response = reducer_pb2.ReduceResponse()
        response.report.progress.phase = "reducer"
        yield response


class ScriptedDoor:
    """Answers who calls, as Envoy asks a MetaAgent; keeps what was asked."""

    def __init__(self) -> None:
        self.tenants: dict[str, str] = {}
        self.asked: list[ext_authz_pb2.CheckRequest] = []

    def Check(
        self, request: ext_authz_pb2.CheckRequest, context: grpc.ServicerContext
    ) -> ext_authz_pb2.CheckResponse:
        self.asked.append(request)
        headers = request.attributes.request.http.headers
        tenant = self.tenants.get(headers["authorization"] or headers["x-api-key"])
        answer = ext_authz_pb2.CheckResponse()
        if tenant is None:
            answer.status.code = grpc.StatusCode.UNAUTHENTICATED.value[0]
            answer.denied_response.status.code = 401
            return answer
        identity = f"identity {len(self.asked)} of {tenant}"
        answer.status.code = 0
        answer.ok_response.headers_to_remove.extend(["authorization", "x-api-key"])
        answer.ok_response.headers.add(
            header=ext_authz_pb2.HeaderValue(key="x-hma-identity", value=identity), append_action=2
        )
        answer.dynamic_metadata.update({"tenant": tenant, "identity": identity})
        return answer

    def register(self, server: grpc.Server) -> None:
        """Adds it by Envoy's name for it."""
        handler = grpc.unary_unary_rpc_method_handler(
            self.Check,
            request_deserializer=ext_authz_pb2.CheckRequest.FromString,
            response_serializer=ext_authz_pb2.CheckResponse.SerializeToString,
        )
        name = "envoy.service.auth.v3.Authorization"
        generic = grpc.method_handlers_generic_handler(name, {"Check": handler})
        server.add_generic_rpc_handlers((generic,))


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = (
            b"hma_tokens_total 7\n"
            if self.path == "/fleet"
            else b"wrong path " + self.path.encode()
        )
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output quiet."""


class Backends:
    """All services that Envoy is configured for, on given ports."""

    def __init__(self, settings: Any) -> None:
        self.meta_agent = ScriptedMetaAgent()
        self.workers = [ScriptedWorker(f"worker-{i + 1}") for i in range(settings.workers)]
        self.door = ScriptedDoor()
        self.health = health.HealthServicer()
        self._servers: list[grpc.Server] = []
        meta_agent = self._server(settings.meta_agent_port, self.health)
        meta_agent_pb2_grpc.add_MetaAgentServiceServicer_to_server(self.meta_agent, meta_agent)
        meta_agent_pb2_grpc.add_InternalServiceServicer_to_server(self.meta_agent, meta_agent)
        self.door.register(meta_agent)
        reflection.enable_server_reflection(
            ["hma.v1.MetaAgentService", reflection.SERVICE_NAME, health.SERVICE_NAME], meta_agent
        )
        for index, worker in enumerate(self.workers):
            server = self._server(settings.worker_port + index)
            worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
            worker.server = server
        analyst = self._server(settings.analyst_port)
        analyst_pb2_grpc.add_AnalystServiceServicer_to_server(ScriptedAnalyst(), analyst)
        reducer = self._server(settings.reducer_port)
        reducer_pb2_grpc.add_ReducerServiceServicer_to_server(ScriptedReducer(), reducer)
        for server in self._servers:
            server.start()
        self._metrics = ThreadingHTTPServer(
            (settings.host, settings.meta_agent_metrics_port), _Metrics
        )
        self._metrics_thread = threading.Thread(target=self._metrics.serve_forever)
        self._metrics_thread.start()

    def _server(self, port: int, servicer: health.HealthServicer | None = None) -> grpc.Server:
        server = grpc.server(ThreadPoolExecutor(32), options=_OPTIONS)
        servicer = servicer or health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Stops everything."""
        self.meta_agent.release.set()
        for worker in self.workers:
            worker.release.set()
        for stopped in [server.stop(0) for server in self._servers]:
            stopped.wait(30)
        self._metrics.shutdown()
        self._metrics.server_close()
        self._metrics_thread.join(5)
