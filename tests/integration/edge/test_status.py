from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

import hma
from hma.llm.base import Readiness
from hma.v1 import meta_agent_pb2, worker_pb2, worker_pb2_grpc
from services.meta_agent.edge.status import DOWN, STARTING, UP, Peer
from tests.integration.edge.edge import Edge, running_edge

Register = Callable[[grpc.aio.Server], None]
SERVICE = "hma.v1.WorkerService"


@contextlib.asynccontextmanager
async def peer_at(register: Register | None) -> AsyncIterator[Peer]:
    """A Worker as `register` makes it; nothing at all for None."""
    server = grpc.aio.server()
    if register is None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
    else:
        register(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield Peer(
            name="worker", service=SERVICE, method="Execute", address=address, channel=channel
        )
    await server.stop(0)


def healthy(status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> Register:
    def register(server: grpc.aio.Server) -> None:
        servicer = health_aio.HealthServicer()
        servicer._server_status[SERVICE] = status
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

    return register


def something_else(server: grpc.aio.Server) -> None:
    """Knows neither health nor the role's service."""


class _Refusing(worker_pb2_grpc.WorkerServiceServicer):
    async def Execute(
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[worker_pb2.ExecuteResponse]:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be start")
        yield worker_pb2.ExecuteResponse()


def behind_a_balancer(server: grpc.aio.Server) -> None:
    """Routes the role's own service and nothing else."""
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(_Refusing(), server)


class _Strict(worker_pb2_grpc.WorkerServiceServicer):
    async def Execute(
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[worker_pb2.ExecuteResponse]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not genuine")
        yield worker_pb2.ExecuteResponse()


def of_another_installation(server: grpc.aio.Server) -> None:
    """Behind a balancer, too, and with another key."""
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(_Strict(), server)


@pytest.mark.parametrize(
    ("register", "state", "says"),
    [
        (of_another_installation, DOWN, "HMA_INTERNAL_KEY_FILE"),
        (None, DOWN, "HMA_WORKER_ADDRESS"),
        (healthy(health_pb2.HealthCheckResponse.SERVING), UP, "serves at"),
        (healthy(health_pb2.HealthCheckResponse.NOT_SERVING), STARTING, "not ready"),
        (behind_a_balancer, UP, "serves behind"),
        (something_else, DOWN, "something else"),
    ],
    ids=[
        "another installation's",
        "away",
        "serving",
        "not ready",
        "behind a balancer",
        "another service",
    ],
)
async def test_a_role_is_shown_as_it_is(
    module_postgres_url: str,
    register: Register | None,
    state: meta_agent_pb2.ComponentState.ValueType,
    says: str,
) -> None:
    async with peer_at(register) as peer, running_edge(module_postgres_url, peers=(peer,)) as edge:
        status = await edge.api.GetSystemStatus(meta_agent_pb2.GetSystemStatusRequest(), timeout=30)
        found = {component.name: component for component in status.components}
        assert found["worker"].state == state
        assert says in found["worker"].detail


async def test_database_routes_jobs_and_replicas_are_shown(fresh_edge: Edge) -> None:
    await fresh_edge.create()
    status = await fresh_edge.api.GetSystemStatus(
        meta_agent_pb2.GetSystemStatusRequest(), timeout=30
    )
    assert [(c.name, c.state) for c in status.components] == [("database", UP), ("route fast", UP)]
    assert (status.replicas, status.queued_jobs, status.running_jobs) == (1, 1, 0)
    assert status.version == hma.__version__
    assert abs(status.time.ToMicroseconds() / 1e6 - fresh_edge.store.clock.now()) < 5


@pytest.mark.parametrize(
    ("readiness", "state"),
    [
        (Readiness(False, "the model server is still loading its model"), STARTING),
        (Readiness(False, "Nothing answers at http://x: start it"), DOWN),
    ],
)
async def test_a_route_that_cannot_be_called_says_why(
    edge: Edge, readiness: Readiness, state: meta_agent_pb2.ComponentState.ValueType
) -> None:
    edge.models.answer = readiness
    status = await edge.api.GetSystemStatus(meta_agent_pb2.GetSystemStatusRequest(), timeout=30)
    assert (status.components[1].state, status.components[1].detail) == (state, readiness.detail)


async def test_many_questions_are_one_look(edge: Edge) -> None:
    request = meta_agent_pb2.GetSystemStatusRequest()
    await asyncio.gather(*(edge.api.GetSystemStatus(request, timeout=30) for _ in range(30)))
    assert edge.models.asked == 1
