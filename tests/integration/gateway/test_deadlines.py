"""What a client sees at its own deadline, which every hop knows at the same moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.integration.gateway.conftest import Gateway, open_gateway

# Fewer than what Envoy and its HTTP/2 take for a flood of resets on one connection.
CALLS = 400
AT_ONCE = 8


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with open_gateway(
        tmp_path_factory.mktemp("deadlines"),
        HMA_GATEWAY_ADDRESS_RATE="0",
        HMA_GATEWAY_TENANT_READ_RATE="0",
        HMA_GATEWAY_TENANT_STREAM_RATE="0",
    ) as opened:
        yield opened


def patience(call: int) -> float:
    """5 to 50 ms."""
    return 0.005 + call % 46 / 1000


def ends(call: Callable[[int], object]) -> Counter[tuple[str, str]]:
    """How many calls ended how."""

    def end(number: int) -> tuple[str, str]:
        try:
            call(number)
        except grpc.RpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return error.code().name, "" if late else str(error.details())
        return "OK", ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(pool.map(end, range(CALLS)))


def test_a_call_ends_with_its_deadline(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        request = meta_agent_pb2.GetJobRequest(job_id="job-slow")
        found = ends(lambda call: stub.GetJob(request, timeout=patience(call)))
    assert found == {("DEADLINE_EXCEEDED", ""): CALLS}


def test_a_stream_that_has_begun_ends_with_its_deadline(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        request = meta_agent_pb2.WatchJobRequest(job_id="job-endless")
        found = ends(lambda call: list(stub.WatchJob(request, timeout=patience(call))))
    assert found == {("DEADLINE_EXCEEDED", ""): CALLS}


def test_an_attempts_stream_ends_with_its_deadline(gateway: Gateway) -> None:
    def execute(stub: Any, call: int) -> None:
        asked = worker_pb2.ExecuteRequest()
        list(stub.Execute(iter([asked]), timeout=patience(call), metadata=(("endless", "1"),)))

    with grpc.insecure_channel(gateway.internal_address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        found = ends(lambda call: execute(stub, call))
    assert found == {("DEADLINE_EXCEEDED", ""): CALLS}


def test_a_service_is_told_the_deadline_that_the_gateway_leaves_to_it(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        list(stub.WatchJob(meta_agent_pb2.WatchJobRequest(job_id="job-1"), timeout=20))
        stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-1"), timeout=20)
    left = gateway.backends.meta_agent.left
    assert all(0 < each <= 21 for each in left[-2:]), left
