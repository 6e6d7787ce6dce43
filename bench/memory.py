"""Memory of a MetaAgent with many open Execute streams, and of a Worker.

    python -m bench.memory --streams 500

A MetaAgent and a Worker run as processes on an embedded PostgreSQL; the model server answers
nothing, so that every task stays open. Printed: resident memory (RSS, and USS: what is the
process's alone) when idle, with all streams open, and when their jobs were cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil

import hma
from hma.local.database import database_url
from hma.local.readiness import Check, database_answers, grpc_serves
from hma.local.tether import tethered
from hma.v1 import task_pb2
from tests.chaos.ports import free_ports
from tests.scripted_llm import Reply, ScriptedLLM

TASKS = 50
"""Tasks of each job."""

_HOST = "127.0.0.1"
_PATIENCE = 120.0
_MIB = 1 << 20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Memory of a MetaAgent and of a Worker.")
    parser.add_argument("--streams", type=int, default=500)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="hma-memory-"))
        os.chmod(name, 0o755)  # PostgreSQL may run as another user
        asyncio.run(_measure(Path(name), arguments.streams, stack))


async def _measure(directory: Path, streams: int, stack: ExitStack) -> None:
    ports = free_ports()
    meta_agent, meta_metrics, worker, worker_metrics, nobody = (next(ports) for _ in range(5))
    data = directory / "pg" / "data"
    never = Reply(hang_after=0)
    async with ScriptedLLM(lambda call: never, context_tokens=32_768) as llm:
        environment = {
            **os.environ,
            **llm.environment(),
            "HMA_LLM_PROFILE": "standard",
            "HMA_AUTH": "none",
            "HMA_DATABASE_URL": database_url(data),
            "HMA_META_AGENT_PORT": str(meta_agent),
            "HMA_META_AGENT_METRICS_PORT": str(meta_metrics),
            "HMA_WORKER_PORT": str(worker),
            "HMA_WORKER_METRICS_PORT": str(worker_metrics),
            "HMA_META_AGENT_ADDRESS": f"{_HOST}:{meta_agent}",
            "HMA_WORKER_ADDRESS": f"{_HOST}:{worker}",
            "HMA_ANALYST_ADDRESS": f"{_HOST}:{nobody}",
            "HMA_REDUCER_ADDRESS": f"{_HOST}:{nobody}",
            "HMA_MAX_TASKS_IN_FLIGHT": str(streams),
            "MAX_CONCURRENT_WORKERS": str(streams),
        }
        postgres = [sys.executable, "-m", "hma.local.database", str(data), "-c", "fsync=off"]
        await _start(stack, directory, "database", postgres, environment, _answers(data))
        roles = {"meta_agent": meta_agent, "worker": worker}
        processes = {}
        for role, port in roles.items():
            command = [sys.executable, "-m", f"services.{role}"]
            processes[role] = await _start(
                stack, directory, role, command, environment, grpc_serves(f"{_HOST}:{port}")
            )
        _print("idle", processes)
        async with hma.AsyncClient(f"{_HOST}:{meta_agent}") as client:
            jobs = [await _submit(client) for _ in range(-(-streams // TASKS))]
            await llm.wait_until(lambda server: server.running >= streams, _PATIENCE)
            _print(f"{llm.running} streams", processes)
            for job_id in jobs:
                await client.cancel(job_id)
            for job_id in jobs:
                await client.wait(job_id)
        _print("after", processes)


def _answers(data: Path) -> Check:
    return database_answers(database_url(data))


async def _submit(client: hma.AsyncClient) -> str:
    plan = task_pb2.Plan()
    for number in range(TASKS):
        plan.tasks.add(id=f"t{number}", instruction=f"Write about the number {number}.")
    return await client.submit("Write.", plan=plan, budget=500_000, deadline=300)


async def _start(
    stack: ExitStack,
    directory: Path,
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    ready: Check,
) -> psutil.Process:
    log = stack.enter_context((directory / f"{name}.log").open("wb"))
    process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait
        tethered(command, signal.SIGKILL),
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    end = time.monotonic() + _PATIENCE
    while not await asyncio.to_thread(ready):
        if process.poll() is not None or time.monotonic() > end:
            sys.exit((directory / f"{name}.log").read_text())
    return psutil.Process(process.pid)


def _print(moment: str, processes: Mapping[str, psutil.Process]) -> None:
    for role, process in processes.items():
        memory = process.memory_full_info()
        print(
            f"{moment:<14} {role:<11} RSS {memory.rss / _MIB:6.1f} MiB"
            f"   USS {memory.uss / _MIB:6.1f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
