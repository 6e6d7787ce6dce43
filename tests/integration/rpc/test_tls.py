"""TLS between services: real servers, certificates in real files that are renewed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from hma.errors import HmaError, PermissionDenied, SettingsError, Unauthenticated
from hma.rpc.access_settings import ServiceAccess
from hma.rpc.callers import SERVER_NAME, certificate_name
from hma.rpc.channel import open_channel
from hma.rpc.member_channel import MemberChannel
from hma.rpc.membership import Membership
from hma.rpc.status import from_rpc_error
from hma.rpc.tls import TlsSettings
from hma.v1 import meta_agent_pb2, meta_agent_pb2_grpc, reducer_pb2, reducer_pb2_grpc
from tests.certificates import Authority
from tests.integration.rpc.members import Internal, Reducing, member, serving_as, write

REPORT = meta_agent_pb2.ReportAttemptRequest()
NOTICED = 1.2
"""Seconds after which renewed files are read."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def report(channel: grpc.aio.Channel) -> HmaError | None:
    """Reports over a channel; what it was refused with."""
    stub: Any = meta_agent_pb2_grpc.InternalServiceStub(channel)
    try:
        await stub.ReportAttempt(REPORT, timeout=30)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def refused_connection(channel: grpc.aio.Channel) -> bool:
    """Whether a call finds no connection."""
    stub: Any = meta_agent_pb2_grpc.InternalServiceStub(channel)
    try:
        await stub.ReportAttempt(REPORT, timeout=30)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def secure(address: str, tls: TlsSettings, *, ca: Path | None = None) -> grpc.aio.Channel:
    """A channel with a certificate but without a token."""
    credentials = grpc.ssl_channel_credentials(
        (ca or Path(tls.ca_file)).read_bytes(),
        private_key=Path(tls.key_file).read_bytes(),
        certificate_chain=Path(tls.cert_file).read_bytes(),
    )
    options = [
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.secure_channel(address, credentials, options=options)


def expiry_of(address: str, tls: TlsSettings) -> float:
    """When the certificate expires that a new connection is shown; seconds since the epoch."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


async def test_services_of_one_authority_reach_each_other(
    tmp_path: Path, authority: Authority
) -> None:
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent"))
    worker = member("worker", tmp_path, tls=authority.issue("worker"))
    async with (
        serving_as(meta_agent, Internal().register) as address,
        open_channel(address, membership=worker) as channel,
    ):
        assert await report(channel) is None


async def test_a_certificate_of_the_role_is_enough(tmp_path: Path, authority: Authority) -> None:
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent"))
    async with serving_as(meta_agent, Internal().register) as address:
        async with secure(address, authority.issue("worker")) as channel:
            assert await report(channel) is None
        async with secure(address, authority.issue("cli")) as channel:
            refused = await report(channel)
            assert isinstance(refused, PermissionDenied), refused
        # It passes on the calls of others: theirs is what counts.
        async with secure(address, authority.issue("gateway")) as channel:
            refused = await report(channel)
            assert isinstance(refused, Unauthenticated), refused
            assert refused.reason == "NO_CALLER"
        async with secure(address, authority.issue("nobody", "example.org")) as channel:
            assert isinstance(await report(channel), Unauthenticated)


async def test_another_role_cannot_pose_as_the_meta_agent(
    tmp_path: Path, authority: Authority
) -> None:
    worker = member("worker", tmp_path, tls=authority.issue("worker"))
    internal = Internal()
    for role, refused in (("meta-agent", False), ("reducer", True), ("gateway", True)):
        server = member("meta-agent", tmp_path, tls=authority.issue(role))
        async with (
            serving_as(server, internal.register) as address,
            open_channel(address, membership=worker, server="meta-agent") as channel,
        ):
            assert await refused_connection(channel) is refused
    assert internal.served == 1


async def test_a_token_is_enough_behind_the_gateways_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent"))
    worker = member("worker", tmp_path, tls=authority.issue("gateway"))
    async with (
        serving_as(meta_agent, Internal().register) as address,
        open_channel(address, membership=worker) as channel,
    ):
        assert await report(channel) is None


async def test_plain_and_strangers_connections_are_refused(
    tmp_path: Path, authority: Authority
) -> None:
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent"))
    strangers = Authority(tmp_path / "theirs")
    stranger = strangers.issue("worker")
    internal = Internal()
    plain = member("worker", tmp_path)
    only_ca = grpc.ssl_channel_credentials(authority.pem)
    named = [("grpc.ssl_target_name_override", SERVER_NAME)]
    async with serving_as(meta_agent, internal.register) as address:
        channels = (
            open_channel(address, membership=plain),
            secure(address, stranger, ca=authority.ca_file),
            grpc.aio.secure_channel(address, only_ca, options=named),
            # The client, for its part, believes no stranger's server.
            open_channel(address, membership=member("worker", tmp_path, tls=stranger)),
        )
        for channel in channels:
            async with channel:
                assert await refused_connection(channel)
    assert internal.served == 0


async def test_a_server_that_is_no_service_is_not_believed(
    tmp_path: Path, authority: Authority
) -> None:
    """Such as one whose certificate the same authority has issued to a person."""
    other = member("meta-agent", tmp_path, tls=authority.issue("x", "x.example.org"))
    worker = member("worker", tmp_path, tls=authority.issue("worker"))
    async with (
        serving_as(other, Internal().register) as address,
        open_channel(address, membership=worker) as channel,
    ):
        assert await refused_connection(channel)


async def test_without_tokens_certificates_still_close_the_port(authority: Authority) -> None:
    nobody_asked = ServiceAccess(auth="none")
    tls = authority.issue("meta-agent")
    meta_agent = Membership.of("meta-agent", nobody_asked, tls, "127.0.0.1")
    async with serving_as(meta_agent, Internal().register) as address:
        async with secure(address, authority.issue("cli")) as channel:
            assert await report(channel) is None
        async with open_channel(address) as channel:
            assert await refused_connection(channel)


async def test_a_renewed_certificate_is_shown_to_new_connections(
    tmp_path: Path, authority: Authority
) -> None:
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent", lifetime=1000))
    worker = authority.issue("worker")
    async with serving_as(meta_agent, Internal().register) as address:
        before = await asyncio.to_thread(expiry_of, address, worker)
        authority.issue("meta-agent", lifetime=5000)
        await asyncio.sleep(NOTICED)
        after = await asyncio.to_thread(expiry_of, address, worker)
    assert before == pytest.approx(time.time() + 1000, abs=60)
    assert after == pytest.approx(time.time() + 5000, abs=60)


async def test_an_expired_certificate_is_replaced_by_a_renewed_one_while_running(
    tmp_path: Path, authority: Authority
) -> None:
    """Client and server have certificates of seconds; both are renewed, none is restarted."""
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent", lifetime=8))
    worker = member("worker", tmp_path, tls=authority.issue("worker", lifetime=8))
    short_lived = authority.settings("worker")
    async with (
        serving_as(meta_agent, Internal().register) as address,
        open_channel(address, membership=worker) as channel,
    ):
        assert await report(channel) is None
        await asyncio.sleep(8.1)
        # The files are as they were: a new connection has nothing good to show.
        async with secure(address, short_lived) as late:
            assert await refused_connection(late)
        authority.issue("meta-agent")
        authority.issue("worker")
        await asyncio.sleep(NOTICED)
        async with secure(address, short_lived) as renewed:
            assert await report(renewed) is None
        assert await report(channel) is None


async def test_a_running_stream_outlives_the_renewal_of_both_sides(
    tmp_path: Path, authority: Authority
) -> None:
    reducer = member("reducer", tmp_path, tls=authority.issue("reducer"))
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent"))
    reducing = Reducing()
    serving = serving_as(reducer, reducing.register, name="hma.v1.ReducerService")
    async with serving as address, open_channel(address, membership=meta_agent) as channel:
        assert isinstance(channel, MemberChannel)
        stub = reducer_pb2_grpc.ReducerServiceStub(channel)
        running, later = stub.Reduce(timeout=30), None
        await _echo(running)
        authority.issue("reducer")
        authority.issue("meta-agent")
        await asyncio.sleep(NOTICED)
        later = stub.Reduce(timeout=30)
        await _echo(later)
        assert channel.connections == 2
        assert len(set(reducing.shown)) == 2
        await _echo(running)
        await running.done_writing()
        assert await running.code() is grpc.StatusCode.OK
        async with asyncio.timeout(30):
            while channel.connections > 1:  # noqa: ASYNC110 - it closes by itself
                await asyncio.sleep(0.01)
        await _echo(later)
        later.cancel()


async def _echo(call: Any) -> None:
    await call.write(reducer_pb2.ReduceRequest())
    async with asyncio.timeout(30):
        assert await call.read() == reducer_pb2.ReduceResponse()


async def test_a_replaced_connection_does_not_last_for_ever(
    tmp_path: Path, authority: Authority
) -> None:
    reducer = member("reducer", tmp_path, tls=authority.issue("reducer"))
    source = [object()]
    tls = authority.issue("meta-agent")
    token = member("meta-agent", tmp_path).metadata_for
    async with serving_as(reducer, Reducing().register, name="hma.v1.ReducerService") as address:
        channel = MemberChannel(
            lambda: secure(address, tls), token, made_from=lambda: source[0], max_age=0.3
        )
        async with channel:
            stub: Any = reducer_pb2_grpc.ReducerServiceStub(channel)
            forgotten = stub.Reduce(timeout=30)
            await _echo(forgotten)
            source[0] = object()
            latest = stub.Reduce(timeout=30)
            await _echo(latest)
            assert channel.connections == 2
            async with asyncio.timeout(30):
                assert await forgotten.code() is grpc.StatusCode.CANCELLED
            assert channel.connections == 1
            await _echo(latest)
            latest.cancel()


async def test_a_new_authority_is_believed_beside_the_old_one(
    tmp_path: Path, authority: Authority
) -> None:
    """How an authority is changed: both in the file, then new certificates, then one."""
    meta_agent = member("meta-agent", tmp_path, tls=authority.issue("meta-agent"))
    new = Authority(tmp_path / "new")
    internal = Internal()
    async with serving_as(meta_agent, internal.register) as address:
        early = secure(address, new.issue("worker"), ca=authority.ca_file)
        async with early:
            assert await refused_connection(early)
        write(authority.ca_file, (authority.pem + new.pem).decode())
        await asyncio.sleep(NOTICED)
        async with secure(address, new.settings("worker"), ca=authority.ca_file) as channel:
            assert await report(channel) is None


@pytest.mark.parametrize("what", ["certificate", "key", "half a renewal", "authority", "gone"])
async def test_bad_new_files_leave_the_old_ones_in_use(
    tmp_path: Path, authority: Authority, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    tls = authority.issue("meta-agent")
    meta_agent = member("meta-agent", tmp_path, tls=tls)
    worker = authority.issue("worker")
    another = authority.certificate("worker")
    old_ca = tmp_path / "old-ca.pem"
    write(old_ca, authority.pem.decode())
    async with serving_as(meta_agent, Internal().register) as address:
        async with secure(address, worker, ca=old_ca) as channel:
            assert await report(channel) is None
        match what:
            case "certificate":
                write(Path(tls.cert_file), "no certificate")
            case "key":
                write(Path(tls.key_file), "no key")
            case "half a renewal":
                write(Path(tls.cert_file), another)
            case "authority":
                write(authority.ca_file, "no authority")
            case _:
                os.unlink(tls.cert_file)
        await asyncio.sleep(NOTICED)
        async with secure(address, worker, ca=old_ca) as channel:
            assert await report(channel) is None
        errors = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert [r for r in errors if "the old one stays" in r.getMessage()]
        assert "PRIVATE KEY" not in caplog.text


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (TlsSettings(cert_file="a", key_file="b"), "HMA_TLS_CA_FILE"),
        (TlsSettings(ca_file="a"), "HMA_TLS_CERT_FILE, HMA_TLS_KEY_FILE"),
        (TlsSettings(cert_file="a", key_file="b", ca_file="c"), "a cannot be read"),
    ],
)
def test_half_a_configuration_is_refused(tls: TlsSettings, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Membership.of("worker", ServiceAccess(auth="none"), tls, "127.0.0.1")


def test_certificates_name_roles(authority: Authority) -> None:
    pem = Path(authority.issue("worker").cert_file).read_bytes()
    names = x509.load_pem_x509_certificate(pem).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate_name("worker") in found.get_values_for_type(x509.DNSName)


async def test_a_failed_handshake_writes_no_line_of_its_own_into_a_services_log(
    tmp_path: Path, authority: Authority
) -> None:
    tls = authority.issue("worker")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HMA_")}
    access = ServiceAccess(internal_key_file=str(tmp_path / "key"))
    write(Path(access.internal_key_file), "k" * 32)
    with socket.socket() as free, socket.socket() as other:
        for each in (free, other):
            each.bind(("127.0.0.1", 0))
        port, metrics = (str(each.getsockname()[1]) for each in (free, other))
    environment = {
        **clean,
        "HMA_LLM_BASE_URL": "http://127.0.0.1:1/v1",
        "HMA_WORKER_PORT": port,
        "HMA_WORKER_METRICS_PORT": metrics,
        "HMA_META_AGENT_ADDRESS": "127.0.0.1:1",
        "HMA_INTERNAL_KEY_FILE": access.internal_key_file,
        "HMA_DRAIN_DELAY": "0s",
        "HMA_TLS_CERT_FILE": tls.cert_file,
        "HMA_TLS_KEY_FILE": tls.key_file,
        "HMA_TLS_CA_FILE": tls.ca_file,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.worker", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        await _listening(int(port))
        await asyncio.to_thread(_knock_without_certificate, int(port), authority)
    finally:
        process.terminate()
        _, said = await asyncio.wait_for(process.communicate(), 30)
    lines = said.decode().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert lines


async def _listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _knock_without_certificate(port: int, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.ca_file)
    context.set_alpn_protocols(["h2"])
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(4096):
                pass
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=SERVER_NAME) as secured,
        ):
            while secured.recv(4096):
                pass
