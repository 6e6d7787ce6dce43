"""The command line and a key that others could read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hma.v1 import meta_agent_pb2
from tests.integration.client import test_command_line
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent

KEY = {"HMA_API_KEY": "secret"}


def hma(
    address: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # The system's own resolver knows 127.1.
    resolving = {**(env or {}), "GRPC_DNS_RESOLVER": "native"}
    return test_command_line.hma(address, *arguments, env=resolving)


@pytest.fixture
def elsewhere(server: ScriptedMetaAgent) -> str:
    """The server by a name that resolves to it, but by which nobody knows that it is here."""
    return f"127.1:{server.port}"


def test_a_key_in_plain_text_is_warned_of_once(elsewhere: str) -> None:
    done = hma(elsewhere, "run", "Which ports?", "-b", "5000", env=KEY)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hma: warning: a key crosses the network to {elsewhere} in plain text")
    assert "HMA_PLAINTEXT_KEY=allow" in line
    assert "secret" not in done.stderr


def test_where_output_is_json_the_warning_is_json(elsewhere: str) -> None:
    done = hma(elsewhere, "list", "-o", "json", env=KEY)
    assert done.returncode == 0, done.stderr
    assert elsewhere in json.loads(done.stderr)["warning"]["message"]


def test_nobody_is_warned_of_what_is_allowed_or_local(
    server: ScriptedMetaAgent, elsewhere: str
) -> None:
    allowed = {**KEY, "HMA_PLAINTEXT_KEY": "allow"}
    for address, env in ((elsewhere, allowed), (elsewhere, {}), (server.address, KEY)):
        done = hma(address, "list", env=env)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_key_that_must_not_be_sent_is_not(server: ScriptedMetaAgent, elsewhere: str) -> None:
    done = hma(elsewhere, "list", env={**KEY, "HMA_PLAINTEXT_KEY": "refuse"})
    assert done.returncode == 6
    assert done.stderr.startswith("hma: HMA_PLAINTEXT_KEY: ")
    assert not server.servicer.calls["ListJobs"]


def test_a_key_that_is_asked_of_a_meta_agent_itself_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "internal-key"
    file.write_text("k" * 32)
    asked = ("--direct", "127.1:1", "--internal-key-file", str(file), "--tenant", "acme")
    done = hma("127.0.0.1:1", "keys", "create", *asked)
    first, second = done.stderr.splitlines()
    assert "a key crosses the network to 127.1:1 in plain text" in first
    assert "HMA_TLS_CERT_FILE" in first
    assert done.returncode == 6, second


def test_completing_a_word_is_not_interrupted_by_warnings(
    server: ScriptedMetaAgent, elsewhere: str
) -> None:
    job = hma(server.address, "submit", "Which ports?", "-b", "5000").stdout.strip()
    completing = {
        "_HMA_COMPLETE": "bash_complete",
        "COMP_WORDS": "hma get job",
        "COMP_CWORD": "2",
    }
    done = hma(elsewhere, env={**KEY, **completing})
    assert job in done.stdout
    assert done.stderr == ""


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stderr == ""
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_doctor_finds_a_key_in_plain_text(server: ScriptedMetaAgent, elsewhere: str) -> None:
    found = findings(hma(elsewhere, "doctor", "-o", "json", env=KEY))
    assert found["gateway"]["health"] == "good"
    assert found["key"]["health"] == "risky"
    assert elsewhere in found["key"]["detail"]
    assert "https://" in found["key"]["remedy"]
    assert "key" not in findings(hma(server.address, "doctor", "-o", "json", env=KEY))
    assert "key" not in findings(hma(elsewhere, "doctor", "-o", "json"))
    refusing = {**KEY, "HMA_PLAINTEXT_KEY": "refuse"}
    refused = hma(elsewhere, "doctor", "-o", "json", env=refusing)
    assert refused.returncode == 6
    assert "was not asked: HMA_PLAINTEXT_KEY" in findings(refused)["gateway"]["detail"]


def test_doctor_finds_secret_files_that_everybody_can_open(
    server: ScriptedMetaAgent, passable: Path
) -> None:
    def file(name: str, mode: int) -> str:
        path = passable / name
        path.write_text("k" * 32)
        path.chmod(mode)
        return str(path)

    file("worker.key", 0o644)
    file("reducer.key", 0o600)
    env = {
        "HMA_API_KEY_FILE": file("key", 0o644),
        "HMA_INTERNAL_KEY_FILE": file("internal-key", 0o640),
        "HMA_GATEWAY_TLS_KEY_FILE": file("public.key", 0o666),
        "HMA_TLS_KEY_FILE": str(passable / "{role}.key"),
        # Of one that runs somewhere else, perhaps.
        "HMA_LLM_BASE_URL": "http://127.0.0.1:1/v1",
    }
    done = hma(server.address, "doctor", "-o", "json", env=env)
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    risky = [line for line in lines if line["name"] == "secret file"]
    assert [line["detail"].split(":")[0] for line in risky] == [
        "HMA_API_KEY_FILE",
        "HMA_TLS_KEY_FILE",
        "HMA_GATEWAY_TLS_KEY_FILE",
    ]
    assert "worker.key" in risky[1]["detail"]
    assert all("chmod 600" in line["remedy"] for line in risky)


def test_doctor_is_not_quite_content_with_a_risk(server: ScriptedMetaAgent, elsewhere: str) -> None:
    server.servicer.components.append(
        meta_agent_pb2.Component(name="route fast", state=meta_agent_pb2.COMPONENT_STATE_UP)
    )
    done = hma(elsewhere, "doctor", env=KEY)
    assert done.returncode == 0, done.stdout
    assert "It works, but look at: key." in done.stdout
