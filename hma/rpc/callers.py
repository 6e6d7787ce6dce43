"""Which service may call which: one table. Pure; a test holds that no RPC is missing.

Public services are not in it: who calls those is a person, and
`services/meta_agent/access` decides. What is in neither is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

META_AGENT = "meta-agent"
ANALYST = "analyst"
WORKER = "worker"
REDUCER = "reducer"
GATEWAY = "gateway"
CLI = "cli"
ROLES = (META_AGENT, ANALYST, WORKER, REDUCER, GATEWAY, CLI)

_INTERNAL = "/hma.v1.InternalService/"

# Method -> (who serves it, who may call it).
_CALLERS: Mapping[str, tuple[str, frozenset[str]]] = {
    "/hma.v1.AnalystService/Plan": (ANALYST, frozenset({META_AGENT})),
    "/hma.v1.WorkerService/Execute": (WORKER, frozenset({META_AGENT})),
    "/hma.v1.ReducerService/Reduce": (REDUCER, frozenset({META_AGENT})),
    _INTERNAL + "ReportAttempt": (META_AGENT, frozenset({ANALYST, WORKER, REDUCER})),
    _INTERNAL + "ReadDocument": (META_AGENT, frozenset({WORKER, REDUCER})),
    _INTERNAL + "ReserveRoute": (META_AGENT, frozenset({ANALYST, WORKER, REDUCER})),
    _INTERNAL + "WatchProgress": (META_AGENT, frozenset({META_AGENT})),
}

# Who calls these is decided elsewhere: by the MetaAgent's own interceptor, and, for
# ext_authz, by its servicer, which knows the gateway's credential.
_PUBLIC = frozenset(
    {
        "hma.v1.MetaAgentService",
        "hma.v1.AdminService",
        "envoy.service.auth.v3.Authorization",
    }
)
_OPEN = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)
_NAME_SUFFIX = ".hma.internal"

SERVER_NAME = "hma.internal"
"""In the certificate of every service: what its clients look for."""


def is_between_services(method: str) -> bool:
    """Whether a method, such as "/hma.v1.WorkerService/Execute", is for services only.

    Every method is, unless its service is known to be public or open to everybody.
    """
    service = method.lstrip("/").partition("/")[0]
    return service not in _PUBLIC and service not in _OPEN


def server_of(method: str) -> str | None:
    """The role that serves a method between services; None when it is not in the table."""
    entry = _CALLERS.get(method)
    return entry[0] if entry else None


def may_call(role: str, method: str) -> bool:
    """Whether a role has business with a method between services."""
    entry = _CALLERS.get(method)
    return entry is not None and role in entry[1]


def certificate_name(role: str) -> str:
    """The DNS name that makes a certificate a role's."""
    return role + _NAME_SUFFIX


def roles_of_names(names: Iterable[str]) -> frozenset[str]:
    """The roles that the DNS names of a certificate stand for.

    The gateway passes on the calls of others over connections of its own, so a certificate
    that is the gateway's, too, speaks for nobody.
    """
    known = set(names)
    found = frozenset(role for role in ROLES if certificate_name(role) in known)
    return frozenset() if GATEWAY in found else found
