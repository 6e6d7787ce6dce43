"""Clients that mean ill: what they send is refused or taken for what it is."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import grpc
import pytest

from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc
from tests.integration.gateway import frames
from tests.integration.gateway.conftest import Gateway
from tests.integration.gateway.frames import HostileClient, frame

_BODY = b'{"task_description": "x"}'


def _send(gateway: Gateway, request: bytes) -> bytes:
    """The first line of the answer."""
    host, port = gateway.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while b"\n" not in answer and (piece := connection.recv(65536)):
            answer += piece
        return answer


def _status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split(b" ", 2)[1])


def _reached(gateway: Gateway, request: bytes) -> tuple[int, int]:
    """Status, and how many requests reached the MetaAgent."""
    before = len(gateway.backends.meta_agent.requests)
    answer = _send(gateway, request)
    return _status(answer), len(gateway.backends.meta_agent.requests) - before


# --- request smuggling ---


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 25",
        b"content-length: +25",
        b"content-length: 25, 25",
        b"content-length: 0x19",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: chunked, identity",
        b"transfer-encoding: chunked\r\ntransfer-encoding: gzip",
        b"content-length : 25",
        b"content-length: 25\r\nx-a: a\0b",
        b"content-length: 25\r\nhost: elsewhere",
    ],
)
def test_ambiguous_heads_are_refused(gateway: Gateway, head: bytes) -> None:
    request = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n" + _BODY

    status, reached = _reached(gateway, request)

    assert status in (400, 501)
    assert reached == 0


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/v1%2fjobs", 400),
        ("/v1/jobs%2Fjob-1", 400),
        ("/v1/jobs%5c..%5cx", 400),
        ("/v1/jobs/%00", 400),
        ("/V1/jobs", 404),
    ],
)
def test_paths_that_others_might_read_differently_reach_nothing(
    gateway: Gateway, path: str, refusal: int
) -> None:
    status, reached = _reached(
        gateway, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    )

    assert (status, reached) == (refusal, 0)


def test_headers_with_underscores_do_not_come_in(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        sent = (("x_hma_identity", "me"), ("x-other", "1"))
        stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-1"), metadata=sent, timeout=30)

    seen = gateway.backends.meta_agent.metadata[-1]
    assert "x-other" in seen
    assert not {"x_hma_identity", "x-hma-identity"} & set(seen)


def test_what_is_the_client_s_fault_is_not_internal_to_grpc_clients(gateway: Gateway) -> None:
    with grpc.insecure_channel(
        gateway.address, options=[("grpc.default_authority", "x,elsewhere")]
    ) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-1"), timeout=30)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["//v1//jobs/job-1", "/v1/x/../jobs/job-1", "/v1\\jobs/job-1"])
def test_paths_are_normalised_before_they_are_routed(gateway: Gateway, path: str) -> None:
    assert gateway.http("GET", path).json()["job_id"] == "job-1"


def test_internal_methods_cannot_be_reached_by_dots_or_absolute_uris(gateway: Gateway) -> None:
    for target in (
        "/hma.v1.MetaAgentService/../hma.v1.InternalService/ReportAttempt",
        "http://internal:8081/hma.v1.InternalService/ReportAttempt",
        "http://x/hma.v1.WorkerService/Execute",
    ):
        status, reached = _reached(
            gateway,
            f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n"
            "content-length: 0\r\nconnection: close\r\n\r\n".encode(),
        )
        assert (status, reached) in ((404, 0), (200, 0)), target


def test_connect_upgrades_and_old_versions_are_refused(gateway: Gateway) -> None:
    host = b"\r\nhost: x\r\n"
    assert _status(_send(gateway, b"CONNECT x:80 HTTP/1.1" + host + b"\r\n")) >= 400
    assert _status(_send(gateway, b"GET /v1/jobs HTTP/1.0" + host + b"\r\n")) == 426
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert _status(_send(gateway, b"GET /v1/jobs HTTP/1.1" + host + upgrade)) in (403, 404, 426)


# --- heads ---


@pytest.mark.parametrize(
    "headers",
    [{f"x-{n}": "a" for n in range(120)}, {"x-long": "a" * 40_000}],
    ids=["many", "long"],
)
def test_a_head_that_is_too_large_is_refused(gateway: Gateway, headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    status, reached = _reached(gateway, f"GET /v1/jobs HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode())

    assert (status, reached) == (431, 0)


def test_clients_cannot_steer_the_gateway_by_its_own_headers(gateway: Gateway) -> None:
    reply = gateway.http(
        "GET",
        "/v1/jobs/job-steered",
        x_envoy_upstream_rq_timeout_ms="1",
        x_envoy_original_path="/forged",
        x_envoy_original_method="FORGED",
        x_envoy_internal="true",
        x_envoy_force_trace="true",
        x_envoy_retry_on="5xx",
        x_request_id="chosen-by-the-client",
        x_forwarded_for="198.51.100.1",
        user_agent="the-steering-test",
    )

    assert reply.status == 200
    seen = gateway.backends.meta_agent.metadata[-1]
    assert not seen["x-forwarded-for"].endswith("198.51.100.1")
    assert seen["x-request-id"] != "chosen-by-the-client"
    steering = {"x-envoy-upstream-rq-timeout-ms", "x-envoy-internal", "x-envoy-retry-on"}
    assert not steering & set(seen)
    assert "FORGED" not in gateway.http("GET", "/nowhere", x_envoy_original_method="FORGED").json()


def test_headers_named_by_connection_stay_here(gateway: Gateway) -> None:
    reply = gateway.http("GET", "/v1/jobs/job-1", connection="x-secret", x_secret="1")

    assert reply.status in (200, 400)
    if reply.status == 200:
        assert "connection" not in gateway.backends.meta_agent.metadata[-1]


@pytest.mark.parametrize("path", ["/v1/jobs/job-1", "/v1/jobs/job-missing", "/nowhere", "/healthz"])
def test_responses_do_not_say_what_the_gateway_is_made_of(gateway: Gateway, path: str) -> None:
    headers = {name.lower(): value for name, value in gateway.http("GET", path).headers.items()}

    assert headers["server"] == "hma"
    assert [name for name in headers if name.startswith(("x-envoy", "x-hma"))] == []


def test_grpc_responses_do_not_say_it_either(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        _, call = stub.GetJob.with_call(meta_agent_pb2.GetJobRequest(job_id="job-1"), timeout=30)
        names = [name for name, _ in (*call.initial_metadata(), *call.trailing_metadata())]

    assert [name for name in names if name.startswith("x-envoy")] == []


# --- HTTP/2 ---


def _rapid_reset() -> bytes:
    head = frames.head("POST", "/hma.v1.MetaAgentService/GetJob", content_type="application/grpc")
    return b"".join(
        frame(frames.HEADERS, frames.END_HEADERS, stream, head)
        + frame(frames.RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 2001, 2)
    )


def _priorities() -> bytes:
    # More than 10 for each stream there was, and there was none.
    return frame(frames.PRIORITY, 0, 1, struct.pack(">IB", 0, 7)) * 300


def _window_updates() -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 100


def _empty_data() -> bytes:
    head = frames.head("POST", "/v1/jobs", content_type="application/json")
    begin = frame(frames.HEADERS, frames.END_HEADERS, 1, head)
    return begin + frame(frames.DATA, 0, 1) * 10


@pytest.mark.parametrize(
    ("flood", "times", "reads"),
    [
        (_rapid_reset, 1, True),
        (lambda: frame(frames.PING, 0, 0, b"12345678") * 500, 2_000, False),
        (lambda: frame(frames.SETTINGS, 0, 0) * 500, 2_000, False),
        (_priorities, 1, True),
        (_window_updates, 10, True),
        (_empty_data, 1, True),
    ],
    ids=["rapid-reset", "ping", "settings", "priority", "window-update", "empty-data"],
)
def test_floods_of_frames_end_the_connection(
    gateway: Gateway, flood: Callable[[], bytes], times: int, reads: bool
) -> None:
    with HostileClient(gateway.address) as client:
        closed = client.is_closed_by(flood(), times, reads=reads)

    assert closed
    # Others are served as before.
    assert gateway.http("GET", "/v1/jobs/job-1").status == 200


def test_an_honest_client_of_that_kind_is_not_closed(gateway: Gateway) -> None:
    """The frames above are taken for what they are when there are few of them."""
    with HostileClient(gateway.address) as client:
        assert not client.is_closed_by(frame(frames.PING, 0, 0, b"12345678"), 3, patience=1)


@pytest.mark.parametrize(
    "line",
    [
        b"+: 1",
        b"x*a: 1",
        b"x|~a: 1",
        b"x-a: \xe9\xff",
        b"x-a: \x7f",
        b"x-a-bin: ***",
        b"x-a-bin: =",
        b"grpc-timeout: soon",
        b"grpc-timeout: -1S",
        b"grpc-timeout: 99999999H",
        b"grpc-encoding: snappy",
        b"grpc-accept-encoding: ,,;",
        b"grpc-tags-bin: x",
        b"te: deflate",
        b"content-encoding: gzip",
        b"grpc-status: 0",
        b"user-agent: " + b"a" * 9000,
        b"traceparent: 00-x",
        b"accept: \xff",
    ],
)
def test_headers_that_grpc_cannot_carry_are_no_error_of_ours(gateway: Gateway, line: bytes) -> None:
    status, _ = _reached(
        gateway, b"GET /v1/jobs/job-1 HTTP/1.1\r\nhost: x\r\n" + line + b"\r\n\r\n"
    )

    assert status == 200 or 400 <= status < 500
