"""Which role each RPC needs."""

from __future__ import annotations

import pytest

from hma.v1 import admin_pb2, meta_agent_pb2
from services.meta_agent.access import roles


def public_methods() -> set[str]:
    services = [
        meta_agent_pb2.DESCRIPTOR.services_by_name["MetaAgentService"],
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    ]
    return {f"/{each.full_name}/{method.name}" for each in services for method in each.methods}


def test_every_public_rpc_has_a_role_and_nothing_else_has() -> None:
    assert set(roles.LEAST_ROLE) == public_methods()
    assert all(roles.is_public(method) for method in public_methods())


def test_what_changes_something_needs_more_than_reading() -> None:
    reading = {"Get", "List", "Watch", "Explain"}
    for method, role in roles.LEAST_ROLE.items():
        name = method.rpartition("/")[2]
        if not any(name.startswith(verb) for verb in reading):
            assert role > roles.READER, method


@pytest.mark.parametrize(
    "method",
    [
        "/hma.v1.InternalService/ReportAttempt",
        "/grpc.health.v1.Health/Check",
        "/envoy.service.auth.v3.Authorization/Check",
        "/hma.v1.MetaAgentServices/GetJob",
    ],
)
def test_what_is_not_for_callers_is_not_public(method: str) -> None:
    assert not roles.is_public(method)


def test_an_rpc_that_was_forgotten_is_the_operators() -> None:
    assert roles.least_role("/hma.v1.MetaAgentService/DropEverything") == roles.OPERATOR


def test_a_route_that_asks_for_what_is_no_role_asks_for_the_highest() -> None:
    assert roles.least_role_of_route("") == roles.READER
    assert roles.least_role_of_route("operator") == roles.OPERATOR
    assert roles.least_role_of_route("emperor") == roles.OPERATOR


@pytest.mark.parametrize("name", ["", "UNSPECIFIED", "CALLER_ROLE_UNSPECIFIED", "root", "0"])
def test_what_is_no_role_is_none(name: str) -> None:
    assert roles.role_of_name(name) is None
    assert roles.role_of_name("Admin") == roles.ADMIN
