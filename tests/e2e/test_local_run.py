"""`make run` with a job of the user's own: a whole stack for one job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from hma.local.settings import StackSettings
from tests.e2e.conftest import DOCUMENT


def test_own_job_is_run_and_nothing_is_left(open_directory: Path) -> None:
    directory = open_directory / "own job"
    directory.mkdir()
    (directory / "hand book.md").write_text(DOCUMENT)
    environment = {
        **os.environ,
        **{variable: "0" for variable, _, _ in StackSettings().ports()},
        "HMA_DATA_DIR": "here",
        "TASK": "Who approves refunds above 200 euros, if it's not the till?",
        "DOCS": "'hand book.md'",
        "BUDGET": "2000",
        "DEADLINE": "80s",
    }
    done = subprocess.run(
        [sys.executable, "-m", "hma.local", "run"],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 2,000 tokens" in done.stdout
    assert "hand book.md" in done.stdout
    assert "gateway" in done.stderr
    left = [p for p in psutil.process_iter(["cmdline"]) if str(directory) in _words(p)]
    assert left == []


def _words(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or [])
