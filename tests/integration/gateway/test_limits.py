"""Limits of a real Envoy, each set low: who is over one is told so, and nobody else is."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hma.errors import Overloaded
from hma.rpc.status import from_rpc_error
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.integration.gateway.conftest import Gateway, Reply, open_gateway

_TENANT = "x-test-tenant"


def _get(gateway: Gateway, **headers: str) -> Reply:
    return gateway.http("GET", "/v1/jobs/job-1", **headers)


def _refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def _assert_told_when_to_come_back(error: grpc.RpcError, reason: str) -> None:
    """RESOURCE_EXHAUSTED with ErrorInfo and RetryInfo, as the services send it."""
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    typed = from_rpc_error(error)
    assert isinstance(typed, Overloaded)
    assert (typed.reason, typed.retry_after) == (reason, 1.0)
    assert "{" not in (error.details() or "")


def _assert_429(reply: Reply, reason: str) -> None:
    assert reply.status == 429
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()
    assert error["code"] == 8
    assert error["message"].endswith(".")
    info, retry = error["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "hma")
    assert retry["retry_delay"] == "1s"
    assert not {name for name in reply.headers if name.lower().startswith(("grpc-", "x-envoy"))}


# --- rates ---


@pytest.fixture(scope="module")
def by_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One request a second for each address, two at once; a proxy of ours in front."""
    with open_gateway(
        tmp_path_factory.mktemp("address"),
        HMA_GATEWAY_ADDRESS_RATE="1",
        HMA_GATEWAY_BURST="3s",
        HMA_GATEWAY_TRUSTED_HOPS="1",
    ) as opened:
        yield opened


def test_a_flood_from_one_address_is_stopped_and_others_are_not(by_address: Gateway) -> None:
    flood = [_get(by_address, x_forwarded_for="192.0.2.1") for _ in range(6)]
    other = _get(by_address, x_forwarded_for="192.0.2.2")

    assert [each.status for each in flood[:3]] == [200] * 3
    assert flood[-1].status == 429
    _assert_429(flood[-1], "RATE_LIMITED")
    assert flood[-1].headers["x-ratelimit-limit"] == "3"
    assert flood[-1].headers["x-ratelimit-remaining"] == "0"
    assert other.status == 200


def test_addresses_of_one_ipv6_network_share_a_bucket(by_address: Gateway) -> None:
    statuses = [_get(by_address, x_forwarded_for=f"2001:db8::{n:x}").status for n in range(1, 7)]

    assert statuses[-1] == 429
    assert _get(by_address, x_forwarded_for="2001:db8:0:1::1").status == 200


def test_what_a_client_adds_to_the_forwarded_addresses_is_not_believed(
    by_address: Gateway,
) -> None:
    # The last one is written by our proxy, those before by whoever.
    statuses = [
        _get(by_address, x_forwarded_for=f"203.0.113.{n}, 192.0.2.9").status for n in range(6)
    ]

    assert statuses[-1] == 429


def test_grpc_clients_get_resource_exhausted_with_retry_info(by_address: Gateway) -> None:
    with grpc.insecure_channel(by_address.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)

        def flood() -> None:
            for _ in range(6):
                stub.GetJob(
                    meta_agent_pb2.GetJobRequest(job_id="job-1"),
                    metadata=(("x-forwarded-for", "192.0.2.4"),),
                    timeout=30,
                )

        error = _refused(flood)

    _assert_told_when_to_come_back(error, "RATE_LIMITED")


def test_grpc_web_clients_get_resource_exhausted(by_address: Gateway) -> None:
    replies = [
        by_address.http(
            "POST",
            "/hma.v1.MetaAgentService/GetJob",
            b"\0\0\0\0\0",
            content_type="application/grpc-web+proto",
            x_forwarded_for="192.0.2.5",
        )
        for _ in range(6)
    ]

    last = replies[-1]
    assert last.headers["grpc-status"] == "8", last
    assert last.headers["content-type"].startswith("application/grpc-web")


def test_after_a_rest_requests_pass_again(by_address: Gateway) -> None:
    while _get(by_address, x_forwarded_for="192.0.2.6").status == 200:
        pass
    end = time.monotonic() + 30
    while _get(by_address, x_forwarded_for="192.0.2.6").status != 200:
        assert time.monotonic() < end
        time.sleep(0.2)


def _tenant_from_a_header(configuration: Any) -> None:
    """Stands in for ext_authz: says in its metadata which tenant calls."""
    listener = configuration["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
    names = [each["name"] for each in manager["http_filters"]]
    known = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    rule = {
        "header": _TENANT,
        "on_header_present": {
            "metadata_namespace": "envoy.filters.http.ext_authz",
            "key": "tenant",
        },
    }
    manager["http_filters"].insert(
        names.index("hma.tenant_limit"),
        {
            "name": "envoy.filters.http.header_to_metadata",
            "typed_config": {"@type": known, "request_rules": [rule]},
        },
    )


@pytest.fixture
def by_tenant(tmp_path: Path) -> Iterator[Gateway]:
    """Each tenant may read twice, change thrice and watch once at once, then once a second."""
    with open_gateway(
        tmp_path,
        _tenant_from_a_header,
        HMA_GATEWAY_ADDRESS_RATE="0",
        HMA_GATEWAY_TENANT_READ_RATE="2",
        HMA_GATEWAY_TENANT_MUTATION_RATE="3",
        HMA_GATEWAY_TENANT_STREAM_RATE="1",
        HMA_GATEWAY_BURST="1s",
    ) as opened:
        yield opened


_READS = (("GET", "/v1/jobs"), ("GET", "/v1/jobs/job-1"), ("GET", "/v1/jobs/job-1:explain"))
_MUTATIONS = (
    ("POST", "/v1/jobs"),
    ("POST", "/submit?wait=0s"),
    ("POST", "/v1/jobs/job-1:cancel"),
    ("DELETE", "/v1/jobs/job-1"),
)
_STREAMS = (("GET", "/v1/jobs/job-1:watch"), ("GET", "/v1/jobs/job-1:watch?after_sequence=1"))


@pytest.mark.parametrize(
    ("group", "most"), [(_READS, 2), (_MUTATIONS, 3), (_STREAMS, 1)], ids=["read", "write", "watch"]
)
def test_each_tenant_has_a_bucket_for_each_group(
    by_tenant: Gateway, group: tuple[tuple[str, str], ...], most: int
) -> None:
    def send(tenant: str) -> list[Reply]:
        return [
            by_tenant.http(verb, path, "{}" if verb == "POST" else None, x_test_tenant=tenant)
            for verb, path in (group * 4)[: most + 2]
        ]

    begin = time.monotonic()
    replies = send("acme")
    passed = sum(each.status == 200 for each in replies)
    # What the clock may have filled up meanwhile.
    assert most <= passed <= most + most * (time.monotonic() - begin)
    refused = next(each for each in replies if each.status != 200)
    _assert_429(refused, "RATE_LIMITED")
    assert refused.headers["x-ratelimit-limit"] == str(most)
    assert replies[0].headers["x-ratelimit-remaining"] == str(most - 1)

    others = {"read": _READS, "write": _MUTATIONS, "watch": _STREAMS}
    for other in others.values():
        if other is not group:
            assert by_tenant.http(*other[0], "{}", x_test_tenant="acme").status == 200
    assert send("other")[0].status == 200


@pytest.mark.parametrize(
    ("method", "verb", "path"),
    [
        ("GetJob", "GET", "/v1/jobs/job-1"),
        ("CancelJob", "POST", "/v1/jobs/job-1:cancel"),
        ("WatchJob", "GET", "/v1/jobs/job-1:watch"),
    ],
)
def test_grpc_and_http_fill_the_same_bucket(
    by_tenant: Gateway, method: str, verb: str, path: str
) -> None:
    request = getattr(meta_agent_pb2, f"{method}Request")(job_id="job-1")
    with grpc.insecure_channel(by_tenant.address) as channel:
        call: Any = getattr(meta_agent_pb2_grpc.MetaAgentServiceStub(channel), method)

        def once() -> None:
            answer = call(request, metadata=[(_TENANT, "acme")], timeout=30)
            if method == "WatchJob":
                list(answer)

        end = time.monotonic() + 30
        while True:
            try:
                once()
            except grpc.RpcError as error:
                _assert_told_when_to_come_back(error, "RATE_LIMITED")
                if by_tenant.http(verb, path, "{}", x_test_tenant="acme").status == 429:
                    break
            assert time.monotonic() < end


def test_without_authentication_all_share_one_bucket(by_tenant: Gateway) -> None:
    assert 429 in [_get(by_tenant).status for _ in range(6)]


# --- how much at once ---


def test_overflow_of_open_requests_is_resource_exhausted(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_GATEWAY_MAX_REQUESTS="3") as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        held = [
            stub.WatchJob(meta_agent_pb2.WatchJobRequest(job_id="job-held"), timeout=30)
            for _ in range(3)
        ]
        for stream in held:
            next(stream)
        error = _refused(
            lambda: stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-1"), timeout=30)
        )
        reply = _get(gateway)
        gateway.backends.meta_agent.release.set()
        for stream in held:
            list(stream)
        again = _get(gateway)

    _assert_told_when_to_come_back(error, "GATEWAY_FULL")
    _assert_429(reply, "GATEWAY_FULL")
    assert again.status == 200


def test_who_holds_what_is_open_to_everybody_holds_nobodys_call_up(tmp_path: Path) -> None:
    with (
        open_gateway(
            tmp_path, HMA_GATEWAY_MAX_REQUESTS="3", HMA_GATEWAY_ADDRESS_RATE="0"
        ) as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        def watch() -> Any:
            stream = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            next(stream)
            return stream

        held = [watch() for _ in range(100)]
        error = _refused(watch)
        reply = _get(gateway)
        for stream in held:
            stream.cancel()

    _assert_told_when_to_come_back(error, "GATEWAY_FULL")
    assert reply.status == 200


def test_services_too_are_told_resource_exhausted_when_a_role_is_full(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_GATEWAY_MAX_ATTEMPTS="2") as gateway,
        grpc.insecure_channel(gateway.internal_address) as channel,
    ):
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        for worker in gateway.backends.workers:
            worker.slow = True
        held = [stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30) for _ in range(2)]
        for stream in held:
            next(stream)
        error = _refused(
            lambda: list(stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30))
        )

    _assert_told_when_to_come_back(error, "GATEWAY_FULL")


def test_one_connection_too_many_is_closed_and_services_still_connect(tmp_path: Path) -> None:
    with open_gateway(tmp_path, HMA_GATEWAY_MAX_CONNECTIONS="4") as gateway, ExitStack() as held:
        for _ in range(4):
            connection = held.enter_context(closing(http.client.HTTPConnection(gateway.address)))
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        host, port = gateway.address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as one_more:
            assert one_more.recv(1) == b""
        with grpc.insecure_channel(gateway.internal_address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            answers = list(stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30))

    assert len(answers) == 1


def test_streams_above_the_limit_of_a_connection_wait_for_others_to_end(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_GATEWAY_MAX_STREAMS="2") as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        held = [
            stub.WatchJob(meta_agent_pb2.WatchJobRequest(job_id="job-held"), timeout=30)
            for _ in range(2)
        ]
        for stream in held:
            next(stream)
        before = len(gateway.backends.meta_agent.requests)
        waiting = stub.GetJob.future(meta_agent_pb2.GetJobRequest(job_id="job-9"), timeout=30)
        # Over another connection the gateway answers: it is this one that is full.
        assert _get(gateway).status == 200
        assert not waiting.done()
        asked = gateway.backends.meta_agent.requests[before:]
        assert "job-9" not in [each.job_id for each in asked]
        gateway.backends.meta_agent.release.set()
        for stream in held:
            list(stream)
        assert waiting.result().job_id == "job-9"


def test_short_of_memory_requests_are_resource_exhausted(tmp_path: Path) -> None:
    pressure = tmp_path / "pressure"
    pressure.write_text("0")

    def inject(configuration: Any) -> None:
        manager = configuration["overload_manager"]
        injected = "envoy.resource_monitors.injected_resource"
        kind = "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3"
        for each in (*manager["resource_monitors"], *_triggers(manager)):
            if each["name"] == "envoy.resource_monitors.fixed_heap":
                each["name"] = injected
                if "typed_config" in each:
                    each["typed_config"] = {
                        "@type": f"{kind}.InjectedResourceConfig",
                        "filename": str(pressure),
                    }

    def press(value: str) -> None:
        # Envoy watches for the file being moved to its place.
        fresh = pressure.with_suffix(".new")
        fresh.write_text(value)
        fresh.rename(pressure)

    with (
        open_gateway(tmp_path, inject) as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        press("0.96")
        reply = _until(gateway, 429)
        error = _refused(
            lambda: stub.GetJob(meta_agent_pb2.GetJobRequest(job_id="job-1"), timeout=30)
        )
        press("0.5")
        _until(gateway, 200)

    _assert_429(reply, "GATEWAY_OVERLOADED")
    _assert_told_when_to_come_back(error, "GATEWAY_OVERLOADED")


def _triggers(manager: Any) -> Iterator[Any]:
    for action in manager["actions"]:
        yield from action["triggers"]


def _until(gateway: Gateway, status: int) -> Reply:
    end = time.monotonic() + 30
    while (reply := _get(gateway)).status != status:
        assert time.monotonic() < end, reply
        time.sleep(0.05)
    return reply


# --- how long ---


def test_a_request_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_GATEWAY_REQUEST_TIMEOUT="1s") as gateway,
        _raw(gateway) as slow,
    ):
        head = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n"
        slow.sendall(head + b"{")
        answer = _read(slow)

    assert answer.startswith(b"HTTP/1.1 408"), answer


def test_a_head_that_does_not_end_and_a_connection_without_requests_are_ended(
    tmp_path: Path,
) -> None:
    def hurry(configuration: Any) -> None:
        listener = configuration["static_resources"]["listeners"][0]
        manager = listener["filter_chains"][0]["filters"][-1]["typed_config"]
        assert manager["request_headers_timeout"] == "10s"
        manager["request_headers_timeout"] = "1s"

    with (
        open_gateway(tmp_path, hurry, HMA_GATEWAY_IDLE_TIMEOUT="1s") as gateway,
        _raw(gateway) as slow,
        _raw(gateway) as silent,
    ):
        slow.sendall(b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\nx-a: ")
        answer = _read(slow)
        assert silent.recv(1) == b""

    assert answer.startswith(b"HTTP/1.1 408"), answer


def _raw(gateway: Gateway) -> socket.socket:
    host, port = gateway.address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def _read(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


# --- balance ---


def _wait_until_all_work(stub: worker_pb2_grpc.WorkerServiceStub, workers: int) -> None:
    """Waits until the gateway gives streams to each Worker."""
    seen: set[str] = set()
    end = time.monotonic() + 30
    while len(seen) < workers:
        assert time.monotonic() < end, seen
        for response in stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30):
            seen.add(response.report.progress.phase)


def test_workers_get_streams_by_how_many_they_have_open(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_LOCAL_WORKERS="3") as gateway,
        grpc.insecure_channel(gateway.internal_address) as channel,
    ):
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        _wait_until_all_work(stub, 3)
        workers = gateway.backends.workers
        workers[0].slow = True
        held: list[Any] = []
        ended: Counter[str] = Counter()
        for _ in range(120):
            stream = stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30)
            name = next(stream).report.progress.phase
            if name == "worker-1":
                held.append(stream)
            else:
                list(stream)
                ended[name] += 1
        workers[0].release.set()
        for stream in held:
            list(stream)

    # Turn by turn the slow one would have had forty; picked twice at random, about thirteen.
    assert len(held) <= 26
    assert min(ended.values()) > 26


def test_a_worker_that_has_just_died_costs_no_stream(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_LOCAL_WORKERS="3") as gateway,
        grpc.insecure_channel(gateway.internal_address) as channel,
    ):
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        _wait_until_all_work(stub, 3)
        dead = gateway.backends.workers[0].server
        assert dead is not None
        dead.stop(0).wait()
        # It has the fewest streams open, so it is what the gateway would pick.
        streams = [stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30) for _ in range(20)]
        names = {next(stream).report.progress.phase for stream in streams}

    assert names == {"worker-2", "worker-3"}


def test_open_streams_are_spread_evenly(tmp_path: Path) -> None:
    with (
        open_gateway(tmp_path, HMA_LOCAL_WORKERS="3") as gateway,
        grpc.insecure_channel(gateway.internal_address) as channel,
    ):
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        _wait_until_all_work(stub, 3)
        for worker in gateway.backends.workers:
            worker.slow = True
        streams = [stub.Execute(iter([worker_pb2.ExecuteRequest()]), timeout=30) for _ in range(30)]
        names = Counter(next(stream).report.progress.phase for stream in streams)

    assert max(names.values()) - min(names.values()) <= 6, names


def test_a_flood_does_not_keep_others_waiting(by_address: Gateway) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            _get(by_address, x_forwarded_for="192.0.2.77")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        statuses = [_get(by_address, x_forwarded_for=f"198.51.100.{n}").status for n in range(20)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert statuses == [200] * 20
