"""Who may call which service."""

from __future__ import annotations

import pytest

from hma.rpc.callers import (
    ANALYST,
    GATEWAY,
    META_AGENT,
    REDUCER,
    ROLES,
    WORKER,
    certificate_name,
    is_between_services,
    may_call,
    roles_of_names,
    server_of,
)
from hma.v1 import admin_pb2, analyst_pb2, meta_agent_pb2, reducer_pb2, worker_pb2

FILES = (admin_pb2, analyst_pb2, meta_agent_pb2, reducer_pb2, worker_pb2)
PUBLIC = {"hma.v1.MetaAgentService", "hma.v1.AdminService"}
METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def test_every_rpc_of_the_contracts_is_public_or_in_the_table() -> None:
    assert len(METHODS) > 20
    for method in METHODS:
        service = method.split("/")[1]
        assert is_between_services(method) is (service not in PUBLIC), method
        assert (server_of(method) is not None) is (service not in PUBLIC), method


def test_a_service_that_nobody_has_thought_of_is_closed() -> None:
    method = "/hma.v1.NewService/Do"
    assert is_between_services(method)
    assert not any(may_call(role, method) for role in ROLES)


def test_nobody_calls_what_it_has_no_business_with() -> None:
    callers = {m: {r for r in ROLES if may_call(r, m)} for m in METHODS if is_between_services(m)}
    services = {ANALYST, WORKER, REDUCER}
    assert callers == {
        "/hma.v1.AnalystService/Plan": {META_AGENT},
        "/hma.v1.WorkerService/Execute": {META_AGENT},
        "/hma.v1.ReducerService/Reduce": {META_AGENT},
        "/hma.v1.InternalService/ReportAttempt": services,
        "/hma.v1.InternalService/ReadDocument": {WORKER, REDUCER},
        "/hma.v1.InternalService/ReserveRoute": services,
        "/hma.v1.InternalService/WatchProgress": {META_AGENT},
    }


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_health_and_reflection_are_open(method: str) -> None:
    assert not is_between_services(method)


def test_a_certificate_speaks_for_the_roles_that_it_names() -> None:
    assert certificate_name(WORKER) == "worker.hma.internal"
    assert roles_of_names(["hma.internal", "worker.hma.internal"]) == {WORKER}
    for stranger in ("worker", "hma.internal", "worker.hma.internal.example.org", "*.hma.internal"):
        assert roles_of_names([stranger]) == frozenset()


def test_a_certificate_of_the_gateway_speaks_for_nobody() -> None:
    names = [certificate_name(role) for role in (META_AGENT, GATEWAY)]
    assert roles_of_names(names) == frozenset()
