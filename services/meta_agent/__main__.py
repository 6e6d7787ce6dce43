"""Runs a MetaAgent: `python -m services.meta_agent`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from hma.errors import Unavailable
from hma.llm.routes import Routes, load_routes
from hma.llm.servers import ModelServers
from hma.rpc.callers import META_AGENT
from hma.rpc.channel import open_channel
from hma.rpc.membership import Membership
from hma.rpc.server import Service, serve
from hma.rpc.service import run_service
from hma.telemetry import logs
from hma.telemetry.metrics import new_registry
from hma.v1 import admin_pb2, admin_pb2_grpc, meta_agent_pb2, meta_agent_pb2_grpc
from services.meta_agent.access.admin_servicer import AdminServicer
from services.meta_agent.access.audit_trail import AuditTrail
from services.meta_agent.access.auditing import audited
from services.meta_agent.access.opening import open_access
from services.meta_agent.deciding.rules import Rules
from services.meta_agent.driving.breaker import BreakerRules
from services.meta_agent.driving.capacity import Capacity
from services.meta_agent.driving.driver import Surroundings
from services.meta_agent.driving.drivers import Drivers
from services.meta_agent.driving.history_watch import HistoryWatch
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.driving.route_gates import GateRules
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.driving.streams import Services
from services.meta_agent.edge.admission import Admission
from services.meta_agent.edge.auditing import AuditReading
from services.meta_agent.edge.door import Door
from services.meta_agent.edge.internal_servicer import InternalServicer
from services.meta_agent.edge.quota import QuotaSetting
from services.meta_agent.edge.reader import JobReader
from services.meta_agent.edge.relay import Relays
from services.meta_agent.edge.servicer import MetaAgentServicer
from services.meta_agent.edge.status import Peer, StatusBoard
from services.meta_agent.edge.validation import Validator
from services.meta_agent.edge.watch import Watches
from services.meta_agent.recording.benchmark_log import BenchmarkLog
from services.meta_agent.recording.fleet_metrics import FleetCounters, FleetPage
from services.meta_agent.recording.recorder import Recorder
from services.meta_agent.settings import MetaAgentSettings
from services.meta_agent.starting import open_on_database
from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.quota_limits import PRESETS
from services.meta_agent.store.quota_lock import QuotaRules
from services.meta_agent.store.store import Store, StoreOptions, open_store
from services.meta_agent.upkeep.audit_expiry import AuditExpiry
from services.meta_agent.upkeep.expiry import Expiry
from services.meta_agent.upkeep.idle import IdleState
from services.meta_agent.upkeep.quota import QuotaUpkeep

_SAMPLE_INTERVAL = 1.0


async def main(settings: MetaAgentSettings) -> None:
    """Serves until told to stop."""
    settings.check()
    membership = Membership.of(META_AGENT, settings.access, settings.tls, settings.server.host)
    routes = load_routes(settings.llm, os.environ)
    logs.hide(route.api_key for route in routes.values())
    url = settings.database_url.reveal()
    replica_id = new_replica_id(settings.replica_name or socket.gethostname())
    driven: list[Drivers] = []  # the drivers need the store that reports to them

    def lease_lost() -> None:
        for each in driven:
            each.lease_lost()

    async with contextlib.AsyncExitStack() as stack:
        open_ = partial(
            open_store,
            url,
            replica_id=replica_id,
            address=settings.advertised_address(),
            on_lost=lease_lost,
            options=StoreOptions(
                pool_size=settings.database_connections,
                quota=QuotaRules(
                    default=PRESETS[settings.default_quota],
                    tranche=settings.quota_tranche,
                    ageing=settings.priority_ageing,
                ),
            ),
        )
        store = await open_on_database(url, settings.database_wait, open_, stack)
        peers = [
            await stack.enter_async_context(_peer(settings, membership, name, method, address))
            for name, method, address in (
                ("analyst", "Plan", settings.analyst_address),
                ("worker", "Execute", settings.worker_address),
                ("reducer", "Reduce", settings.reducer_address),
            )
        ]
        llm = await stack.enter_async_context(ModelServers(settings.llm))
        benchmark = await stack.enter_async_context(BenchmarkLog(settings.benchmark_path()))
        counters = FleetCounters()
        page = await stack.enter_async_context(FleetPage(counters, store.fleet, store.jobs))
        rules = rules_of(settings, routes)
        board = ProgressBoard()
        route_watch = RouteWatch(llm, routes, gate_rules_of(settings, replica_id))
        history = HistoryWatch(store.fleet)
        around = Surroundings(
            log=store.log,
            notifications=store.notifications,
            clock=store.clock,
            services=Services(**{peer.name: peer.channel for peer in peers}),
            rules=rules,
            routes=route_watch,
            capacity=Capacity(settings.max_tasks_in_flight),
            board=board,
            history=history,
            held=store.beat.held,
            draws=store.quotas.draws,
            observers=(Recorder(counters, benchmark, rules).observe,),
        )
        drivers = Drivers(
            store.claims,
            store.notifications,
            replica_id,
            around,
            max_jobs=settings.max_jobs,
            max_failed_claims=settings.max_failed_claims,
        )
        driven.append(drivers)
        registry = new_registry()
        trail = AuditTrail(store.audit, registry)
        access = await stack.enter_async_context(
            open_access(settings.access, store, trail, tenant=settings.tenant)
        )
        relays = await stack.enter_async_context(
            Relays(
                replica_id,
                store.replicas.driver_of,
                store.notifications,
                board,
                partial(
                    open_channel,
                    settings=settings.channels,
                    membership=membership,
                    server=META_AGENT,
                ),
            )
        )
        watches = Watches(
            store.log,
            store.jobs,
            store.notifications,
            board,
            relays,
            most=settings.limits.max_watches,
            stall=settings.limits.watch_stall,
        )
        reader = JobReader(store.log)
        store.notifications.on_deleted(reader.forget)
        expiry = Expiry(store.retention, age=settings.retention, batch=settings.retention_batch)
        idle = IdleState(
            {"jobs_read": reader.forget_idle, "jobs_heard_of": store.notifications.forget_idle},
            idle=settings.idle_state,
        )
        status = StatusBoard(
            store,
            peers,
            routes,
            llm,
            ready_tasks=lambda: drivers.ready_tasks,
            route_states=lambda: route_watch.learned,
        )
        stop = asyncio.Event()
        work = [
            drivers.run(),
            route_watch.run(),
            history.run(),
            expiry.run(),
            trail.run(),
            AuditExpiry(store.audit, age=settings.audit_retention).run(),
            idle.run(),
            QuotaUpkeep(store.quotas).run(),
            _sample(drivers, watches, relays, registry),
            *(run() for run in access.work),
        ]
        services = services_of(
            settings, store, watches, status, rules, reader=reader, board=board, trail=trail
        )
        async with _in_background(work, stop):
            await serve(
                settings.server,
                [*services, *access.services],
                membership=membership,
                on_refused=trail.stranger,
                interceptors=[access.interceptor],
                readiness=partial(_readiness, store),
                registry=registry,
                pages={"/fleet": page},
                on_drain=watches.drain,
                hand_over=drivers.hand_over,
                stop=stop,
            )


def services_of(
    settings: MetaAgentSettings,
    store: Store,
    watches: Watches,
    status: StatusBoard,
    rules: Rules,
    *,
    reader: JobReader,
    board: ProgressBoard,
    trail: AuditTrail,
) -> list[Service]:
    """The gRPC services of a MetaAgent over an open store."""
    public = MetaAgentServicer(
        store,
        watches,
        status,
        validator=Validator(settings.limits, tuple(rules.routes)),
        admission=Admission(
            routes=rules.routes,
            default_deadline=settings.limits.default_deadline,
            max_attempts=settings.max_attempts,
            layer_timeout=settings.layer_timeout,
            min_gain=settings.min_gain,
            max_budget_tokens=settings.limits.max_budget_tokens,
        ),
        rules=rules,
        reader=reader,
        door=Door(
            store.jobs,
            max_queued=settings.limits.max_queued_jobs,
            max_bytes=settings.limits.max_inflight_bytes,
        ),
        tenant=settings.tenant,
        public_url=settings.public_url,
    )
    internal = InternalServicer(store, rules, board)
    admin = AdminServicer(
        store.keys, store.clock, quotas=QuotaSetting(store), audit=AuditReading(store.audit)
    )
    jobs_of = meta_agent_pb2.DESCRIPTOR.services_by_name["MetaAgentService"]
    keys_of = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
    grpc = meta_agent_pb2_grpc
    return [
        Service(
            "hma.v1.MetaAgentService",
            partial(
                grpc.add_MetaAgentServiceServicer_to_server,
                audited(public, jobs_of, trail, tenant=settings.tenant),
            ),
        ),
        Service(
            "hma.v1.InternalService", partial(grpc.add_InternalServiceServicer_to_server, internal)
        ),
        Service(
            "hma.v1.AdminService",
            partial(
                admin_pb2_grpc.add_AdminServiceServicer_to_server,
                audited(admin, keys_of, trail, tenant=settings.tenant),
            ),
        ),
    ]


def rules_of(settings: MetaAgentSettings, routes: Routes) -> Rules:
    """What the settings say about deciding."""
    return Rules(
        routes=routes,
        max_attempts=settings.max_attempts,
        task_timeout=settings.task_timeout,
        analyst_share=settings.analyst_share,
        straggler_factor=settings.straggler_factor,
        min_gain_per_1000_tokens=settings.min_gain,
        max_plan_tasks=settings.limits.max_plan_tasks,
    )


def gate_rules_of(settings: MetaAgentSettings, replica: str) -> GateRules:
    """What the settings say about closing and narrowing routes."""
    return GateRules(
        breaker=BreakerRules(
            failures=settings.breaker_failures,
            window=settings.breaker_window,
            first=settings.breaker_open,
            longest=max(settings.breaker_open_max, settings.breaker_open),
        ),
        most=settings.max_tasks_in_flight,
        max_waiting=settings.max_waiting_requests,
        replica=replica,
    )


@contextlib.asynccontextmanager
async def _peer(
    settings: MetaAgentSettings, membership: Membership, name: str, method: str, address: str
) -> AsyncIterator[Peer]:
    async with open_channel(address, settings.channels, membership) as channel:
        yield Peer(
            name=name,
            service=f"hma.v1.{name.capitalize()}Service",
            method=method,
            address=address,
            channel=channel,
        )


async def _readiness(store: Store) -> tuple[bool, str]:
    try:
        await store.clock.synchronise(store.database)
    except Unavailable as error:
        return False, error.message
    return True, ""


async def _sample(
    drivers: Drivers, watches: Watches, relays: Relays, registry: CollectorRegistry
) -> None:
    """Keeps gauges up to date: they are read from another thread, drivers must not be."""
    ready = Gauge("hma_ready_tasks", "Tasks that could run but wait for a place", registry=registry)
    driving = Gauge("hma_jobs_driven", "Jobs that this replica drives", registry=registry)
    watchers = Gauge("hma_watchers", "Clients that watch jobs here", registry=registry)
    relayed = Gauge(
        "hma_relays", "Jobs driven elsewhere whose progress is fetched for them", registry=registry
    )
    while True:
        ready.set(drivers.ready_tasks)
        driving.set(drivers.driving)
        watchers.set(len(watches))
        relayed.set(len(relays))
        await asyncio.sleep(_SAMPLE_INTERVAL)


@contextlib.asynccontextmanager
async def _in_background(
    work: list[Coroutine[Any, Any, None]], stop: asyncio.Event
) -> AsyncIterator[None]:
    """Runs `work` beside the body; if some of it ends by itself, the process stops."""
    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


if __name__ == "__main__":
    run_service("meta_agent", MetaAgentSettings, main)
