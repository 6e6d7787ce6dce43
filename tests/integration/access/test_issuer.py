"""The real Envoy in front: keys of an issuer over https, and who calls from where."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import ipaddress
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hma.local.gateway import command, write_configuration
from hma.local.settings import StackSettings, load_stack
from tests.integration.access.callers import Door, open_door
from tests.integration.gateway.conftest import _ANY_PORT
from tests.issuer import AUDIENCE, ISSUER, Issuer


def certificate(directory: Path, name: str) -> Path:
    """A certificate for a name, signed by itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    with contextlib.suppress(ValueError):
        names = [x509.IPAddress(ipaddress.ip_address(name))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextlib.contextmanager
def serving(body: str, pem: Path) -> Iterator[int]:
    """Serves a text over https; the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Keeps the test's output quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not trust it leaves: that is what one test is about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(10)


@contextlib.asynccontextmanager
async def gateway(
    url: str, directory: Path, **environ: str
) -> AsyncIterator[tuple[StackSettings, Door]]:
    """Envoy before a MetaAgent's edge."""
    settings = load_stack(
        {
            **_ANY_PORT,
            "HMA_DATA_DIR": str(directory / "var"),
            "HMA_INTERNAL_KEY_FILE": str(directory / "internal-key"),
            "HMA_JWT_ISSUER": ISSUER,
            "HMA_JWT_AUDIENCE": AUDIENCE,
            **environ,
        }
    )
    async with open_door(url, directory, port=settings.meta_agent_port) as door:
        log = directory / "envoy.log"
        with log.open("w") as output:
            process = await asyncio.create_subprocess_exec(
                *command(write_configuration(settings)), stdout=output, stderr=output
            )
        try:
            yield settings, door
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)


def status(settings: StackSettings, token: str, **more: str) -> tuple[int, str]:
    """HTTP status and reason of a call with a token; 0 while the gateway is not there."""
    names = {name.replace("_", "-"): value for name, value in more.items()}
    connection = http.client.HTTPConnection("127.0.0.1", settings.gateway_port, timeout=30)
    try:
        connection.request("GET", "/v1/jobs", headers={"authorization": f"Bearer {token}", **names})
        response = connection.getresponse()
        body = json.loads(response.read())
    except OSError:
        return 0, ""
    finally:
        connection.close()
    details = body.get("details") or [{}]
    return response.status, details[0].get("reason", "")


async def settled(settings: StackSettings, token: str, *, wanted: int) -> tuple[int, str]:
    """The answer once it is `wanted`; whatever it is after half a minute."""
    answer = 0, ""
    for _ in range(600):
        answer = await asyncio.to_thread(status, settings, token)
        if answer[0] == wanted:
            break
        await asyncio.sleep(0.05)
    return answer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_keys_of_a_verified_server_are_taken(
    postgres_url: str, tmp_path: Path, host: str
) -> None:
    issuer = Issuer()
    pem = certificate(tmp_path, host)
    with serving(issuer.key_set(), pem) as port:
        async with gateway(
            postgres_url,
            tmp_path,
            HMA_JWT_JWKS_URL=f"https://{host}:{port}/keys?v=1",
            HMA_JWT_JWKS_CA_FILE=str(pem),
        ) as (settings, _):
            assert (await settled(settings, issuer.token(), wanted=200))[0] == 200
            answer = await settled(settings, Issuer().token(), wanted=401)
            assert answer == (401, "TOKEN_INVALID")


async def test_keys_of_a_server_that_cannot_be_verified_are_not_taken(
    postgres_url: str, tmp_path: Path
) -> None:
    issuer = Issuer()
    with serving(issuer.key_set(), certificate(tmp_path, "localhost")) as port:
        async with gateway(
            postgres_url,
            tmp_path,
            HMA_JWT_JWKS_URL=f"https://localhost:{port}/keys",
            HMA_JWT_JWKS_CA_FILE=str(certificate(tmp_path, "elsewhere.test")),
        ) as (settings, _):
            answer = await settled(settings, issuer.token(), wanted=401)
            assert answer == (401, "TOKEN_INVALID")


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        ("0", "198.51.100.9, 203.0.113.7", "127.0.0.1"),
        ("1", "198.51.100.9, 203.0.113.7", "203.0.113.7"),
        # It came another way than through our proxies.
        ("1", "", "127.0.0.1"),
        ("3", "198.51.100.9, 203.0.113.7", "127.0.0.1"),
    ],
)
async def test_the_trail_is_told_the_address_behind_our_own_proxies(
    postgres_url: str, tmp_path: Path, hops: str, forwarded: str, address: str
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(Issuer().key_set())
    environ = {"HMA_JWT_JWKS_FILE": str(keys), "HMA_GATEWAY_TRUSTED_HOPS": hops}
    async with gateway(postgres_url, tmp_path, **environ) as (settings, door):
        await settled(settings, "nobody", wanted=401)
        door.heard.refusals.clear()
        forged = {"x_envoy_external_address": "198.51.100.10"}
        if forwarded:
            forged["x_forwarded_for"] = forwarded
        assert await asyncio.to_thread(status, settings, "nobody", **forged) == (
            401,
            "TOKEN_INVALID",
        )
        assert [each["address"] for each in door.heard.refusals] == [address]
