"""What is up, what is not, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hma
from hma.errors import Unavailable
from hma.llm.base import SaysReadiness
from hma.llm.routes import Route, Routes
from hma.v1 import job_pb2, meta_agent_pb2
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.job.times import timestamp
from services.meta_agent.store.store import Store

UP = meta_agent_pb2.COMPONENT_STATE_UP
STARTING = meta_agent_pb2.COMPONENT_STATE_STARTING
DOWN = meta_agent_pb2.COMPONENT_STATE_DOWN

_CHECK_TIMEOUT = 3.0
_FRESH = 2.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A role that the MetaAgent calls.

    Attributes:
        name: "analyst", "worker" or "reducer".
        service: Full name of its gRPC service.
        method: The RPC that attempts use.
        address: Where it is: one process, or a balancer in front of many.
        channel: A channel to it.
    """

    name: str
    service: str
    method: str
    address: str
    channel: grpc.aio.Channel


class StatusBoard:
    """Looks at every part, at most once every two seconds however often it is asked."""

    def __init__(
        self,
        store: Store,
        peers: Sequence[Peer],
        routes: Routes,
        llm: SaysReadiness,
        *,
        ready_tasks: Callable[[], int] = lambda: 0,
        route_states: Callable[[], Mapping[str, RouteState]] = dict,
    ) -> None:
        """Looks at nothing yet.

        Args:
            store: The database and what it counts.
            peers: The other roles.
            routes: The routes to models.
            llm: Who can say whether a route is ready.
            ready_tasks: Tasks that wait for a place on this replica.
            route_states: What this replica has found out about routes by using them.
        """
        self._store = store
        self._peers = peers
        self._routes = routes
        self._llm = llm
        self._ready_tasks = ready_tasks
        self._route_states = route_states
        self._one_look = asyncio.Lock()
        self._latest: meta_agent_pb2.SystemStatus | None = None
        self._looked = 0.0

    async def look(self) -> meta_agent_pb2.SystemStatus:
        """The system as it is, at most two seconds old."""
        async with self._one_look:
            now = asyncio.get_running_loop().time()
            if self._latest is None or now - self._looked > _FRESH:
                self._latest = await self._look()
                self._looked = asyncio.get_running_loop().time()
            return self._latest

    async def _look(self) -> meta_agent_pb2.SystemStatus:
        checks = {
            "database": self._check_database(),
            **{peer.name: check_peer(peer) for peer in self._peers},
            **{f"route {name}": self._check_route(r) for name, r in self._routes.items()},
        }
        found = await asyncio.gather(*(_bounded(check) for check in checks.values()))
        status = meta_agent_pb2.SystemStatus(
            components=[
                meta_agent_pb2.Component(name=name, state=state, detail=detail)
                for name, (state, detail) in zip(checks, found, strict=True)
            ],
            ready_tasks=self._ready_tasks(),
            version=hma.__version__,
            time=timestamp(self._store.clock.now()),
        )
        if status.components[0].state == UP:
            await self._count(status)
        return status

    async def _count(self, status: meta_agent_pb2.SystemStatus) -> None:
        try:
            counts = await self._store.jobs.open_counts()
            status.replicas = len(await self._store.replicas.live())
        except Unavailable as error:
            status.components[0].state = DOWN
            status.components[0].detail = error.message
            return
        status.queued_jobs = counts.get(job_pb2.JOB_STATE_QUEUED, 0)
        status.running_jobs = sum(counts.values()) - status.queued_jobs

    async def _check_database(self) -> Check:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            await self._store.clock.synchronise(self._store.database)
        except Unavailable as error:
            return DOWN, f"{error.message} Check HMA_DATABASE_URL and that PostgreSQL runs."
        return UP, f"PostgreSQL, answers in {(loop.time() - start) * 1000:.1f} ms"

    async def _check_route(self, route: Route) -> Check:
        readiness = await self._llm.readiness(route)
        if readiness.ready:
            found = self._route_states().get(route.name)
            if found is None or not found.detail:
                return UP, readiness.detail
            # Its server answers, but those who use the route know better.
            words = f"{readiness.detail} But {found.detail.rstrip('.')}."
            return (UP if found.ready else DOWN), words
        return (STARTING if "loading" in readiness.detail else DOWN), readiness.detail


Check = tuple["meta_agent_pb2.ComponentState.ValueType", str]


async def check_peer(peer: Peer) -> Check:
    """Asks a role for its health.

    A balancer that routes by service name cannot route the health service, which all
    roles share. Then the role's own RPC is opened and closed: whatever the role says
    to that, it is there.
    """
    stub = health_pb2_grpc.HealthStub(peer.channel)
    request = health_pb2.HealthCheckRequest(service=peer.service)
    try:
        answer = await stub.Check(request, timeout=_CHECK_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.UNIMPLEMENTED:
            return _absent(peer)
    else:
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return UP, f"serves at {peer.address}"
        return STARTING, (
            f"runs at {peer.address} but is not ready, or is about to stop: see its log"
        )
    return await _knock(peer)


async def _knock(peer: Peer) -> Check:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = peer.channel.stream_stream(
        f"/{peer.service}/{peer.method}"
    )
    call = method(timeout=_CHECK_TIMEOUT)
    try:
        await call.done_writing()
        code = await call.code()
    except grpc.aio.AioRpcError as error:
        code = error.code()
    finally:
        call.cancel()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return _absent(peer)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return DOWN, (
            f"{peer.service} at {peer.address} does not take this MetaAgent for one of its "
            "installation: give both the same HMA_INTERNAL_KEY_FILE"
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return DOWN, (
            f"something else than {peer.service} answers at {peer.address}: "
            f"check HMA_{peer.name.upper()}_ADDRESS"
        )
    return UP, f"serves behind {peer.address}"


def _absent(peer: Peer) -> Check:
    return DOWN, (
        f"nothing serves {peer.service} at {peer.address}: start it with "
        f"`python -m services.{peer.name}`, or set HMA_{peer.name.upper()}_ADDRESS"
    )


async def _bounded(check: Awaitable[Check]) -> Check:
    try:
        async with asyncio.timeout(2 * _CHECK_TIMEOUT):
            return await check
    except TimeoutError:
        return DOWN, f"did not answer within {2 * _CHECK_TIMEOUT:g} s"
