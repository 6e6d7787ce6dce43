"""The examples run as they are printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"


def run(code: str, address: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/ARCHITECTURE.md"):
        (tmp_path / name).write_text("The gateway listens on 8080.", encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HMA_SERVER": address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_quickstart_has_fifteen_lines_at_most() -> None:
    lines = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.startswith('"""')]
    assert len(code) <= 15


def test_quickstart_prints_the_answer(server: ScriptedMetaAgent, tmp_path: Path) -> None:
    code = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8")
    assert '"localhost:8080"' in code
    done = run(code.replace("localhost:8080", server.address), server.address, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "JOB_STATE_SUCCEEDED" in done.stdout
    assert "listens on **8080**" in done.stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("basic_workflow.py", ["job_created", "job_finished", "JOB_STATE_SUCCEEDED"]),
        ("parallel_workflows.py", ["s of work in", "pairwise overlap"]),
    ],
)
def test_example_runs(
    name: str, expected: list[str], server: ScriptedMetaAgent, tmp_path: Path
) -> None:
    done = run((EXAMPLES / name).read_text(encoding="utf-8"), server.address, tmp_path)
    assert done.returncode == 0, done.stderr
    for words in expected:
        assert words in done.stdout
