"""Bootstrap of every service: from settings to a clean exit.

`hma.rpc.service.run_service` calls it from `services/<role>/__main__.py`:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class WorkerServer(ServerSettings):
        port: int = setting("HMA_WORKER_PORT", 50054, "gRPC port of the Worker", check=is_port)
        metrics_port: int = setting("HMA_WORKER_METRICS_PORT", 9104, "…", check=is_port)

    async def main(settings: WorkerSettings) -> None:
        registry = new_registry()
        async with Reporter(channel) as reporter, Slots(20) as slots:
            servicer = WorkerServicer(slots, reporter)
            await serve(
                settings.server,
                [Service("hma.v1.WorkerService",
                         partial(add_WorkerServiceServicer_to_server, servicer))],
                readiness=servicer.readiness,
                registry=registry,
            )
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from hma.errors import HmaError
from hma.rpc.authentication import CallerInterceptor, OnRefused
from hma.rpc.health import Health, Readiness, probe
from hma.rpc.http_health import HttpHealth
from hma.rpc.interceptor import AccessMetrics, RpcInterceptor
from hma.rpc.membership import Membership
from hma.rpc.tls import server_credentials
from hma.settings import Bytes, Seconds, at_least, setting
from hma.telemetry.metrics import MetricsServer, Page

_log = logging.getLogger(__name__)


class CannotServe(HmaError):
    """The process cannot start to serve; the message says what to change."""

    reason = "CANNOT_SERVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What every server has in common. A role's subclass gives the ports."""

    port: int
    metrics_port: int
    host: str = setting("HMA_HOST", "127.0.0.1", "address that every service binds")
    max_message_bytes: Bytes = setting(
        "HMA_MAX_MESSAGE_BYTES",
        Bytes(40 << 20),
        "largest message that is sent or received; above the largest job (32 MiB)",
        check=at_least(1 << 16),
    )
    max_concurrent_rpcs: int = setting(
        "HMA_MAX_CONCURRENT_RPCS",
        2000,
        "most RPCs at once in one process; above it they are refused",
        check=at_least(1),
    )
    keepalive: Seconds = setting(
        "HMA_SERVER_KEEPALIVE",
        Seconds(60),
        "interval of the server's own HTTP/2 pings",
        check=at_least(1),
    )
    min_ping_interval: Seconds = setting(
        "HMA_SERVER_MIN_PING_INTERVAL",
        Seconds(5),
        "clients and proxies that ping more often are disconnected; below Envoy's interval",
        check=at_least(0),
    )
    max_connection_age: Seconds = setting(
        "HMA_MAX_CONNECTION_AGE",
        Seconds(1800),
        "after this, clients are asked to connect anew, so that load spreads",
        check=at_least(1),
    )
    max_connection_age_grace: Seconds = setting(
        "HMA_MAX_CONNECTION_AGE_GRACE",
        Seconds(7200),
        "how long streams of an aged connection may go on; above the longest job",
        check=at_least(1),
    )
    readiness_interval: Seconds = setting(
        "HMA_READINESS_INTERVAL",
        Seconds(1),
        "how often a service asks itself whether it is ready",
        check=at_least(0.01),
    )
    drain_delay: Seconds = setting(
        "HMA_DRAIN_DELAY",
        Seconds(4.5),
        "from NOT_SERVING to refusing new RPCs, so that load balancers notice",
        check=at_least(0),
    )
    drain_grace: Seconds = setting(
        "HMA_DRAIN_GRACE",
        Seconds(30),
        "how long running RPCs may go on after that",
        check=at_least(0),
    )
    reflection: bool = setting(
        "HMA_REFLECTION",
        True,
        "whether servers describe their RPCs to everybody (gRPC reflection)",
    )


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service to serve.

    Attributes:
        name: Full name, for example "hma.v1.WorkerService".
        register: Adds its servicer to a server.
        described: Whether reflection tells of it: its descriptors must be those of its name.
    """

    name: str
    register: Callable[[grpc.aio.Server], None]
    described: bool = True


async def serve(
    settings: ServerSettings,
    services: Sequence[Service],
    *,
    readiness: Readiness,
    registry: CollectorRegistry,
    membership: Membership | None = None,
    on_refused: OnRefused | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    pages: Mapping[str, Page] | None = None,
    on_drain: Callable[[], None] | None = None,
    hand_over: Callable[[float], Awaitable[None]] | None = None,
    on_serving: Callable[[int, int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Draining: health says NOT_SERVING, `drain_delay` passes, no new RPC is accepted,
    `on_drain` is called, and running RPCs have `drain_grace` to end. From the first
    moment on `hand_over` has the time of both to bring its work to an end or to give it
    to others; it is called again, with what is left of it, when no new RPC is accepted.
    A second signal ends it all at once.

    Args:
        settings: How to serve.
        services: What to serve, besides reflection and health.
        readiness: Polled; drives health for "" and every service.
        registry: Metrics of the process, served at /metrics, with /healthz and /readyz beside.
        membership: Who this process is, and what services that call it must prove; None: they
            need not prove anything, and connections are plain.
        on_refused: Told of calls between services that were refused.
        interceptors: What goes before every RPC; they may raise `HmaError`.
        pages: More pages of metrics, by path.
        on_drain: Told when no new RPC is accepted; ends streams that have no end.
        hand_over: Finishes or gives away the process's work within so many seconds.
        on_serving: Told the gRPC and the metrics port once both are bound.
        stop: Drains when set, as a signal does.

    Raises:
        CannotServe: A port is taken or cannot be bound.
    """
    stop = stop or asyncio.Event()
    hurry = asyncio.Event()
    over_http = HttpHealth(asyncio.get_running_loop())
    metrics = _bind_metrics(settings, {"/metrics": registry, **over_http.pages, **(pages or {})})
    with metrics:
        server, health, port = bind(
            settings, services, registry, interceptors, membership, on_refused
        )
        await server.start()
        _log.info("serving", extra={"port": port, "metrics_port": metrics.port})
        async with _signals(stop, hurry):
            prober = asyncio.create_task(
                probe(readiness, health, settings.readiness_interval, registry, over_http.say)
            )
            try:
                if on_serving is not None:
                    on_serving(port, metrics.port)
                await stop.wait()
            finally:
                prober.cancel()
                await asyncio.wait({prober})
                over_http.say(False, "draining")
                await _drain(server, health, settings, on_drain, hand_over, hurry)
    _log.info("stopped")


def bind(
    settings: ServerSettings,
    services: Sequence[Service],
    registry: CollectorRegistry,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    membership: Membership | None = None,
    on_refused: OnRefused | None = None,
) -> tuple[grpc.aio.Server, Health, int]:
    """A server with services, health and reflection, bound but not started.

    Raises:
        CannotServe: The port is taken or cannot be bound.
    """
    callers = [CallerInterceptor(membership, on_refused)] if membership is not None else []
    server = grpc.aio.server(
        interceptors=[RpcInterceptor(AccessMetrics(registry)), *callers, *interceptors],
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        options=_options(settings),
    )
    for service in services:
        service.register(server)
    names = [service.name for service in services]
    health = Health(names)
    health.register(server)
    if settings.reflection:
        described = [service.name for service in services if service.described]
        reflection.enable_server_reflection(
            [*described, Health.NAME, reflection.SERVICE_NAME], server
        )
    address = f"{settings.host}:{settings.port}"
    try:
        if membership is None or membership.tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, server_credentials(membership.tls))
    except RuntimeError:
        port = 0
    if not port:
        raise _cannot_bind(settings, "port")
    return server, health, port


async def _drain(
    server: grpc.aio.Server,
    health: Health,
    settings: ServerSettings,
    on_drain: Callable[[], None] | None,
    hand_over: Callable[[float], Awaitable[None]] | None,
    hurry: asyncio.Event,
) -> None:
    _log.info("draining", extra={"delay": settings.drain_delay, "grace": settings.drain_grace})
    await health.drain()
    time_left = settings.drain_delay + settings.drain_grace
    closed = asyncio.Event()
    handing = asyncio.ensure_future(_handed_over(hand_over, time_left, closed))
    try:
        async with asyncio.timeout(settings.drain_delay):
            await hurry.wait()
    except TimeoutError:
        pass
    stopping = asyncio.create_task(server.stop(settings.drain_grace))
    closed.set()
    health.end_watches()
    if on_drain is not None:
        on_drain()
    hurried = asyncio.create_task(hurry.wait())
    over: asyncio.Future[Any] = asyncio.gather(stopping, handing)
    await asyncio.wait({over, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    handing.cancel()
    if not stopping.done():
        await server.stop(0)
    await asyncio.gather(stopping, handing, over, return_exceptions=True)


async def _handed_over(
    hand_over: Callable[[float], Awaitable[None]] | None, time_left: float, closed: asyncio.Event
) -> None:
    """Hands over; a defect in that must not keep the process from ending in good order.

    Again once no new RPC is accepted: a process with nothing to hand over may have been
    given work by load balancers that had not noticed yet.
    """
    if hand_over is None:
        return
    loop = asyncio.get_running_loop()
    end = loop.time() + time_left
    try:
        await hand_over(time_left)
        await closed.wait()
        await hand_over(max(end - loop.time(), 0.0))
    except Exception as error:  # noqa: BLE001 - the last resort, logged
        _log.error("handing over failed", exc_info=error)


@asynccontextmanager
async def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> AsyncIterator[None]:
    """The first SIGTERM or SIGINT sets `stop`, the second `hurry`."""
    loop = asyncio.get_running_loop()

    def told(number: int) -> None:
        _log.info("signal", extra={"signal": signal.Signals(number).name})
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _bind_metrics(settings: ServerSettings, pages: Mapping[str, Page]) -> MetricsServer:
    try:
        return MetricsServer(settings.host, settings.metrics_port, pages)
    except OSError:
        raise _cannot_bind(settings, "metrics_port") from None


def _cannot_bind(settings: ServerSettings, name: str) -> CannotServe:
    field = next(f for f in dataclasses.fields(settings) if f.name == name)
    variable = field.metadata.get("variable", name)
    return CannotServe(
        f"cannot bind {settings.host}:{getattr(settings, name)}: the port is taken or the address "
        f"is not this machine's. End the other process, or set {variable} (or HMA_HOST)."
    )


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # Two processes on one port would share its connections without anyone noticing.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            int(settings.min_ping_interval * 1000),
        ),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace * 1000)),
    ]
