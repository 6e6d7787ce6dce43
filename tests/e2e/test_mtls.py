"""The whole stack with TLS everywhere: mutual between services, and in front of clients."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hma
from hma.client import Backoff
from hma.errors import HmaError, PermissionDenied, Unauthenticated, Unavailable
from hma.local.parts import parts
from hma.local.tether import tethered
from hma.rpc.callers import SERVER_NAME, certificate_name
from hma.rpc.status import from_rpc_error
from hma.rpc.tls import TlsSettings
from hma.rpc.tokens import TokenKeys
from hma.v1 import job_pb2, meta_agent_pb2, meta_agent_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.certificates import Authority
from tests.e2e.conftest import DOCUMENT, TASK, Stack, running_stack

ROLES = ("analyst", "worker", "reducer", "meta-agent", "gateway", "cli")
HEALTH = health_pb2.HealthCheckRequest()


@dataclass(frozen=True)
class Secured:
    """The stack, its authorities, and what gets one in."""

    stack: Stack
    services: Authority
    public: Authority
    key: str

    @property
    def url(self) -> str:
        """Of the gateway."""
        return f"https://{self.stack.address}"

    @property
    def service_ports(self) -> dict[str, int]:
        """Ports where only services are let in."""
        settings = self.stack.settings
        return {
            "internal": settings.gateway_internal_port,
            "meta-agent": settings.meta_agent_port,
            "analyst": settings.analyst_port,
            "reducer": settings.reducer_port,
            "worker-1": settings.worker_port,
            "worker-2": settings.worker_port + 1,
        }

    def client(self) -> hma.Client:
        """A client; close it."""
        return hma.Client(self.url, api_key=self.key, ca_file=str(self.public.ca_file), timeout=30)

    def issue(self, lifetime: float) -> None:
        """Certificates for everybody, in place of those that are there."""
        for role in ROLES:
            self.services.issue(role, lifetime=lifetime)
        self.public.issue("public", "127.0.0.1", lifetime=lifetime)

    def expiry(self, port: int) -> float:
        """When the certificate expires that a new connection is shown."""
        public = port == self.stack.settings.gateway_port
        if public:
            context = ssl.create_default_context(cafile=self.public.ca_file)
        else:
            tls = self.services.settings("cli")
            context = ssl.create_default_context(cafile=tls.ca_file)
            context.load_cert_chain(tls.cert_file, tls.key_file)
            # Envoy's certificate has the same names as the services' have.
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(
                plain, server_hostname="127.0.0.1" if public else SERVER_NAME
            ) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


@pytest.fixture(scope="module")
def secured(open_directory: Path) -> Iterator[Secured]:
    """A stack with certificates of a quarter of an hour."""
    services = Authority(open_directory / "tls" / "services")
    public = Authority(open_directory / "tls" / "public")
    for role in ROLES:
        services.issue(role, lifetime=900)
    shown = public.issue("public", "127.0.0.1", lifetime=900)
    with running_stack(
        open_directory / "mtls",
        HMA_AUTH="on",
        HMA_TLS_CERT_FILE=str(services.directory / "{role}.pem"),
        HMA_TLS_KEY_FILE=str(services.directory / "{role}.key"),
        HMA_TLS_CA_FILE=str(services.ca_file),
        HMA_GATEWAY_TLS_CERT_FILE=shown.cert_file,
        HMA_GATEWAY_TLS_KEY_FILE=shown.key_file,
        HMA_CA_FILE=str(public.ca_file),
    ) as stack:
        key = (stack.directory / "var" / "access" / "key").read_text().strip()
        yield Secured(stack, services, public, key)


def channel(port: int, tls: TlsSettings, ca: Path) -> grpc.Channel:
    """A connection of its own with a certificate."""
    credentials = grpc.ssl_channel_credentials(
        ca.read_bytes(), Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes()
    )
    options: list[tuple[str, Any]] = [
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


def refusal(asked: grpc.Channel, *metadata: tuple[str, str]) -> HmaError | None:
    """What a call of Execute is refused with; None when it is taken."""
    with asked:
        call = worker_pb2_grpc.WorkerServiceStub(asked).Execute(
            iter([worker_pb2.ExecuteRequest()]), timeout=30, metadata=metadata
        )
        try:
            next(call)
        except StopIteration:
            return None
        except grpc.RpcError as error:
            return from_rpc_error(error)
    return None


def run_job(client: hma.Client) -> job_pb2.Job:
    """A small job, to its end."""
    document = ("handbook.md", DOCUMENT)
    return client.run(TASK, budget=4000, deadline=120, documents=[document])


def test_a_job_runs_to_its_end_with_tls_everywhere(secured: Secured) -> None:
    with secured.client() as client:
        job = run_job(client)
    assert job.state in (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_PARTIAL), job
    assert job.ledger.spent_tokens > 0


def test_every_part_is_seen_to_be_up(secured: Secured) -> None:
    with secured.client() as client:
        status = client.status()
    assert all(part.state == 1 for part in status.components), status


def test_the_command_line_and_curl_take_an_authority_of_ones_own(secured: Secured) -> None:
    environment = {
        **secured.stack.environment,
        "HMA_SERVER": secured.url,
        "HMA_API_KEY": secured.key,
    }
    own = Stack(secured.stack.settings, secured.stack.directory, environment)
    done = own.hma("status")
    assert done.returncode == 0, done.stderr
    without = Stack(own.settings, own.directory, {**environment, "HMA_CA_FILE": ""})
    assert without.hma("status").returncode != 0
    ca = str(secured.public.ca_file)
    got = own.run("curl", "-sS", "--cacert", ca, f"{secured.url}/healthz")
    assert "SERVING" in got.stdout, got.stderr


def test_the_first_key_is_made_past_the_gateway_with_a_certificate(secured: Secured) -> None:
    tls = secured.services.settings("cli")
    internal = secured.stack.directory / "var" / "access" / "internal-key"
    port = secured.stack.settings.meta_agent_port
    arguments = ("keys", "create", "--direct", f"127.0.0.1:{port}", "--tenant", "acme")
    certified = {
        **secured.stack.environment,
        "HMA_INTERNAL_KEY_FILE": str(internal),
        "HMA_TLS_CERT_FILE": tls.cert_file,
        "HMA_TLS_KEY_FILE": tls.key_file,
        "HMA_TLS_CA_FILE": tls.ca_file,
    }
    own = Stack(secured.stack.settings, secured.stack.directory, certified)
    done = own.hma(*arguments)
    assert done.returncode == 0, done.stderr
    plain = {name: v for name, v in certified.items() if not name.startswith("HMA_TLS_")}
    without = Stack(own.settings, own.directory, plain)
    assert without.hma(*arguments).returncode != 0


def test_the_welcome_says_how_to_connect(secured: Secured) -> None:
    said = (secured.stack.directory / "up.log").read_text()
    assert f"HMA serves at {secured.url} " in said
    assert f"HMA_CA_FILE={secured.public.ca_file}" in said
    assert f"grpcurl -cacert {secured.public.ca_file}" in said


def test_no_port_takes_plain_text(secured: Secured) -> None:
    ports = {**secured.service_ports, "public": secured.stack.settings.gateway_port}
    for name, port in ports.items():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
            stub = health_pb2_grpc.HealthStub(plain)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Check(HEALTH, timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, name


def test_no_service_takes_a_strangers_certificate(secured: Secured, tmp_path: Path) -> None:
    strangers = Authority(tmp_path / "strangers")
    for name, port in secured.service_ports.items():
        for role in ("meta-agent", "worker"):
            asked = channel(port, strangers.issue(role), secured.services.ca_file)
            assert isinstance(refusal(asked), Unavailable), (name, role)


def test_no_service_takes_a_client_without_a_certificate(secured: Secured) -> None:
    credentials = grpc.ssl_channel_credentials(secured.services.pem)
    named = [("grpc.ssl_target_name_override", SERVER_NAME)]
    for name, port in secured.service_ports.items():
        asked = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=named)
        assert isinstance(refusal(asked), Unavailable), name


def test_the_gateway_is_not_believed_on_anothers_word(secured: Secured) -> None:
    with (
        hma.Client(
            secured.url,
            api_key=secured.key,
            ca_file=str(secured.services.ca_file),
            timeout=30,
            backoff=Backoff(tries=1),
        ) as client,
        pytest.raises(Unavailable),
    ):
        client.status()


def test_a_certificate_opens_what_its_role_may_do_and_no_more(secured: Secured) -> None:
    port, services = secured.stack.settings.worker_port, secured.services
    refused = refusal(channel(port, services.settings("analyst"), services.ca_file))
    assert isinstance(refused, PermissionDenied)
    # Taken for a MetaAgent, and told that its request is no good.
    taken = refusal(channel(port, services.settings("meta-agent"), services.ca_file))
    assert not isinstance(taken, PermissionDenied | Unauthenticated | Unavailable), taken


def test_the_gateways_certificate_stands_for_nobody_who_calls_through_it(
    secured: Secured,
) -> None:
    internal, services = secured.stack.settings.gateway_internal_port, secured.services
    for role in ("meta-agent", "gateway", "cli"):
        refused = refusal(channel(internal, services.settings(role), services.ca_file))
        assert isinstance(refused, Unauthenticated), role
        assert refused.reason == "NO_CALLER"


@contextmanager
def second_meta_agent(secured: Secured) -> Iterator[int]:
    """Another replica on the same database; its port."""
    stack = secured.stack
    part = next(p for p in parts(stack.settings, stack.environment) if p.name == "meta-agent")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    environment = {
        **part.environment,
        "HMA_META_AGENT_PORT": str(port),
        "HMA_META_AGENT_METRICS_PORT": "0",
        "HMA_REPLICA_NAME": "second",
    }
    log = stack.directory / "second.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            tethered(part.command, signal.SIGTERM),
            env=environment,
            cwd=stack.directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 30
        while '"serving"' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def test_replicas_relay_progress_to_each_other(secured: Secured) -> None:
    """Whichever drives the job, the other has its progress over a connection between both."""
    internal = secured.stack.directory / "var" / "access" / "internal-key"
    keys = TokenKeys([internal.read_bytes().strip()])
    identity = keys.sign("service:test", "meta-agent", tenant="default", role=4)
    services = secured.services

    def watch(port: int, job_id: str) -> bool:
        """Whether progress comes before the job's end."""
        with channel(port, services.settings("cli"), services.ca_file) as asked:
            stub = meta_agent_pb2_grpc.MetaAgentServiceStub(asked)
            request = meta_agent_pb2.WatchJobRequest(job_id=job_id)
            updates = stub.WatchJob(request, timeout=120, metadata=(("x-hma-identity", identity),))
            return any(update.HasField("progress") for update in updates)

    with (
        second_meta_agent(secured) as second,
        secured.client() as client,
        ThreadPoolExecutor(2) as pool,
    ):
        document = ("handbook.md", DOCUMENT)
        job_id = client.submit(TASK, budget=4000, deadline=120, documents=[document])
        ports = (secured.stack.settings.meta_agent_port, second)
        seen = list(pool.map(lambda port: watch(port, job_id), ports))
    assert seen == [True, True]


def test_certificates_are_renewed_while_it_runs(secured: Secured) -> None:
    ports = {**secured.service_ports, "public": secured.stack.settings.gateway_port}
    with secured.client() as client:
        before = {name: secured.expiry(port) for name, port in ports.items()}
        assert all(at < time.time() + 1000 for at in before.values()), before
        # A stream that is open meanwhile, and must not be cut.
        watched = client.submit(TASK, budget=4000, deadline=120)
        updates = client.watch(watched)
        next(updates)
        secured.issue(lifetime=7200)
        end = time.monotonic() + 30
        while True:
            after = {name: secured.expiry(port) for name, port in ports.items()}
            if all(at > time.time() + 6000 for at in after.values()):
                break
            assert time.monotonic() < end, after
            time.sleep(0.2)
        for _ in updates:
            pass
        assert client.get(watched).state in (
            job_pb2.JOB_STATE_SUCCEEDED,
            job_pb2.JOB_STATE_PARTIAL,
        )
        # And new connections among all parts serve a job.
        job = run_job(client)
    assert job.state in (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_PARTIAL), job
    for log in (secured.stack.directory / "var" / "log").glob("*.log"):
        assert "no good" not in log.read_text(errors="replace"), log


def test_names_of_the_services_are_in_their_certificates(secured: Secured) -> None:
    pem = Path(secured.services.settings("worker").cert_file).read_bytes()
    names = x509.load_pem_x509_certificate(pem).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate_name("worker") in found.get_values_for_type(x509.DNSName)


def test_keys_are_nobody_elses_to_read(secured: Secured) -> None:
    for path in (secured.stack.directory / "var" / "gateway").glob("tls-*.json"):
        assert os.stat(path).st_mode & 0o077 == 0
        assert "PRIVATE KEY" not in path.read_text()
