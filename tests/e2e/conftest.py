"""The whole system, as `make up` starts it, on ports and data of its own.

One stack serves all tests of the session: real PostgreSQL, Envoy, services and, unless
HMA_LLM_BASE_URL names another server, llama.cpp with SmolLM2.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hma.local.settings import StackSettings, load_stack
from hma.local.tether import tethered

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCUMENT = """# Harbour handbook

## Refunds
Refunds above 200 euros are approved by Ines Falk. Smaller refunds are approved by the till.

## Opening
The harbour office opens at 07:30 and closes at 18:00.

## Boats
The ferry is called Moorhen. It carries 84 passengers.
"""
TASK = "1. Who approves refunds above 200 euros?\n2. When does the harbour office open?"


@dataclass(frozen=True)
class Stack:
    """A running stack and ways to use it."""

    settings: StackSettings
    directory: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """host:port of the gateway."""
        return f"127.0.0.1:{self.settings.gateway_port}"

    def run(self, *command: str | Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        """Runs a command as a user of the stack would."""
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
        )

    def hma(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the `hma` command line."""
        return self.run(BIN / "hma", *arguments)

    def curl(self, path: str, *arguments: str) -> str:
        """The body of what curl gets from the gateway."""
        url = f"http://{self.address}{path}"
        done = self.run("curl", "-sS", "--max-time", "90", url, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def curl_json(self, path: str, *arguments: str) -> Any:
        """The same, parsed."""
        return json.loads(self.curl(path, *arguments))

    def post(self, path: str, body: Any) -> Any:
        """POSTs JSON with curl."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self.curl_json(path, "-H", "Content-Type: application/json", "-d", text)

    def grpcurl(
        self, method: str, request: Any = None, *, address: str = "", protoset: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Calls a method with grpcurl; without protoset by reflection."""
        how: list[str | Path] = ["-protoset", protoset] if protoset else []
        return self.run(
            *(BIN / "grpcurl", "-plaintext", *how, "-d", json.dumps(request or {})),
            *(address or self.address, method),
        )

    def call(self, method: str, request: Any = None) -> Any:
        """Calls a public method with grpcurl; the response, parsed."""
        done = self.grpcurl(f"hma.v1.MetaAgentService/{method}", request)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout, object_hook=_with_proto_names)

    def job(self, **changes: Any) -> dict[str, Any]:
        """A small job about the document."""
        document = {"name": "handbook.md", "text": DOCUMENT}
        job = {"task_description": TASK, "documents": [document], "total_budget_tokens": 4000}
        return {**job, **changes}


def _with_proto_names(message: dict[str, Any]) -> dict[str, Any]:
    """grpcurl prints jobId or job_id, as the descriptors it got have it."""
    return {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", key): message[key] for key in message}


@contextmanager
def running_stack(directory: Path, **changes: str) -> Iterator[Stack]:
    """A stack in a new directory, on ports of its own; `changes` are of its environment."""
    directory.mkdir()
    (directory / "handbook.md").write_text(DOCUMENT)
    inherited = {**os.environ, **changes}
    zeros = {
        variable: "0"
        for variable, _, _ in StackSettings().ports()
        if variable != "HMA_LLM_PORT" or not inherited.get("HMA_LLM_BASE_URL")
    }
    environment = {**inherited, **zeros, "HMA_DATA_DIR": str(directory / "var")}
    settings = load_stack(environment)
    environment |= {variable: str(port) for variable, port in _table(settings).items()}
    environment["HMA_SERVER"] = f"127.0.0.1:{settings.gateway_port}"
    output = directory / "up.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            tethered([sys.executable, "-m", "hma.local", "up"], signal.SIGTERM),
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment,
        )
    try:
        while not re.search("HMA serves at", output.read_text()):
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"the stack did not start: {output.read_text()}")
        yield Stack(settings, directory, environment)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 0, output.read_text()


@pytest.fixture(scope="session")
def stack(open_directory: Path) -> Iterator[Stack]:
    """The stack of the session; who calls is the business of test_access.py."""
    with running_stack(open_directory / "e2e", HMA_AUTH="none") as running:
        yield running


def _table(settings: StackSettings) -> dict[str, int]:
    table: dict[str, int] = {}
    for variable, _, port in settings.ports():
        table.setdefault(variable, port)
    return table


@pytest.fixture(scope="session")
def finished_job(stack: Stack) -> dict[str, Any]:
    """A job that has ended with an answer, made over HTTP."""
    reply = stack.post("/submit?wait=90s", stack.job())
    assert reply["job"]["state"] in ("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIAL"), reply
    job: dict[str, Any] = reply["job"]
    return job
