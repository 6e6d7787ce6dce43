"""A service as a real process: readiness, drain, exit codes, messages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hma.rpc.attempt_stream import Finished, execute_stream
from hma.rpc.channel import open_channel
from hma.rpc.http_health import HttpHealth
from hma.telemetry.metrics import MetricsServer
from hma.v1 import attempt_pb2
from tests.integration.gateway import frames
from tests.integration.rpc.support import BEAT, start_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ["", "hma.v1.WorkerService"]


def _start(environ: dict[str, str], *arguments: str) -> Any:
    return asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.rpc.scripted_service",
        *arguments,
        env={**os.environ, "HMA_READINESS_INTERVAL": "50ms", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@dataclass
class Running:
    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel
    port: int
    metrics_port: int
    ready_file: Path
    errors: asyncio.Task[bytes]

    async def health(self, name: str = "") -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=name))).status)

    async def until_health(self, status: int) -> None:
        async with asyncio.timeout(30):
            for name in NAMES:
                while await self.health(name) != status:  # noqa: ASYNC110 - in a process
                    await asyncio.sleep(0.02)

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def running(tmp_path: Path, **environ: str) -> AsyncIterator[Running]:
    ready_file = tmp_path / "ready"
    ready_file.touch()
    process = await _start({"HMA_SCRIPTED_READY_FILE": str(ready_file), **environ})
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line, await errors
        port, metrics_port = json.loads(line)
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield Running(process, channel, port, metrics_port, ready_file, errors)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await errors


async def _run(environ: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = await _start(environ, *arguments)
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_sigterm_lets_a_running_stream_finish_and_exits_0(tmp_path: Path) -> None:
    start = start_of()
    start.task.title = "3.5"
    async with (
        running(tmp_path, HMA_DRAIN_DELAY="2s", HMA_DRAIN_GRACE="60s") as service,
        execute_stream(service.channel, start, heartbeat=BEAT) as stream,
    ):
        await service.until_health(SERVING)
        items = aiter(stream)
        await anext(items)
        service.process.send_signal(signal.SIGTERM)
        # It still serves while load balancers take notice, but says that it will not.
        await service.until_health(NOT_SERVING)
        async for _ in items:
            pass
        assert isinstance(stream.outcome, Finished)
        assert stream.outcome.result.state == attempt_pb2.ATTEMPT_STATE_SUCCEEDED
        stream.ack()
        assert await service.ended() == 0
        log = (await service.errors).decode()
    assert "Traceback" not in log
    assert [json.loads(line)["message"] for line in log.splitlines()][-1] == "stopped"


async def test_an_attempt_that_comes_while_load_balancers_take_notice_is_handed_over(
    tmp_path: Path,
) -> None:
    start = start_of()
    start.task.title = "60"
    async with running(tmp_path, HMA_DRAIN_DELAY="4s", HMA_DRAIN_GRACE="5s") as service:
        await service.until_health(SERVING)
        service.process.send_signal(signal.SIGTERM)  # and nothing runs
        await service.until_health(NOT_SERVING)
        async with execute_stream(service.channel, start, heartbeat=BEAT) as stream:
            async for _ in stream:
                pass
            assert isinstance(stream.outcome, Finished)
            assert stream.outcome.result.handed_over
            stream.ack()
        assert await service.ended() == 0


async def test_streams_without_end_do_not_hold_up_the_drain(tmp_path: Path) -> None:
    async with running(tmp_path, HMA_DRAIN_DELAY="0s", HMA_DRAIN_GRACE="60s") as service:
        await service.until_health(SERVING)
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        service.process.send_signal(signal.SIGINT)
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await service.ended() == 0


async def test_a_second_signal_ends_what_still_runs(tmp_path: Path) -> None:
    start = start_of()
    start.task.title = "60"
    async with (
        running(tmp_path, HMA_DRAIN_DELAY="60s", HMA_DRAIN_GRACE="60s") as service,
        execute_stream(service.channel, start, heartbeat=BEAT) as stream,
    ):
        await anext(aiter(stream))
        service.process.send_signal(signal.SIGTERM)
        await service.until_health(NOT_SERVING)
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_health_follows_readiness(tmp_path: Path) -> None:
    async with running(tmp_path, HMA_DRAIN_DELAY="0s") as service:
        await service.until_health(SERVING)
        service.ready_file.unlink()
        await service.until_health(NOT_SERVING)
        url = f"http://127.0.0.1:{service.metrics_port}/metrics"
        page = await asyncio.to_thread(lambda: _read(url))
        assert "hma_ready 0.0" in page
        assert 'hma_rpcs_total{code="OK",method="/grpc.health.v1.Health/Check"}' in page
        service.ready_file.touch()
        await service.until_health(SERVING)
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0
        assert "the file is not there" in (await service.errors).decode()


async def test_http_probes_need_neither_grpc_nor_tls(tmp_path: Path) -> None:
    async with running(tmp_path, HMA_DRAIN_DELAY="30s", HMA_DRAIN_GRACE="60s") as service:

        async def until(path: str, status: int, text: str) -> None:
            url = f"http://127.0.0.1:{service.metrics_port}{path}"
            async with asyncio.timeout(5):
                while await asyncio.to_thread(_ask, url) != (status, text):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        await until("/readyz", 200, "ok\n")
        service.ready_file.unlink()
        await until("/readyz", 503, "the file is not there\n")
        await until("/healthz", 200, "ok\n")
        service.ready_file.touch()
        await until("/readyz", 200, "ok\n")
        service.process.send_signal(signal.SIGTERM)
        await until("/readyz", 503, "draining\n")
        await until("/healthz", 200, "ok\n")
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_a_watcher_that_reads_nothing_keeps_nobody_from_the_news(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.until_health(SERVING)
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as watcher:
            _watch_with_closed_window(watcher)
            service.ready_file.unlink()
            await service.until_health(NOT_SERVING)
            service.ready_file.touch()
            await service.until_health(SERVING)


def _watch_with_closed_window(connection: socket.socket) -> None:
    """Begins to watch the whole server's health, with room for no byte of an answer."""
    no_room = struct.pack(">HI", 4, 0)
    head = frames.head(
        "POST", "/grpc.health.v1.Health/Watch", content_type="application/grpc", te="trailers"
    )
    connection.sendall(
        frames.PREFACE
        + frames.frame(frames.SETTINGS, 0, 0, no_room)
        + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, head)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, bytes(5))
    )
    with connection.makefile("rb") as received:
        kind = frames.SETTINGS
        while kind != frames.HEADERS:
            began = received.read(9)
            received.read(int.from_bytes(began[:3]))
            kind = began[3]


async def test_a_process_whose_event_loop_stands_still_is_not_alive() -> None:
    standing = asyncio.new_event_loop()
    health = HttpHealth(standing)
    try:
        with MetricsServer("127.0.0.1", 0, health.pages) as server:
            url = f"http://127.0.0.1:{server.port}"
            status, text = await asyncio.to_thread(_ask, f"{url}/healthz")
            assert (status, "stood still" in text) == (503, True)
            assert await asyncio.to_thread(_ask, f"{url}/readyz") == (503, "starting\n")
            # It was ready when it stopped.
            health.say(True, "")
            status, text = await asyncio.to_thread(_ask, f"{url}/readyz")
            assert (status, "stood still" in text) == (503, True)
    finally:
        standing.close()


def _ask(url: str) -> tuple[int, str]:
    try:
        return 200, _read(url)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, str(error.read(), "utf-8")


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return str(response.read(), "utf-8")


async def test_reflection_lists_every_service(tmp_path: Path) -> None:
    async with running(tmp_path, HMA_DRAIN_DELAY="0s") as service:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = await call.read()
        names = {each.name for each in listed.list_services_response.service}
        assert {"hma.v1.WorkerService", "grpc.health.v1.Health"} <= names
        service.process.send_signal(signal.SIGTERM)
        # An open reflection stream is cut off after the grace; the second signal does not wait.
        await call.done_writing()
        assert await service.ended() == 0


async def test_a_taken_port_gives_a_message_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for variable in ("HMA_SCRIPTED_PORT", "HMA_SCRIPTED_METRICS_PORT"):
            code, _, err = await _run({variable: port})
            assert code == 1
            assert f"127.0.0.1:{port}" in err
            assert f"set {variable} " in err
            assert "Traceback" not in err


async def test_two_processes_never_share_a_port(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        code, _, err = await _run({"HMA_SCRIPTED_PORT": str(service.port)})
        assert code == 1
        assert "HMA_SCRIPTED_PORT" in err


async def test_wrong_settings_are_told_at_once_and_exit_2() -> None:
    code, _, err = await _run({"HMA_SCRIPTED_PORT": "99999999", "HMA_LOG_LEVEL": "loud"})
    assert code == 2
    assert "HMA_SCRIPTED_PORT" in err
    assert "HMA_LOG_LEVEL" in err
    assert len(err.splitlines()) == 1


async def test_help_lists_the_settings_and_an_unknown_argument_is_refused() -> None:
    code, out, _ = await _run({}, "--help")
    assert code == 0
    assert "HMA_SCRIPTED_PORT (int, default 0): gRPC port" in out
    assert "HMA_LOG_FORMAT" in out
    code, _, err = await _run({}, "--port=1")
    assert code == 2
    assert "HMA_SCRIPTED_PORT" in err


async def test_a_defect_ends_in_the_log_with_exit_1_and_without_secrets() -> None:
    code, _, err = await _run({"HMA_SCRIPTED_DEFECT": "1", "HMA_SCRIPTED_KEY": "hunter2!"})
    assert code == 1
    logged, said = err.splitlines()
    assert "ZeroDivisionError: with ***" in json.loads(logged)["exception"]
    assert said.startswith("scripted: ")
    assert "hunter2" not in err
