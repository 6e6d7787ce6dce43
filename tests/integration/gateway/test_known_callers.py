"""Callers whom a real Envoy takes for known, without asking the MetaAgent again."""

from __future__ import annotations

import http.client
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc
from tests.integration.gateway.conftest import Gateway, open_gateway


def _open(
    directory: Path, change: Callable[[Any], None] = lambda _: None, **settings: str
) -> AbstractContextManager[Gateway]:
    key = directory / "internal-key"
    key.write_text(secrets.token_hex(32))
    return open_gateway(
        directory,
        change,
        HMA_AUTH="on",
        HMA_INTERNAL_KEY_FILE=str(key),
        HMA_GATEWAY_ADDRESS_RATE="0",
        **settings,
    )


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """An Envoy that takes callers for known as long as it may: no test comes too late."""
    directory = tmp_path_factory.mktemp("patient")
    with _open(directory, HMA_GATEWAY_KNOWN_CALLERS="10s") as opened:
        yield opened


class Client:
    """One HTTP connection, which one thread of Envoy serves."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(gateway.address, timeout=30)
        self._gateway = gateway

    def get(self, path: str = "/v1/jobs/job-1", **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", path, headers=names)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def get_raw(self, *headers: tuple[str, str]) -> int:
        self._connection.putrequest("GET", "/v1/jobs/job-1")
        for name, value in headers:
            self._connection.putheader(name, value)
        self._connection.endheaders()
        response = self._connection.getresponse()
        response.read()
        return response.status

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def client(patient: Gateway) -> Iterator[Client]:
    opened = Client(patient)
    patient.backends.door.asked.clear()
    patient.backends.meta_agent.metadata.clear()
    yield opened
    opened.close()


def test_who_calls_again_is_known_and_shows_the_same_identity(
    patient: Gateway, client: Client
) -> None:
    patient.backends.door.tenants["Bearer one"] = "acme"
    assert [client.get(authorization="Bearer one") for _ in range(5)] == [200] * 5
    assert len(patient.backends.door.asked) == 1
    seen = patient.backends.meta_agent.metadata
    assert {each["x-hma-identity"] for each in seen} == {"identity 1 of acme"}
    assert not any("authorization" in each for each in seen)
    assert len({each["x-request-id"] for each in seen}) == 5


def test_nobody_is_known_for_another(patient: Gateway, client: Client) -> None:
    tenants = patient.backends.door.tenants
    tenants |= {"Bearer two": "acme", "two": "birds", "Bearer two\nthree": "cats"}
    assert client.get(authorization="Bearer two") == 200
    assert client.get(x_api_key="two") == 200
    assert client.get(authorization="Bearer three") == 401
    assert client.get(authorization="bearer two") == 401
    assert client.get() == 401
    # What was asked of one of two is no answer for both, in any order or split.
    assert client.get(authorization="Bearer two", x_api_key="three") == 200
    patient.backends.meta_agent.metadata.clear()
    assert client.get(authorization="Bearer two") == 200
    assert client.get(x_api_key="two") == 200
    told = [each["x-hma-identity"] for each in patient.backends.meta_agent.metadata]
    assert told == ["identity 1 of acme", "identity 2 of birds"]


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_who_shows_a_second_credential_is_not_who_showed_the_first(
    patient: Gateway, client: Client, name: str
) -> None:
    patient.backends.door.tenants["Bearer four"] = "acme"
    assert client.get_raw((name, "Bearer four")) == 200
    for twice in (("Bearer four", "Bearer five"), ("Bearer five", "Bearer four")):
        assert client.get_raw(*((name, value) for value in twice)) == 401
    assert client.get_raw((name, "Bearer four"), (name, "Bearer four")) == 401


def test_who_shows_more_than_is_kept_is_asked_about_each_time(
    patient: Gateway, client: Client
) -> None:
    door = patient.backends.door
    # Blanks before a key do not make it another.
    short, long = (f"Bearer{' ' * blanks}ten" for blanks in (1_000, 8_192))
    door.tenants |= {short: "acme", long: "acme"}
    for credential, questions in ((short, 1), (long, 3)):
        door.asked.clear()
        assert [client.get(authorization=credential) for _ in range(3)] == [200] * 3
        assert len(door.asked) == questions


def test_who_was_refused_is_asked_about_again(patient: Gateway, client: Client) -> None:
    assert client.get(authorization="Bearer six") == 401
    patient.backends.door.tenants["Bearer six"] = "acme"
    assert client.get(authorization="Bearer six") == 200


def test_a_known_caller_is_asked_about_before_it_reads_metrics(
    patient: Gateway, client: Client
) -> None:
    door = patient.backends.door
    door.tenants["Bearer seven"] = "acme"
    assert client.get(authorization="Bearer seven") == 200
    assert client.get("/metrics", authorization="Bearer seven") == 200
    assert client.get("/metrics", authorization="Bearer seven") == 200
    roles = [each.attributes.context_extensions.get("least_role", "") for each in door.asked]
    assert roles == ["", "operator", "operator"]


def test_a_client_cannot_say_that_it_is_known(patient: Gateway, client: Client) -> None:
    forged = {"x_hma_identity": "identity 1 of acme", "x_hma_known_caller": "true"}
    assert client.get(**forged) == 401
    patient.backends.door.tenants["Bearer eight"] = "acme"
    for _ in range(2):
        assert client.get(authorization="Bearer eight", **forged) == 200
    told = {each["x-hma-identity"] for each in patient.backends.meta_agent.metadata}
    assert told == {"identity 2 of acme"}


def test_callers_by_grpc_are_known_too(patient: Gateway, client: Client) -> None:
    door = patient.backends.door
    door.tenants["Bearer nine"] = "acme"
    ask = meta_agent_pb2.GetJobRequest(job_id="job-1")
    metadata = (("authorization", "Bearer nine"),)
    with grpc.insecure_channel(patient.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        for _ in range(3):
            stub.GetJob(ask, metadata=metadata, timeout=30)
    assert len(door.asked) == 1


def test_a_call_that_waited_does_not_bring_an_older_answer_back(
    patient: Gateway, client: Client
) -> None:
    door, meta_agent = patient.backends.door, patient.backends.meta_agent
    door.tenants["Bearer eleven"] = "acme"
    ask = meta_agent_pb2.GetJobRequest(job_id="job-1")
    metadata = (("authorization", "Bearer eleven"),)
    meta_agent.release.clear()
    # One connection, which one thread of Envoy serves.
    with grpc.insecure_channel(patient.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        slow = meta_agent_pb2.ListJobsRequest(page_token="slow")
        waiting = stub.ListJobs.future(slow, metadata=metadata, timeout=60)
        while not (door.asked or waiting.done()):
            time.sleep(0.01)
        stub.GetJob(ask, metadata=metadata, timeout=30)
        meta_agent.release.set()
        waiting.result(30)
        stub.GetJob(ask, metadata=metadata, timeout=30)
    told = [each["x-hma-identity"] for each in meta_agent.metadata]
    assert "identity 1 of acme" not in told


def test_tenants_rates_count_known_callers(tmp_path: Path) -> None:
    with _open(
        tmp_path,
        HMA_GATEWAY_KNOWN_CALLERS="10s",
        HMA_GATEWAY_TENANT_READ_RATE="1",
        HMA_GATEWAY_BURST="3",
    ) as gateway:
        door = gateway.backends.door
        door.tenants |= {"Bearer a": "acme", "Bearer b": "birds"}
        client = Client(gateway)
        answers = [client.get(authorization="Bearer a") for _ in range(30)]
        assert answers[:3] == [200] * 3
        assert 429 in answers
        assert client.get(authorization="Bearer b") == 200
        client.close()


def test_a_moment_later_it_is_asked_again(tmp_path: Path) -> None:
    with _open(tmp_path, HMA_GATEWAY_KNOWN_CALLERS="0.1s") as gateway:
        door = gateway.backends.door
        door.tenants["Bearer a"] = "acme"
        client = Client(gateway)
        while len(door.asked) < 3:
            assert client.get(authorization="Bearer a") == 200
        del door.tenants["Bearer a"]
        while client.get(authorization="Bearer a") != 401:
            pass
        client.close()


def test_without_it_every_request_is_asked_about(tmp_path: Path) -> None:
    with _open(tmp_path, HMA_GATEWAY_KNOWN_CALLERS="0") as gateway:
        door = gateway.backends.door
        door.tenants["Bearer a"] = "acme"
        door.asked.clear()
        client = Client(gateway)
        assert [client.get(authorization="Bearer a") for _ in range(3)] == [200] * 3
        assert len(door.asked) == 3
        client.close()


def test_when_the_script_fails_every_request_is_asked_about(tmp_path: Path) -> None:
    def break_script(configuration: Any) -> None:
        manager = configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][
            -1
        ]
        (lua,) = (
            each
            for each in manager["typed_config"]["http_filters"]
            if each["name"] == "hma.known_callers"
        )
        code = lua["typed_config"]["default_source_code"]
        code["inline_string"] = code["inline_string"].replace("  turn(now)\n", "  error('x')\n")

    with _open(tmp_path, break_script, HMA_GATEWAY_KNOWN_CALLERS="10s") as gateway:
        door = gateway.backends.door
        door.tenants["Bearer a"] = "acme"
        door.asked.clear()
        client = Client(gateway)
        assert [client.get(authorization="Bearer a") for _ in range(3)] == [200] * 3
        assert client.get(authorization="Bearer b") == 401
        assert len(door.asked) == 4
        client.close()
