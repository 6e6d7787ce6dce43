"""What clients see while no MetaAgent serves. Last, since it takes the backends away."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc
from tests.integration.gateway.conftest import Gateway

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def unready(gateway: Gateway) -> Iterator[Gateway]:
    """The gateway, once it has noticed that the MetaAgent is not ready."""
    gateway.backends.health.set("", NOT_SERVING)
    _wait_for_healthz(gateway, 503)
    yield gateway
    gateway.backends.health.set("", SERVING)
    _wait_for_healthz(gateway, 200)


def test_http_clients_get_503_and_a_sentence(unready: Gateway) -> None:
    for path in ("/v1/jobs", "/healthz"):
        reply = unready.http("GET", path)
        assert reply.status == 503
        assert reply.json()["code"] == 14
        assert "No MetaAgent is ready" in reply.json()["message"]


def test_grpc_clients_get_unavailable_without_json_in_the_message(unready: Gateway) -> None:
    with grpc.insecure_channel(unready.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-1"), timeout=30)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "{" not in (caught.value.details() or "")


def _wait_for_healthz(gateway: Gateway, status: int) -> None:
    end = time.monotonic() + 30
    while gateway.http("GET", "/healthz").status != status:
        assert time.monotonic() < end, f"/healthz did not become {status}"
        time.sleep(0.05)
