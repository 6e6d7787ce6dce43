"""A service as a process of its own: a Worker whose work lasts as long as its task says.

python -m tests.integration.rpc.scripted_service
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hma.rpc.attempt import Attempt
from hma.rpc.attempt_server import AttemptTiming
from hma.rpc.server import ServerSettings, Service, serve
from hma.rpc.service import run_service
from hma.rpc.slots import Slots
from hma.settings import Secret, is_port, setting
from hma.telemetry.metrics import new_registry
from hma.v1 import attempt_pb2, worker_pb2_grpc
from tests.integration.rpc.support import Reports, ScriptedWorker, succeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedServer(ServerSettings):
    """Ports of the scripted service."""

    port: int = setting("HMA_SCRIPTED_PORT", 0, "gRPC port", check=is_port)
    metrics_port: int = setting("HMA_SCRIPTED_METRICS_PORT", 0, "metrics port", check=is_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the scripted service."""

    server: ScriptedServer = field(default_factory=ScriptedServer)
    ready_file: str = setting("HMA_SCRIPTED_READY_FILE", "", "ready while it exists")
    key: Secret = setting("HMA_SCRIPTED_KEY", Secret(""), "a secret")
    defect: bool = setting("HMA_SCRIPTED_DEFECT", False, "fail at the start")


async def work(start: Any, attempt: Attempt) -> attempt_pb2.AttemptResult:
    """Lasts as long as the task's title says, in seconds, unless it is stopped."""
    try:
        async with asyncio.timeout(float(start.task.title)):
            await attempt.stop.wait()
    except TimeoutError:
        return succeeded()
    return attempt_pb2.AttemptResult(state=attempt_pb2.ATTEMPT_STATE_PARTIAL)


async def main(settings: Settings) -> None:
    """Serves."""
    if settings.defect:
        raise ZeroDivisionError(f"with {settings.key.reveal()}")

    async def readiness() -> tuple[bool, str]:
        there = Path(settings.ready_file).exists()  # noqa: ASYNC240 - a stat in a test
        return there, "" if there else "the file is not there"

    async with Slots(4) as slots:
        servicer = ScriptedWorker(work, slots, Reports(), AttemptTiming())
        register = partial(worker_pb2_grpc.add_WorkerServiceServicer_to_server, servicer)
        await serve(
            settings.server,
            [Service("hma.v1.WorkerService", register)],
            readiness=readiness,
            registry=new_registry(),
            hand_over=slots.hand_over,
            on_serving=lambda port, metrics: print(json.dumps([port, metrics]), flush=True),
        )


if __name__ == "__main__":
    run_service("scripted", Settings, main)
