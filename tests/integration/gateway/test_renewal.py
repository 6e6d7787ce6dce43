"""Envoy takes a renewed certificate, wherever its key lies."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from hma.local.gateway import command, write_configuration
from hma.local.settings import load_stack
from tests.certificates import Authority
from tests.integration.gateway.conftest import _ANY_PORT


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
    environ = {
        **_ANY_PORT,
        "HMA_DATA_DIR": str(tmp_path / "var"),
        "HMA_AUTH": "none",
        "HMA_GATEWAY_TLS_CERT_FILE": str(files["certificate"]),
        "HMA_GATEWAY_TLS_KEY_FILE": str(files["key"]),
    }
    settings = load_stack(environ)
    with (tmp_path / "envoy.log").open("w") as log:
        process = subprocess.Popen(
            command(write_configuration(settings)), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            port = settings.gateway_port
            assert until_shown(port, authority, files["certificate"])
            renew([first, *({"certificate", "key"} - {first})])
            assert until_shown(port, authority, files["certificate"])
        finally:
            process.terminate()
            process.wait(30)
