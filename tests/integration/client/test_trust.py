"""https:// servers that are certified by an authority of one's own, and those that are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hma import AsyncClient, Client
from hma.client import Backoff
from hma.errors import InvalidRequest, Unavailable
from tests.certificates import Authority
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent
from tests.integration.client.test_command_line import hma

ONCE = Backoff(tries=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def server(authority: Authority) -> Iterator[ScriptedMetaAgent]:
    """It is certified for 127.0.0.1, not for localhost."""
    files = authority.issue("public", "127.0.0.1")
    pair = Path(files.key_file).read_bytes(), Path(files.cert_file).read_bytes()
    with ScriptedMetaAgent(credentials=grpc.ssl_server_credentials([pair])) as scripted:
        yield scripted


async def test_clients_know_a_server_by_an_authority_of_ones_own(
    server: ScriptedMetaAgent, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://{server.address}"
    with Client(url, ca_file=str(authority.ca_file)) as client:
        job_id = client.submit("Which ports?", budget=5000)
    monkeypatch.setenv("HMA_CA_FILE", str(authority.ca_file))
    async with AsyncClient(url) as client_of_loop:
        assert (await client_of_loop.get(job_id)).job_id == job_id


def test_a_server_that_proves_nothing_gets_no_job(
    server: ScriptedMetaAgent, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "theirs").ca_file
    port = server.port
    for url, ca_file in (
        (f"https://127.0.0.1:{port}", str(other)),
        (f"https://127.0.0.1:{port}", ""),
        (f"https://localhost:{port}", str(authority.ca_file)),
        (f"http://127.0.0.1:{port}", str(authority.ca_file)),
    ):
        with (
            Client(url, ca_file=ca_file, backoff=ONCE, timeout=30) as client,
            pytest.raises(Unavailable) as refused,
        ):
            client.submit("Which ports?", budget=5000)
        assert refused.value.reason == "UNREACHABLE"
        assert "https://" in refused.value.message
    assert not server.servicer.calls["CreateJob"]


def test_a_file_without_authorities_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.pem", tmp_path / "text.pem"
    empty.write_text("")
    text.write_text("no certificate, naïvely")
    for file in (empty, text, tmp_path / "none.pem", tmp_path):
        with pytest.raises(InvalidRequest, match="HMA_CA_FILE"):
            Client("https://127.0.0.1:1", ca_file=str(file))
    Client("127.0.0.1:1", ca_file=str(empty)).close()


def test_the_command_line_takes_the_authority_from_the_environment(
    server: ScriptedMetaAgent, authority: Authority
) -> None:
    url = f"https://{server.address}"
    trusting = {"HMA_CA_FILE": str(authority.ca_file)}
    listed = hma(url, "list", "-o", "json", env=trusting)
    assert (listed.returncode, listed.stderr) == (0, "")
    distrusting = hma(url, "list")
    assert distrusting.returncode == 6
    (line,) = distrusting.stderr.splitlines()
    assert line.startswith(f"hma: nothing that can be trusted answers at {url}")
    assert "HMA_CA_FILE" in line


def test_doctor_says_why_a_server_is_not_trusted(
    server: ScriptedMetaAgent, authority: Authority
) -> None:
    ours = {"HMA_CA_FILE": str(authority.ca_file)}
    with ScriptedMetaAgent() as plain:
        for url, env, why in (
            (f"https://127.0.0.1:{server.port}", {}, "unable to get local issuer certificate"),
            (f"https://localhost:{server.port}", ours, "Hostname mismatch"),
            (f"https://127.0.0.1:{plain.port}", ours, "over TLS that proves nothing"),
        ):
            done = hma(url, "doctor", "-o", "json", env=env)
            assert done.returncode == 6
            findings = [json.loads(line) for line in done.stdout.splitlines()]
            gateway = next(each for each in findings if each["name"] == "gateway")
            assert why in gateway["detail"]
            assert "HMA_CA_FILE" in gateway["remedy"]
    assert "answers; 0 jobs" in hma(f"https://{server.address}", "doctor", env=ours).stdout
