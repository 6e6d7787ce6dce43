"""grpc.health.v1 driven by a real readiness condition."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from prometheus_client import CollectorRegistry, Gauge

_log = logging.getLogger(__name__)
_TIMEOUT = 5.0

Readiness = Callable[[], Awaitable[tuple[bool, str]]]
"""Says whether the service can do its work now and, when not, why."""


class Health:
    """The health of a server as a whole ("") and of each of its services.

    NOT_SERVING until `say` is called for the first time, and again for good once
    it drains.

    Args:
        names: Full names of the services.
    """

    NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

    def __init__(self, names: Sequence[str]) -> None:
        self._names = ["", *names]
        self._servicer = _HealthServicer(self._names)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the health service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def say(self, ready: bool) -> None:
        """SERVING or NOT_SERVING, for all names."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in self._names:
            await self._servicer.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        await self._servicer.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """Ends Watch streams, which would otherwise hold up the drain."""
        self._servicer.ended.set()


async def probe(
    readiness: Readiness,
    health: Health,
    interval: float,
    registry: CollectorRegistry,
    tell: Callable[[bool, str], None],
) -> None:
    """Asks for readiness every `interval` seconds, says and tells it, until cancelled."""
    gauge = Gauge("hma_ready", "Whether the service is ready (1) or not (0)", registry=registry)
    said: tuple[bool, str] | None = None
    while True:
        now = await _ask(readiness)
        gauge.set(now[0])
        tell(*now)
        if said is None or now[0] != said[0]:
            await health.say(now[0])
        if now != said:
            _log.info("readiness", extra={"ready": now[0], "why": now[1]})
        said = now
        await asyncio.sleep(interval)


async def _ask(readiness: Readiness) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await readiness()
    except TimeoutError:
        return False, f"the readiness check did not answer within {_TIMEOUT:g} s"
    except Exception as error:  # noqa: BLE001 - a broken check means not ready, not a dead server
        _log.warning("the readiness check failed", exc_info=error)
        return False, "the readiness check failed; the log says why"


class _HealthServicer(health_aio.HealthServicer):  # type: ignore[misc]
    """The library's servicer; starts as NOT_SERVING, and its watches can be ended.

    The library writes to a watcher under the lock with which it takes news: one that did not
    read, and anybody may watch, would keep all others from them. Here nobody waits for one.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()
        for name in names:
            self._server_status[name] = health_pb2.HealthCheckResponse.NOT_SERVING

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        watch = asyncio.create_task(self._tell(request.service, context))
        ended = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            ended.cancel()
            await asyncio.wait({watch, ended})

    async def _tell(self, name: str, context: Any) -> None:
        told = None
        while True:
            # Before it is looked: what changes meanwhile is looked at again.
            changed = self._changed
            now = self._server_status.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if now != told:
                await context.write(health_pb2.HealthCheckResponse(status=now))
                told = now
            await changed.wait()

    async def _set(
        self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType
    ) -> None:
        self._server_status[service] = status
        self._changed.set()
        self._changed = asyncio.Event()
