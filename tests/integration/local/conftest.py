"""A local stack with real PostgreSQL and Envoy, and stand-ins for the services."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]
PORTS = (
    *("GATEWAY", "GATEWAY_INTERNAL", "GATEWAY_ADMIN", "META_AGENT", "ANALYST", "REDUCER"),
    *("WORKER", "META_AGENT_METRICS", "ANALYST_METRICS", "REDUCER_METRICS", "WORKER_METRICS"),
)

_STAND_IN = """
    import os, signal, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    role = __package__.split(".")[1].upper()
    if os.environ.get("STAND_IN_REFUSES") == role:
        sys.exit("the stand-in does not want to")
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port("127.0.0.1:" + os.environ[f"HMA_{role}_PORT"])
    server.start()
    print("process", os.getpid(), flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    server.stop(0).wait()
"""


@dataclass
class LocalStack:
    """A `python -m hma.local` of a test."""

    directory: Path
    process: subprocess.Popen[str]
    mark: str
    lines: list[str] = field(default_factory=list)

    def wait_until_serving(self) -> None:
        """Reads until the examples are printed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "HMA serves at" in line:
                return
        raise AssertionError(f"the stack did not start: {''.join(self.lines)}")

    def end(self, number: signal.Signals | None = None) -> int:
        """Signals the stack's process, waits for its end, returns its exit code."""
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=60)
        self.lines.append(output)
        return self.process.returncode

    @property
    def output(self) -> str:
        """All that it printed so far."""
        return "".join(self.lines)

    def leftovers(self) -> list[psutil.Process]:
        """Processes that the stack has started and that still run."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def wait_until_nothing_is_left(self) -> None:
        """Waits for all of its processes to be gone."""
        end = time.monotonic() + 30
        while left := self.leftovers():
            assert time.monotonic() < end, left
            time.sleep(0.05)

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            dead = process.status() == psutil.STATUS_ZOMBIE
            return not dead and process.environ().get("STACK_OF_TEST") == self.mark
        except psutil.Error:
            return False


class Starter:
    """Starts stacks on ports of their own, with a data directory that a module shares."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[LocalStack] = []
        for role in ("analyst", "meta_agent", "reducer", "worker"):
            package = directory / "stand_ins" / "services" / role
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(textwrap.dedent(_STAND_IN))
        (directory / "stand_ins" / "services" / "__init__.py").touch()

    def __call__(self, data: str = "data", **environment: str) -> LocalStack:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            [sys.executable, "-m", "hma.local", "up"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env={
                **os.environ,
                **{f"HMA_{port}_PORT": "0" for port in PORTS},
                "PYTHONPATH": f"{self.directory / 'stand_ins'}{os.pathsep}{ROOT}",
                "STACK_OF_TEST": mark,
                "HMA_DATA_DIR": str(self.directory / data),
                # Loading the embedded model is the e2e's business.
                "HMA_LLM_BASE_URL": "http://127.0.0.1:1/v1",
                # The stand-ins make no keys.
                "HMA_AUTH": "none",
                **environment,
            },
        )
        stack = LocalStack(self.directory / data, process, mark)
        self.started.append(stack)
        return stack


@pytest.fixture(scope="module")
def directory(open_directory: Path) -> Starter:
    """Stand-ins and data of a module's stacks."""
    path = open_directory / "local"
    path.mkdir()
    return Starter(path)


@pytest.fixture
def start(directory: Starter) -> Iterator[Starter]:
    """Starts stacks; ends those that a test has not ended."""
    yield directory
    for stack in directory.started:
        if stack.process.poll() is None:
            stack.process.kill()
        stack.process.wait(30)
        if stack.process.stdout is not None:
            stack.process.stdout.close()
        stack.wait_until_nothing_is_left()
    directory.started.clear()
