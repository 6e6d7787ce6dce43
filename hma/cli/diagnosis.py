"""What `hma doctor` finds out. Every look has a deadline; none raises."""

from __future__ import annotations

import json
import platform
import socket
import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc

from hma import __version__
from hma.cli.exposed import look_at_secrets
from hma.cli.finding import Finding, Health
from hma.client import Backoff, Client, KeyWarning
from hma.client.connection import Server
from hma.client.trust import authorities, verifying_context
from hma.errors import HmaError, InvalidRequest, SettingsError, Unauthenticated
from hma.v1 import meta_agent_pb2

_TIMEOUT = 3.0

# Parts of a stack on this machine: variable, default port, what it is.
_PARTS = (
    ("HMA_META_AGENT_PORT", 50051, "MetaAgent"),
    ("HMA_ANALYST_PORT", 50052, "Analyst"),
    ("HMA_REDUCER_PORT", 50053, "Reducer"),
    ("HMA_WORKER_PORT", 50054, "Worker"),
)
_EMBEDDED_LLM = ("HMA_LLM_PORT", 8090)
_REMEDIES = {
    "database": "check that PostgreSQL runs and that HMA_DATABASE_URL names it",
    "analyst": "start it: `make up`, or `python -m services.analyst`; its log says why it ended",
    "worker": "start one: `make up`, or `python -m services.worker`; its log says why it ended",
    "reducer": "start it: `make up`, or `python -m services.reducer`; its log says why it ended",
    "route": "check the model server behind the route: HMA_LLM_BASE_URL, HMA_LLM_MODEL",
}


def diagnose(server: str, environ: Mapping[str, str]) -> list[Finding]:
    """Looks at everything; the most telling things first.

    Args:
        server: The gateway's address.
        environ: Says where the model server and the parts of a local stack are.

    Raises:
        InvalidRequest: `server` is not an address.
    """
    address = Server.parse(server)
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=4) as pool:
        # A finding says it better.
        warnings.simplefilter("ignore", KeyWarning)
        asked = pool.submit(_ask, server)
        model = pool.submit(look_at_model, environ)
        status, problem = asked.result()
        findings = [_gateway(address, status, problem)]
        if status is not None:
            findings += [_component(component) for component in status.components]
            findings.append(_versions(status.version))
        else:
            if not isinstance(problem, Unauthenticated):
                findings += _local_parts(address, environ)
            findings.append(_versions(None))
        # A server that says how its routes are knows better than a look from here.
        routes = status is not None and any(c.name.startswith("route") for c in status.components)
        if environ.get("HMA_LLM_BASE_URL") or (address.is_local and not routes):
            findings.append(model.result())
        findings += look_at_secrets(address, environ)
    return findings


def model_url(environ: Mapping[str, str]) -> str:
    """OpenAI root of the model server: HMA_LLM_BASE_URL, else the embedded one."""
    return (
        environ.get("HMA_LLM_BASE_URL") or f"http://127.0.0.1:{_port(environ, *_EMBEDDED_LLM)}/v1"
    )


def look_at_model(environ: Mapping[str, str]) -> Finding:
    """Asks the model server which models it has."""
    base = model_url(environ)
    name = "model server"
    if urlsplit(base).scheme not in ("http", "https"):
        return Finding(name, Health.BAD, f"{base} is not an http URL", "correct HMA_LLM_BASE_URL")
    request = urllib.request.Request(f"{base.rstrip('/')}/models")  # noqa: S310 - http(s) only
    if key := environ.get("HMA_LLM_API_KEY"):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:  # noqa: S310
            models = [str(entry["id"]) for entry in json.load(reply)["data"]]
    except urllib.error.HTTPError as error:
        return _unwell_model(name, base, error.code)
    except (OSError, ValueError) as error:
        own = environ.get("HMA_LLM_BASE_URL")
        remedy = "start it, or correct HMA_LLM_BASE_URL" if own else "`make up` starts it"
        reason = getattr(error, "reason", None) or error
        return Finding(name, Health.BAD, f"{base}: {reason}", remedy)
    except (KeyError, TypeError):
        return Finding(
            name, Health.BAD, f"{base} does not answer as an OpenAI-compatible server does",
            "let HMA_LLM_BASE_URL end in /v1",
        )  # fmt: skip
    wanted = environ.get("HMA_LLM_MODEL")
    if wanted and wanted not in models:
        return Finding(
            name,
            Health.BAD,
            f"{base} has no model {wanted}; it has {', '.join(models)}",
            "correct HMA_LLM_MODEL",
        )
    return Finding(name, Health.GOOD, f"{base} serves {', '.join(models)}")


def _unwell_model(name: str, base: str, code: int) -> Finding:
    if code == 503:
        return Finding(name, Health.WAITING, f"{base} is still loading its model")
    if code in (401, 403):
        return Finding(name, Health.BAD, f"{base} refuses the key", "correct HMA_LLM_API_KEY")
    return Finding(name, Health.BAD, f"{base} answers {code}", "let HMA_LLM_BASE_URL end in /v1")


def _ask(server: str) -> tuple[meta_agent_pb2.SystemStatus | None, HmaError | None]:
    try:
        with Client(server, timeout=_TIMEOUT, backoff=Backoff(tries=2)) as client:
            return client.status(), None
    except HmaError as error:
        return None, error


def _gateway(
    address: Server, status: meta_agent_pb2.SystemStatus | None, problem: HmaError | None
) -> Finding:
    if status is not None:
        load = f"{status.running_jobs:,} jobs at work, {status.queued_jobs:,} queued"
        return Finding("gateway", Health.GOOD, f"{address.target} answers; {load}")
    if isinstance(problem, Unauthenticated):
        return Finding(
            "gateway",
            Health.BAD,
            f"{address.target} answers, but not to you: {problem.message}",
            "set HMA_API_KEY, or HMA_API_KEY_FILE; `make up` says where its key is",
        )
    if isinstance(problem, InvalidRequest | SettingsError):
        return Finding(
            "gateway",
            Health.BAD,
            f"{address.target} was not asked: {problem.message}",
            "correct it",
        )
    if problem is not None and problem.reason != "UNREACHABLE":
        return Finding(
            "gateway",
            Health.BAD,
            f"{address.target} answers, but not for the MetaAgent: {problem.message}",
            "look at the MetaAgent's log; `make up` starts it",
        )
    distrust = _distrust(address) if address.secure else ""
    if distrust:
        return Finding(
            "gateway",
            Health.BAD,
            f"{address.target} answers, but over TLS that proves nothing: {distrust}",
            "name the certificate authority's file with HMA_CA_FILE, and the server as its "
            "certificate does; or leave out https:// if it speaks no TLS",
        )
    if _listens(address.target):
        return Finding(
            "gateway",
            Health.BAD,
            f"something listens at {address.target}, but it does not speak gRPC",
            "another program has the port: stop it, or choose with HMA_GATEWAY_PORT",
        )
    return Finding(
        "gateway",
        Health.BAD,
        f"nothing answers at {address.target}",
        "start HMA with `make up`, or name its address with --server or HMA_SERVER",
    )


def _component(component: meta_agent_pb2.Component) -> Finding:
    if component.state == meta_agent_pb2.COMPONENT_STATE_UP:
        return Finding(component.name, Health.GOOD, component.detail or "up")
    if component.state == meta_agent_pb2.COMPONENT_STATE_STARTING:
        return Finding(component.name, Health.WAITING, component.detail or "starting")
    remedy = next(
        (text for prefix, text in _REMEDIES.items() if component.name.startswith(prefix)), ""
    )
    return Finding(component.name, Health.BAD, component.detail or "down", remedy)


def _local_parts(address: Server, environ: Mapping[str, str]) -> list[Finding]:
    """When the gateway is silent and should be here: which parts are up behind it."""
    if not address.is_local:
        return []
    findings = []
    for variable, default, name in _PARTS:
        port = _port(environ, variable, default)
        if _listens(f"127.0.0.1:{port}"):
            findings.append(Finding(name, Health.GOOD, f"listens on port {port}"))
        else:
            findings.append(Finding(name, Health.BAD, f"nothing listens on port {port}"))
    return findings


def _versions(server: str | None) -> Finding:
    mine = f"hma {__version__}, grpcio {grpc.__version__}, Python {platform.python_version()}"
    if server and server != __version__:
        return Finding(
            "versions",
            Health.RISKY,
            f"{mine}; the server is hma {server}",
            "install the same version on both sides",
        )
    return Finding("versions", Health.GOOD, mine)


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "")
    return int(text) if text.isdigit() else default


def _listens(target: str) -> bool:
    try:
        with _connection(target):
            return True
    except OSError:
        return False


def _distrust(address: Server) -> str:
    """Why a server is not taken for the one that was named; empty if it is, or is away."""
    # HMA_CA_FILE itself has been found good, or the client would have said so.
    context = verifying_context(authorities(None))
    host = address.target.rpartition(":")[0].strip("[]")
    try:
        with _connection(address.target) as plain, context.wrap_socket(plain, server_hostname=host):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return error.reason or "it speaks no TLS"
    except OSError:
        return ""


def _connection(target: str) -> socket.socket:
    host, _, port = target.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=1.0)
