"""Which role a call needs. Pure; a test holds that every public RPC is here."""

from __future__ import annotations

from typing import TypeAlias

from hma.v1 import admin_pb2

Role: TypeAlias = "admin_pb2.CallerRole.ValueType"
READER = admin_pb2.CALLER_ROLE_READER
USER = admin_pb2.CALLER_ROLE_USER
ADMIN = admin_pb2.CALLER_ROLE_ADMIN
OPERATOR = admin_pb2.CALLER_ROLE_OPERATOR

_META_AGENT = "/hma.v1.MetaAgentService/"
_ADMIN = "/hma.v1.AdminService/"

# The least role that may make the call. Where it says whose keys, quotas or entries are
# meant, the servicer also compares that with the caller's tenant.
LEAST_ROLE: dict[str, Role] = {
    _META_AGENT + "GetJob": READER,
    _META_AGENT + "ListJobs": READER,
    _META_AGENT + "WatchJob": READER,
    _META_AGENT + "ExplainJob": READER,
    _META_AGENT + "GetUsage": READER,
    _META_AGENT + "GetQuota": READER,
    _META_AGENT + "GetSystemStatus": READER,
    _META_AGENT + "CreateJob": USER,
    _META_AGENT + "CancelJob": USER,
    _META_AGENT + "InterruptJob": USER,
    _META_AGENT + "GrantBudget": USER,
    _META_AGENT + "DeleteJob": USER,
    _ADMIN + "CreateKey": ADMIN,
    _ADMIN + "ListKeys": ADMIN,
    _ADMIN + "RotateKey": ADMIN,
    _ADMIN + "RevokeKey": ADMIN,
    _ADMIN + "ListAuditEntries": ADMIN,
    _ADMIN + "SetQuota": OPERATOR,
}


def is_public(method: str) -> bool:
    """Whether a gRPC method, such as "/hma.v1.MetaAgentService/GetJob", is for callers."""
    return method.startswith((_META_AGENT, _ADMIN))


def least_role(method: str) -> Role:
    """The role that a public gRPC method needs; of one that is not listed, the highest."""
    return LEAST_ROLE.get(method, OPERATOR)


def least_role_of_route(asked: str) -> Role:
    """The role that the gateway asks for before it lets a request pass.

    RPCs ask for theirs themselves: only they know what a path of the HTTP API stands for.

    Args:
        asked: What the gateway's route says; empty: nothing.
    """
    return (role_of_name(asked) or OPERATOR) if asked else READER


def role_of_name(name: str) -> Role | None:
    """The role with a name such as "user" or "CALLER_ROLE_USER"; None when there is none."""
    full = name.strip().upper()
    full = full if full.startswith("CALLER_ROLE_") else f"CALLER_ROLE_{full}"
    if full not in admin_pb2.CallerRole.keys():  # noqa: SIM118 - an enum wrapper, no mapping
        return None
    return admin_pb2.CallerRole.Value(full) or None
