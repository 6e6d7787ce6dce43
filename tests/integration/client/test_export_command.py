"""`hma export` on the command line, as a process."""

from __future__ import annotations

import json
from pathlib import Path

import hma
from hma.errors import Unavailable
from tests.integration.client.job_logs import Team
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent
from tests.integration.client.test_command_line import hma as run_hma


def ended_job(server: ScriptedMetaAgent) -> str:
    with hma.Client(server.address) as client:
        return client.run("Which ports?", budget=5000).job_id


def test_an_ended_job_is_written_with_its_whole_log(
    server: ScriptedMetaAgent, tmp_path: Path
) -> None:
    job_id = ended_job(server)
    server.break_watch_after(3)
    file = tmp_path / "job.json"
    done = run_hma(server.address, "export", job_id, "-o", str(file))
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    last = document["job"]["last_sequence"]
    assert document["complete"] is True
    assert [event["sequence"] for event in document["events"]] == list(range(1, last + 1))
    assert "job_finished" in document["events"][-1]
    assert f"{last:,} events" in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["job.json"]
    printed = run_hma(server.address, "export", job_id)
    assert json.loads(printed.stdout) == document


def test_a_running_job_is_written_up_to_now() -> None:
    with ScriptedMetaAgent(Team(tasks=4).steps(), speed=0.01) as server:
        with hma.Client(server.address) as client:
            job_id = client.submit("Which ports?", budget=5000)
            next(client.watch(job_id, events_only=True))
        done = run_hma(server.address, "export", job_id)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["complete"] is False
    assert len(document["events"]) == document["job"]["last_sequence"] >= 1


def test_a_job_that_is_not_there_or_a_server_that_fails_leaves_no_file(
    server: ScriptedMetaAgent, tmp_path: Path
) -> None:
    job_id = ended_job(server)
    file = tmp_path / "job.json"
    unknown = run_hma(server.address, "export", "job-unknown", "-o", str(file))
    assert unknown.returncode == 6
    server.fail("WatchJob", *(Unavailable("gone") for _ in range(40)))
    broken = run_hma(server.address, "export", job_id, "-o", str(file))
    assert broken.returncode == 6
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(server: ScriptedMetaAgent, tmp_path: Path) -> None:
    job_id = ended_job(server)
    done = run_hma(server.address, "export", job_id, "-o", str(tmp_path / "none" / "job.json"))
    assert done.returncode == 1
    assert "job.json" in done.stderr
    assert "Traceback" not in done.stderr
