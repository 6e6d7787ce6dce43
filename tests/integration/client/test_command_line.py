"""The `hma` command as a process: exit codes, signals, what goes to stdout and stderr."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hma.errors import InvalidRequest, QuotaExceeded
from hma.v1 import job_pb2, meta_agent_pb2
from tests.integration.client.job_logs import Team
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent

ROOT = Path(__file__).parents[3]
HMA = [sys.executable, "-m", "hma.cli"]


def environ(address: str) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HMA_") and name not in ("TASK", "DOCS", "BUDGET", "DEADLINE")
    }
    # Nothing may listen on the embedded model's port for these tests to be the same everywhere.
    return {**clean, "HMA_SERVER": address, "HMA_LLM_PORT": "1", "PYTHONPATH": str(ROOT)}


def hma(
    address: str, *arguments: str, stdin: str = "", **more: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HMA, *arguments],
        cwd=more.get("cwd", ROOT),
        env={**environ(address), **more.get("env", {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def start(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `hma` and leaves nothing behind."""
    started: list[subprocess.Popen[str]] = []
    # A shell's background job hands down an ignored SIGINT. It is undone here and not
    # between fork and exec, where no Python may run beside gRPC's threads.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin(address: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*HMA, *arguments],
            cwd=ROOT,
            env=environ(address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], words: str) -> None:
    """Reads stdout until a line has `words`."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    _, err = process.communicate(timeout=30)
    pytest.fail(f"{words!r} never came; it exited with {process.returncode}: {err}")


def test_a_complete_job_exits_with_0_and_prints_everything(server: ScriptedMetaAgent) -> None:
    done = hma(server.address, "run", "Which ports?", "-d", "pyproject.toml", "-b", "5000")
    assert done.returncode == 0, done.stderr
    for words in ("accepted: 4 items", "t1 succeeded", "listens on **8080**", "ledger", "who ran"):
        assert words in done.stdout
    assert "pairwise overlap" in done.stdout
    assert "a barrier after layer 0 would have cost" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_partial_job_exits_with_3_and_says_what_is_missing() -> None:
    with ScriptedMetaAgent(Team(tasks=4, failing=[2]).steps(), speed=50) as server:
        done = hma(server.address, "run", "Which ports?", "-b", "5000")
    assert done.returncode == 3
    assert "q2: Question 2?: its worker broke the output schema twice" in done.stdout


def test_a_failed_job_exits_with_4() -> None:
    steps = Team(tasks=2).steps()
    finished = steps[-1].update.event.job_finished
    finished.state = job_pb2.JOB_STATE_FAILED
    finished.ClearField("answer")
    finished.failure.message = "no route answers"
    with ScriptedMetaAgent(steps, speed=50) as server:
        done = hma(server.address, "run", "Which ports?", "-b", "5000")
    assert done.returncode == 4
    assert "no route answers" in done.stdout


def test_a_wrong_command_line_exits_with_2_and_one_error() -> None:
    done = hma("127.0.0.1:1", "run", "Which ports?", "-b", "none")
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["run", "Which ports?", "-b", "5000"], ["list"], ["status"], ["watch", "job-1"]],
)
def test_nobody_there_exits_with_6_and_says_what_to_start(arguments: list[str]) -> None:
    done = hma("127.0.0.1:1", *arguments)
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert line.startswith("hma: nothing answers at 127.0.0.1:1")
    assert "make up" in line


def test_a_refused_job_exits_with_6_and_names_the_field(server: ScriptedMetaAgent) -> None:
    server.fail(
        "CreateJob",
        InvalidRequest.field("job.budget.max_tokens", "needs 900 at least for 8 questions"),
    )
    done = hma(server.address, "run", "Which ports?", "-b", "10")
    assert done.returncode == 6
    assert done.stderr == "hma: job.budget.max_tokens: needs 900 at least for 8 questions\n"


def test_an_error_is_json_where_output_is(server: ScriptedMetaAgent) -> None:
    server.fail("CreateJob", QuotaExceeded("full", subject="tenant:a/jobs", retry_after=30.0))
    done = hma(server.address, "run", "Which ports?", "-b", "10", "-o", "json")
    assert done.returncode == 6
    assert json.loads(done.stderr) == {
        "error": {"reason": "QUOTA_EXCEEDED", "message": "full", "retry_after": 30.0}
    }


def test_a_bad_address_exits_with_6_in_one_line() -> None:
    done = hma("http://x:y", "status")
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1


def test_json_output_is_every_event_and_the_job(server: ScriptedMetaAgent) -> None:
    done = hma(server.address, "run", "Which ports?", "-b", "5000", "-o", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line["event"]["sequence"] for line in lines if "event" in line]
    assert events == list(range(1, len(events) + 1))
    assert any("progress" in line for line in lines)
    assert lines[-1]["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert lines[-1]["job"]["ledger"]["rows"]
    assert done.stderr == ""


def test_one_ctrl_c_asks_for_the_answer_now(
    slow_server: ScriptedMetaAgent, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(slow_server.address, "run", "Which ports?", "-b", "5000")
    until(process, "t1 started")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3, err
    assert "What was there when you interrupted." in out
    assert "answering with what is there" in err
    assert slow_server.servicer.calls["CancelJob"] == 0


def test_a_second_ctrl_c_cancels(
    slow_server: ScriptedMetaAgent, start: Callable[..., subprocess.Popen[str]]
) -> None:
    slow_server.servicer.deaf.add("interrupt")
    process = start(slow_server.address, "run", "Which ports?", "-b", "5000")
    until(process, "t1 started")
    process.send_signal(signal.SIGINT)
    slow_server.wait_for("InterruptJob")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 5


def test_a_third_ctrl_c_leaves_the_job(
    slow_server: ScriptedMetaAgent, start: Callable[..., subprocess.Popen[str]]
) -> None:
    slow_server.servicer.deaf |= {"interrupt", "cancel"}
    process = start(slow_server.address, "run", "Which ports?", "-b", "5000")
    until(process, "t1 started")
    for rpc in ("InterruptJob", "CancelJob"):
        process.send_signal(signal.SIGINT)
        slow_server.wait_for(rpc)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the job goes on; come back with: hma watch job-" in err


def test_ctrl_c_of_a_watch_leaves_the_job_alone(
    slow_server: ScriptedMetaAgent, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = hma(slow_server.address, "submit", "Which ports?", "-b", "5000").stdout.strip()
    process = start(slow_server.address, "watch", job)
    until(process, "t1 started")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert slow_server.servicer.calls["InterruptJob"] == 0


def test_a_reader_that_leaves_early_is_no_traceback(
    slow_server: ScriptedMetaAgent, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(slow_server.address, "run", "Which ports?", "-b", "5000", "-o", "json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(30)
    assert "Traceback" not in err


def test_the_live_view_draws_on_a_terminal_and_leaves_the_report() -> None:
    with ScriptedMetaAgent(Team(tasks=6, failing=[2]).steps(), speed=4) as server:
        screen, code = on_a_terminal(server.address, "run", "Which ports?", "-b", "5000")
    assert code == 3
    for words in ("RUNNING", "team, 6 tasks", "side by side:", "Ctrl-C: answer now"):
        assert words in screen
    after = screen[screen.rindex("Ctrl-C: answer now") :]
    assert "\x1b[2K" in after.partition("ledger")[0], "the view is taken away"
    assert "ledger" in after


def on_a_terminal(address: str, *arguments: str) -> tuple[str, int]:
    """Runs `hma` on a pseudo-terminal; what it wrote and its exit code."""
    master, slave = pty.openpty()
    env = {**environ(address), "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}
    process = subprocess.Popen([*HMA, *arguments], cwd=ROOT, env=env, stdout=slave, stderr=slave)
    os.close(slave)
    written = b""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not select.select([master], [], [], 1.0)[0]:
            continue
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        written += chunk
    os.close(master)
    return written.decode(errors="replace"), process.wait(30)


def test_the_task_comes_from_a_file_or_standard_input(
    server: ScriptedMetaAgent, tmp_path: Path
) -> None:
    text = tmp_path / "task.txt"
    text.write_text("From a file?", encoding="utf-8")
    assert hma(server.address, "submit", f"@{text}", "-b", "5k").returncode == 0
    assert hma(server.address, "submit", "-", "-b", "5k", stdin="From stdin?").returncode == 0
    asked = [request.job.task_description for request in server.servicer.requests]
    assert asked == ["From a file?", "From stdin?"]


def test_documents_may_follow_doc_as_the_shell_spreads_them(
    server: ScriptedMetaAgent, tmp_path: Path
) -> None:
    names = ["a.md", "b.md", "c.md"]
    for name in names:
        (tmp_path / name).write_text(name, encoding="utf-8")
    done = hma(
        server.address, "submit", "Sum up.", "--doc", *names, "--budget", "5000", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (request,) = server.servicer.requests
    assert sorted(document.name for document in request.job.documents) == names


def test_the_commands_on_jobs(slow_server: ScriptedMetaAgent) -> None:
    address = slow_server.address
    submitted = hma(address, "submit", "Which ports?", "-b", "5000")
    job = submitted.stdout.strip()
    assert submitted.stdout == f"{job}\n"
    assert f"hma watch {job}" in submitted.stderr
    assert hma(address, "grant", job, "500").returncode == 0
    unfinished = hma(address, "get", job, "--wait", "200ms")
    assert (unfinished.returncode, "it goes on" in unfinished.stderr) == (1, True)
    assert hma(address, "interrupt", job, "--reason", "enough").returncode == 0
    assert hma(address, "get", job, "--wait", "10s").returncode == 3
    assert hma(address, "get", job).returncode == 0
    assert job in hma(address, "list", "--state", "partial").stdout
    assert "No jobs" in hma(address, "list", "--state", "failed").stdout
    listed = json.loads(hma(address, "list", "-o", "json").stdout)
    assert listed["task_description"] == "Which ports?"
    refused = hma(address, "cancel", job)
    assert (refused.returncode, refused.stderr) == (6, f"hma: {job} has ended\n")
    assert hma(address, "delete", job).stdout == f"deleted {job}\n"
    assert hma(address, "get", job).returncode == 6
    second = hma(address, "submit", "Which ports?", "-b", "5000").stdout.strip()
    assert hma(address, "cancel", second).returncode == 0
    assert hma(address, "watch", second).returncode == 5


def test_explain_tells_the_story_and_where_the_tokens_went() -> None:
    with ScriptedMetaAgent(Team(tasks=3, failing=[2], lost=[3]).steps(), speed=50) as server:
        job = hma(server.address, "submit", "Which ports?", "-b", "5000").stdout.strip()
        hma(server.address, "watch", job)
        done = hma(server.address, "explain", job)
        as_json = hma(server.address, "explain", job, "-o", "json")
        missing = hma(server.address, "explain", "job-01k0other000000000000000000")
    assert done.returncode == 0, done.stderr
    for words in (
        "A team was chosen (batching hurts on this route",
        "t2 failed (the output broke its schema twice).",
        "An attempt at t3 was lost (its worker is gone)",
        "where the tokens went",
        "what moved",
        f"PARTIAL  {job}",
    ):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    told = json.loads(as_json.stdout)
    assert [account["task_id"] for account in told["accounts"]] == [
        *("plan", "t1", "t2", "t3"),
        "reduce",
    ]
    assert told["sentences"][0].startswith("A team was chosen")
    assert (missing.returncode, missing.stdout) == (6, "")
    assert missing.stderr.startswith("hma: there is no job")


def test_explain_says_how_it_is_used() -> None:
    done = hma("127.0.0.1:1", "explain", "--help")
    assert done.returncode == 0
    for words in ("where each token went", "Examples:", "hma explain job-01k0", "Exit codes:"):
        assert words in done.stdout


def test_doctor_works_when_nothing_is_up() -> None:
    done = hma("127.0.0.1:1", "doctor")
    assert done.returncode == 6
    assert "nothing answers at 127.0.0.1:1" in done.stdout
    assert "make up" in done.stdout
    assert "Begin with: gateway" in done.stdout


def test_doctor_says_what_the_server_knows_and_what_to_do(server: ScriptedMetaAgent) -> None:
    server.servicer.components += [
        meta_agent_pb2.Component(
            name="worker",
            state=meta_agent_pb2.COMPONENT_STATE_DOWN,
            detail="nothing answers at 127.0.0.1:8081",
        ),
        meta_agent_pb2.Component(
            name="route fast", state=meta_agent_pb2.COMPONENT_STATE_STARTING, detail="loading"
        ),
    ]
    done = hma(server.address, "doctor", "-o", "json")
    assert done.returncode == 6
    findings = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert findings["gateway"]["health"] == "good"
    assert findings["worker"]["health"] == "bad"
    assert "services.worker" in findings["worker"]["remedy"]
    assert findings["route fast"]["health"] == "waiting"
    assert "model server" not in findings


def test_doctor_is_content_when_all_is_well(server: ScriptedMetaAgent) -> None:
    server.servicer.components.append(
        meta_agent_pb2.Component(name="route fast", state=meta_agent_pb2.COMPONENT_STATE_UP)
    )
    done = hma(server.address, "doctor")
    assert done.returncode == 0
    assert "All is well" in done.stdout


def test_shell_completion_offers_commands_and_job_ids(server: ScriptedMetaAgent) -> None:
    def complete(*words: str) -> str:
        env = {
            "_HMA_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1 if words[-1] else len(words)),
        }
        return hma(server.address, env=env).stdout

    job = hma(server.address, "submit", "Which ports?", "-b", "5000").stdout.strip()
    assert "plain,interrupt" in complete("hma", "in")
    assert job in complete("hma", "get", "job")
    assert job in complete("hma", "explain", "job")
    assert "plain,explain" in complete("hma", "ex")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_say_how_to_install_them(shell: str) -> None:
    done = hma("127.0.0.1:1", "completion", shell)
    assert done.returncode == 0
    assert f"hma completion {shell}" in done.stdout.splitlines()[1]
    assert "_HMA_COMPLETE" in done.stdout
