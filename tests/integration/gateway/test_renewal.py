"""Envoy takes a renewed certificate, wherever its key lies."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from hma.local.gateway import command, write_configuration
from hma.local.settings import load_stack
from tests.certificates import Authority
from tests.integration.gateway.conftest import _ANY_PORT
from tests.mounts import Mount


def shown(port: int, authority: Authority) -> bytes | None:
    """The certificate that a new connection is shown; None while nobody listens."""
    context = ssl.create_default_context(cafile=authority.ca_file)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            return secure.getpeercert(binary_form=True)
    except ConnectionRefusedError:
        return None


def until_shown(port: int, authority: Authority, certificate: Path, within: float = 60) -> bool:
    wanted = x509.load_pem_x509_certificate(certificate.read_bytes())
    end = time.monotonic() + within
    while time.monotonic() < end:
        found = shown(port, authority)
        if found is not None and x509.load_der_x509_certificate(found) == wanted:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def gateway(tmp_path: Path, certificate: Path, key: Path) -> Iterator[int]:
    """An Envoy that shows a certificate to clients; its port."""
    environ = {
        **_ANY_PORT,
        "HMA_DATA_DIR": str(tmp_path / "var"),
        "HMA_AUTH": "none",
        "HMA_GATEWAY_TLS_CERT_FILE": str(certificate),
        "HMA_GATEWAY_TLS_KEY_FILE": str(key),
    }
    settings = load_stack(environ)
    with (tmp_path / "envoy.log").open("w") as log:
        process = subprocess.Popen(
            command(write_configuration(settings)), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield settings.gateway_port
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize("key_directory", ["certs", "private"])
@pytest.mark.parametrize("first", ["certificate", "key"])
def test_a_renewed_certificate_is_taken(tmp_path: Path, key_directory: str, first: str) -> None:
    authority = Authority(tmp_path / "issued")
    files = {
        "certificate": tmp_path / "certs" / "hma.pem",
        "key": tmp_path / key_directory / "hma.key",
    }
    for file in files.values():
        file.parent.mkdir(exist_ok=True)

    def renew(order: list[str]) -> None:
        issued = authority.issue("public", "127.0.0.1")
        fresh = {"certificate": issued.cert_file, "key": issued.key_file}
        for name in order:
            beside = files[name].with_suffix(".new")
            shutil.copy(fresh[name], beside)
            beside.replace(files[name])

    renew(["key", "certificate"])
    with gateway(tmp_path, files["certificate"], files["key"]) as port:
        assert until_shown(port, authority, files["certificate"])
        renew([first, *({"certificate", "key"} - {first})])
        assert until_shown(port, authority, files["certificate"])


def test_a_renewed_secret_of_one_mount_is_taken(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "issued")
    mount = Mount(tmp_path / "certs")

    def renew() -> None:
        issued = authority.issue("public", "127.0.0.1")
        mount.write(certificate=issued.cert_file, key=issued.key_file)

    renew()
    certificate = tmp_path / "certs" / "certificate"
    with gateway(tmp_path, certificate, certificate.with_name("key")) as port:
        assert until_shown(port, authority, certificate)
        for _ in range(2):
            renew()
            assert until_shown(port, authority, certificate)


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_of_two_mounts_half_a_renewal_is_waited_out(tmp_path: Path, first: str) -> None:
    """Kubernetes renews each mount when it comes to it, a minute apart perhaps."""
    authority = Authority(tmp_path / "issued")
    mounts = {"certificate": Mount(tmp_path / "certs"), "key": Mount(tmp_path / "private")}
    certificate, log = tmp_path / "certs" / "certificate", tmp_path / "envoy.log"

    def renew(halves: list[str], between: Callable[[], None] = lambda: None) -> None:
        issued = authority.issue("public", "127.0.0.1")
        fresh = {"certificate": issued.cert_file, "key": issued.key_file}
        mounts[halves[0]].write(**{halves[0]: fresh[halves[0]]})
        between()
        mounts[halves[1]].write(**{halves[1]: fresh[halves[1]]})

    order = [first, *({"certificate", "key"} - {first})]
    renew(order)
    with gateway(tmp_path, certificate, tmp_path / "private" / "key") as port:
        assert until_shown(port, authority, certificate)
        for times in (1, 2):
            old = shown(port, authority)

            def half_seen(times: int = times, old: bytes | None = old) -> None:
                until_refused(log, times)
                assert shown(port, authority) == old

            renew(order, half_seen)
            assert until_shown(port, authority, certificate)


def until_refused(log: Path, times: int) -> None:
    """Waits until Envoy has found so often that a key is another certificate's."""
    end = time.monotonic() + 60
    while log.read_text().count("KEY_VALUES_MISMATCH") < times:
        assert time.monotonic() < end, "the mount's renewal was not noticed"
        time.sleep(0.05)
