"""What a user does with `hma` and with the printed examples."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BIN, ROOT, TASK, Stack

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_run_streams_the_job_and_ends_with_it(stack: Stack) -> None:
    done = stack.hma(
        *("run", TASK, "--doc", "handbook.md", "--budget", "4000", "--deadline", "90s"),
        *("--output", "json"),
    )

    assert done.returncode in (0, 3), done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("event" in line for line in lines)
    job = lines[-1]["job"]
    assert job["answer"]["text"]
    assert 0 < job["ledger"]["spent_tokens"] <= 4000


def test_run_as_text_shows_answer_and_ledger(stack: Stack) -> None:
    done = stack.hma("run", TASK, "--doc", "handbook.md", "--budget", "3000")

    assert done.returncode in (0, 3), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "tokens" in done.stdout


def test_submit_watch_get_list_delete(stack: Stack) -> None:
    submitted = stack.hma("submit", TASK, "--doc", "handbook.md", "--budget", "3000")
    job_id = submitted.stdout.split()[-1]

    assert submitted.returncode == 0, submitted.stderr
    assert stack.hma("watch", job_id).returncode in (0, 3)
    assert job_id in stack.hma("get", job_id).stdout
    explained = stack.hma("explain", job_id)
    assert (explained.returncode, job_id in explained.stdout) == (0, True), explained.stderr
    assert "where the tokens went" in explained.stdout
    assert job_id in stack.hma("list").stdout
    assert stack.hma("delete", job_id).returncode == 0
    assert stack.hma("get", job_id).returncode == 6


def test_cancelled_job_exits_with_5(stack: Stack) -> None:
    job_id = _long_job(stack)

    assert stack.hma("cancel", job_id).returncode in (0, 5)
    assert stack.hma("watch", job_id).returncode == 5


def test_interrupted_job_still_answers(stack: Stack) -> None:
    job_id = _long_job(stack)

    assert stack.hma("interrupt", job_id).returncode in (0, 3)
    watched = stack.hma("watch", job_id)
    assert watched.returncode in (0, 3), watched.stdout + watched.stderr
    job = stack.curl_json(f"/v1/jobs/{job_id}")
    assert job["answer"]["text"]


def test_refused_request_exits_with_6_and_names_the_field(stack: Stack) -> None:
    done = stack.hma("run", "What?", "--budget", "1")

    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "token" in done.stderr.lower()


def test_status_and_doctor_find_everything_up(stack: Stack) -> None:
    assert stack.hma("status").returncode == 0
    doctor = stack.hma("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_finished_jobs_are_in_the_benchmark_log(stack: Stack, finished_job: dict[str, Any]) -> None:
    lines = (stack.directory / "hma_benchmark_logs.csv").read_text().splitlines()

    assert sum(finished_job["job_id"] in line for line in lines) == 1


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs_as_printed(stack: Stack, example: Path, tmp_path: Path) -> None:
    script = tmp_path / example.name
    script.write_text(example.read_text().replace("localhost:8080", stack.address))
    done = stack.run("env", "-C", str(ROOT), BIN / "python", script)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert done.stderr == "" or os.environ.get("COVERAGE_PROCESS_START")


def _long_job(stack: Stack) -> str:
    """A job that takes long enough to be stopped on its way."""
    questions = "\n".join(f"{i}. What is said about boat {i} of the harbour?" for i in range(1, 41))
    done = stack.hma("submit", questions, "--doc", "handbook.md", "--budget", "20000")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]
