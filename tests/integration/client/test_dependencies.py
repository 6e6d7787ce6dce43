"""The client needs grpcio, protobuf and googleapis-common-protos, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent

ROOT = Path(__file__).parents[3]

BLOCK = """
import sys

ALLOWED = {"grpc", "google", "hma", "typing_extensions"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in ALLOWED or top == "__main__":
            return None
        raise ImportError(f"the client may not import {name}")


sys.meta_path.insert(0, Blocker())
"""

USE = """
import asyncio
import hma

address = sys.argv[1]
with hma.Client(address) as client:
    job = client.run("Which ports?", documents=[("a.md", "8080")], budget=5000, deadline="1m")
    assert client.get(job.job_id).answer.text, "no answer"
    try:
        client.get("job-unknown")
    except hma.errors.NotFound as error:
        assert error.reason == "NOT_FOUND"


async def main():
    async with hma.AsyncClient(address) as client:
        return [update async for update in client.watch(job.job_id, events_only=True)]


assert asyncio.run(main())[-1].event.HasField("job_finished")
print(job.answer.text)
"""

LIGHT = """
import sys
import hma

heavy = {"grpc", "google", "asyncio", "hma.client", "hma.errors"} & set(sys.modules)
assert not heavy, heavy
assert hma.__version__
hma.Client
assert "hma.client" in sys.modules
assert not {"click", "rich", "hma.cli"} & set(sys.modules)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_client_works_with_everything_else_blocked(server: ScriptedMetaAgent) -> None:
    done = python(BLOCK + USE, server.address)
    assert done.returncode == 0, done.stderr
    assert "8080" in done.stdout


def test_the_block_blocks() -> None:
    done = python(BLOCK + "import click")
    assert "may not import click" in done.stderr


def test_importing_hma_loads_nothing_else() -> None:
    done = python(LIGHT)
    assert done.returncode == 0, done.stderr
