"""A service whose secrets others can read says so, and serves."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hma.rpc.access_settings import ServiceAccess
from hma.rpc.membership import Membership
from hma.rpc.tls import TlsSettings
from hma.secrecy import exposure
from tests.certificates import Authority
from tests.integration.rpc.members import KEY, PLAIN
from tests.mounts import Mount


@pytest.mark.parametrize(("mode", "told"), [(0o644, 2), (0o604, 2), (0o640, 0), (0o400, 0)])
def test_exposed_secrets_are_warned_of_at_the_start(
    passable: Path, caplog: pytest.LogCaptureFixture, mode: int, told: int
) -> None:
    tls = Authority(passable).issue("worker")
    keys = passable / "internal-key"
    keys.write_text(KEY)
    for path in (keys, Path(tls.key_file)):
        path.chmod(mode)
    # Certificates are for everybody.
    Path(tls.cert_file).chmod(0o644)
    with caplog.at_level(logging.WARNING):
        Membership.of("worker", ServiceAccess(internal_key_file=str(keys)), tls, "127.0.0.1")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == told, said
    for line, variable in zip(said, ("HMA_INTERNAL_KEY_FILE", "HMA_TLS_KEY_FILE"), strict=False):
        assert line.startswith(f"{variable}: every user of this machine can open ")
        assert f"(mode {mode:04o}): `chmod 600` it" in line
        assert "defaultMode" in line


def test_a_mounted_secret_is_judged_by_what_its_link_leads_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "internal-key"
    keys.write_text(KEY)
    keys.chmod(0o440)
    link = tmp_path / "mounted"
    link.symlink_to(keys)
    access = ServiceAccess(internal_key_file=str(link))
    Membership.of("worker", access, PLAIN, "127.0.0.1")
    assert caplog.records == []


def test_a_file_to_which_nobody_else_can_come_is_nobody_elses(passable: Path) -> None:
    home = passable / "home"
    home.mkdir(mode=0o700)
    key = home / "key"
    key.write_text(KEY)
    key.chmod(0o644)
    assert exposure("HMA_API_KEY_FILE", str(key)) == ""
    home.chmod(0o711)
    assert exposure("HMA_API_KEY_FILE", str(key)) != ""


def test_the_log_of_a_process_has_it(passable: Path) -> None:
    keys = passable / "internal-key"
    keys.write_text("short")
    keys.chmod(0o644)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HMA_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.analyst"],
        env={**clean, "HMA_INTERNAL_KEY_FILE": str(keys)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # It then ends because the key is too short, which is all that keeps this test short.
    assert done.returncode == 2
    assert "can open" in done.stdout + done.stderr
    assert '"level": "warning"' in done.stdout + done.stderr


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_a_service_waits_out_half_a_renewal_of_two_mounts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    authority = Authority(tmp_path / "issued")
    mounts = {"certificate": Mount(tmp_path / "certs"), "key": Mount(tmp_path / "private")}

    def write(*halves: str) -> None:
        issued = authority.settings("worker")
        fresh = {"certificate": issued.cert_file, "key": issued.key_file}
        for half in halves:
            mounts[half].write(**{half: fresh[half]})

    authority.issue("worker")
    write("certificate", "key")
    watched = TlsSettings(
        cert_file=str(tmp_path / "certs" / "certificate"),
        key_file=str(tmp_path / "private" / "key"),
        ca_file=str(authority.ca_file),
    ).watch()
    old = watched.current()

    authority.issue("worker")
    write(first)
    until(lambda: watched.current() is old and "the old one stays" in caplog.text)
    write(*({"certificate", "key"} - {first}))
    renewed = authority.certificate("worker").encode()
    until(lambda: watched.current().certificate == renewed)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
