"""A real Envoy with the shipped configuration, in front of scripted services."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hma.local.gateway import command, write_configuration
from hma.local.settings import StackSettings, load_stack
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc
from tests.integration.gateway.scripted import Backends

_ANY_PORT = {
    f"HMA_{name}_PORT": "0"
    for name in (
        *("GATEWAY", "GATEWAY_INTERNAL", "GATEWAY_ADMIN", "META_AGENT", "ANALYST", "REDUCER"),
        *("WORKER", "META_AGENT_METRICS", "ANALYST_METRICS", "REDUCER_METRICS"),
        *("WORKER_METRICS", "LLM"),
    )
}


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Gateway:
    """Where the gateway is and what stands behind it."""

    settings: StackSettings
    backends: Backends
    log: Path

    @property
    def address(self) -> str:
        """host:port of the public listener."""
        return f"127.0.0.1:{self.settings.gateway_port}"

    @property
    def internal_address(self) -> str:
        """host:port of the internal listener."""
        return f"127.0.0.1:{self.settings.gateway_internal_port}"

    def http(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> Reply:
        """One HTTP/1.1 call; `content_type` and the like name headers."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            names_back = [name for name, _ in response.getheaders()]
            assert len(names_back) == len(set(names_back)), names_back
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Envoy and its scripted services, with limits that no test of others meets."""
    with open_gateway(tmp_path_factory.mktemp("gateway"), HMA_GATEWAY_ADDRESS_RATE="0") as opened:
        yield opened


@contextmanager
def open_gateway(
    directory: Path,
    change: Callable[[Any], None] = lambda configuration: None,
    **environment: str,
) -> Iterator[Gateway]:
    """Envoy and scripted services of a test's own.

    Args:
        directory: For configuration and log.
        change: Changes the configuration, for what no setting can bring about.
        environment: Settings.
    """
    own = {"HMA_DATA_DIR": str(directory), "HMA_AUTH": "none"}
    settings = load_stack({**_ANY_PORT, **own, **environment})
    path = write_configuration(settings)
    configuration = json.loads(path.read_text())
    for cluster in configuration["static_resources"]["clusters"]:
        for check in cluster.get("health_checks", []):
            # That this process answers late, as it works, is no failure of a backend.
            check["timeout"] = "30s"
    change(configuration)
    path.write_text(json.dumps(configuration))
    backends = Backends(settings)
    log = directory / "envoy.log"
    with log.open("w") as output:
        process = subprocess.Popen(command(path), stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_routed(f"127.0.0.1:{settings.gateway_port}")
        _wait_until_healthy(settings.gateway_admin_port)
        assert process.poll() is None, log.read_text()
        yield Gateway(settings, backends, log)
    finally:
        process.terminate()
        process.wait(30)
        backends.close()


def _wait_until_healthy(port: int) -> None:
    """Waits until Envoy has found every service healthy."""
    end = time.monotonic() + 30
    while unhealthy := [
        line
        for line in _clusters(port).splitlines()
        if "::health_flags::" in line and not line.endswith("::healthy")
    ]:
        assert time.monotonic() < end, unhealthy
        time.sleep(0.05)


def _clusters(port: int) -> str:
    connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=30)
    try:
        connection.request("GET", "/clusters")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _wait_until_routed(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        end = time.monotonic() + 30
        while True:
            try:
                stub.GetJob(
                    meta_agent_pb2.GetJobRequest(job_id="probe"), timeout=30, wait_for_ready=True
                )
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    return  # the MetaAgent was asked
                if time.monotonic() > end:
                    raise
            else:
                return
