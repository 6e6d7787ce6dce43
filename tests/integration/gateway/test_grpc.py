"""gRPC and gRPC-Web through a real Envoy, public and internal."""

from __future__ import annotations

import base64
import queue
import struct

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hma.v1 import (
    analyst_pb2,
    analyst_pb2_grpc,
    job_pb2,
    meta_agent_pb2,
    meta_agent_pb2_grpc,
    reducer_pb2,
    reducer_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from tests.integration.gateway.conftest import Gateway

MESSAGE_LIMIT = [("grpc.max_send_message_length", -1)]


def test_unary_errors_keep_code_message_and_details(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-missing"), timeout=30)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "No job job-missing."
    trailers = [item.key for item in caught.value.trailing_metadata()]
    assert "grpc-status-details-bin" in trailers


def test_server_stream_is_not_held_back(gateway: Gateway) -> None:
    gateway.backends.meta_agent.release.clear()
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        stream = stub.WatchJob(meta_agent_pb2.WatchJobRequest(job_id="job-held"), timeout=30)
        first = next(stream)
        gateway.backends.meta_agent.release.set()
        rest = list(stream)

    assert [update.event.sequence for update in (first, *rest)] == [1, 2]


def test_message_of_32_mib_passes(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address, options=MESSAGE_LIMIT) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        document = job_pb2.DocumentInput(name="big", content=b"a" * (32 << 20))
        request = meta_agent_pb2.CreateJobRequest(job=job_pb2.JobSpec(documents=[document]))
        assert stub.CreateJob(request, timeout=30).job_id == "job-1"


@pytest.mark.parametrize("listener", ["address", "internal_address"])
def test_internal_service_is_unreachable(gateway: Gateway, listener: str) -> None:
    with grpc.insecure_channel(getattr(gateway, listener)) as channel:
        stub = meta_agent_pb2_grpc.InternalServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ReportAttempt(meta_agent_pb2.ReportAttemptRequest(), timeout=30)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_worker_is_not_public(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30))

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_and_reflection_pass(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = list(
            reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([asked]), timeout=30
            )
        )

    assert health.status == health_pb2.HealthCheckResponse.SERVING
    names = {service.name for service in answers[0].list_services_response.service}
    assert "hma.v1.MetaAgentService" in names


def test_grpc_web_works_from_an_allowed_origin(gateway: Gateway) -> None:
    message = meta_agent_pb2.GetJobRequest(job_id="job-web").SerializeToString()
    frame = base64.b64encode(struct.pack(">BI", 0, len(message)) + message)
    reply = gateway.http(
        "POST",
        "/hma.v1.MetaAgentService/GetJob",
        frame,
        content_type="application/grpc-web-text",
        accept="application/grpc-web-text",
        origin="http://localhost:3000",
    )

    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    first, length = struct.unpack(">BI", base64.b64decode(reply.body[:8])[:5])
    assert first == 0
    assert length > 0


def test_other_origins_get_no_cors_headers(gateway: Gateway) -> None:
    reply = gateway.http(
        "OPTIONS",
        "/v1/jobs",
        origin="https://elsewhere.example",
        access_control_request_method="POST",
    )

    assert "access-control-allow-origin" not in reply.headers


def test_worker_streams_are_spread_by_least_request(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.internal_address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        streams = [_OpenStream(stub) for _ in range(8)]
        try:
            names = [stream.ask() for stream in streams]
        finally:
            for stream in streams:
                stream.close()

    # Two random choices by least open streams never put all of eight on one.
    assert set(names) == {"worker-1", "worker-2"}


def test_analyst_and_reducer_are_routed_by_their_own_paths(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.internal_address) as channel:
        analyst = analyst_pb2_grpc.AnalystServiceStub(channel)
        reducer = reducer_pb2_grpc.ReducerServiceStub(channel)
        planned = list(analyst.Plan(iter([analyst_pb2.PlanRequest()]), timeout=30))
        reduced = list(reducer.Reduce(iter([reducer_pb2.ReduceRequest()]), timeout=30))

    assert planned[0].report.progress.phase == "analyst"
    assert reduced[0].report.progress.phase == "reducer"


class _OpenStream:
    """An Execute stream that stays open between questions."""

    def __init__(self, stub: worker_pb2_grpc.WorkerServiceStub) -> None:
        self._requests: queue.Queue[worker_pb2.ExecuteRequest | None] = queue.Queue(4)
        self._responses = stub.Execute(iter(self._requests.get, None), timeout=30)

    def ask(self) -> str:
        """Sends a frame and returns who answered."""
        self._requests.put(worker_pb2.ExecuteRequest())
        return next(self._responses).report.progress.phase

    def close(self) -> None:
        """Ends the stream."""
        self._requests.put(None)
