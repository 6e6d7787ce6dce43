"""The whole of HMA in one process: real services, real PostgreSQL, a scripted model server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

import hma
from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.settings import LlmSettings
from hma.rpc.attempt_server import AttemptTiming
from hma.rpc.channel import open_channel
from hma.rpc.documents import DocumentReader
from hma.rpc.interceptor import AccessMetrics, RpcInterceptor
from hma.rpc.reporter import Reporter
from hma.rpc.slots import Slots
from hma.settings import Secret
from hma.v1 import (
    analyst_pb2_grpc,
    job_pb2,
    meta_agent_pb2_grpc,
    reducer_pb2_grpc,
    worker_pb2_grpc,
)
from services.analyst.servicer import AnalystServicer
from services.meta_agent.__main__ import gate_rules_of, rules_of, services_of
from services.meta_agent.access.audit_trail import AuditTrail
from services.meta_agent.driving.capacity import Capacity
from services.meta_agent.driving.driver import Surroundings
from services.meta_agent.driving.drivers import Drivers
from services.meta_agent.driving.history_watch import HistoryWatch
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.driving.streams import Services
from services.meta_agent.edge.reader import JobReader
from services.meta_agent.edge.relay import Relays
from services.meta_agent.edge.status import Peer, StatusBoard
from services.meta_agent.edge.watch import Watches
from services.meta_agent.job.state import JobFold
from services.meta_agent.recording.benchmark_log import BenchmarkLog
from services.meta_agent.recording.fleet_metrics import FleetCounters, FleetPage
from services.meta_agent.recording.recorder import Recorder
from services.meta_agent.settings import MetaAgentSettings
from services.meta_agent.store.beat import BeatTimes
from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.store import Store, StoreOptions, open_store
from services.reducer.servicer import ReducerServicer
from services.worker.metrics import WorkerMetrics
from services.worker.reading import Library
from services.worker.servicer import WorkerServicer
from tests.scripted_llm import ScriptedLLM

Observer = Callable[[job_pb2.JobEvent, JobFold, JobFold], None]

# Everything runs in one process and one loop here: that it stood still for seconds, because
# the machine is busy, is no loss of a replica or of a driver.
_STEADY = StoreOptions(lease=120, beat=BeatTimes(lost_after=60, loop_stuck_after=60))
_PATIENT = AttemptTiming(heartbeat=60, ack=60)


@dataclass
class Whole:
    """The running system.

    Attributes:
        llm: The model server.
        client: A client of the MetaAgent.
        stub: The same service, for requests that the client makes no two of.
        store: The database.
        history: What later jobs are estimated from.
    """

    llm: ScriptedLLM
    client: hma.AsyncClient
    stub: meta_agent_pb2_grpc.MetaAgentServiceAsyncStub
    store: Store
    address: str
    history: HistoryWatch
    _page: FleetPage

    async def events(self, job_id: str) -> list[job_pb2.JobEvent]:
        """The whole log of a job."""
        return await self.store.log.read(job_id, 0, 100_000)

    async def learn(self) -> None:
        """Takes what was measured to the database, and has it read back, now."""
        await self._page.flush()
        await self.history.look()


@asynccontextmanager
async def open_whole(
    url: str,
    script: Sequence[Any] | Callable[[Any], Any] = (),
    *,
    profile: str = "standard",
    places: int = 20,
    in_flight: int = 64,
    max_waiting: int = 0,
    llm_settings: Mapping[str, Any] | None = None,
    rule_changes: Mapping[str, Any] | None = None,
    observers: Sequence[Observer] = (),
    **llm_options: Any,
) -> AsyncIterator[Whole]:
    """Everything, until the context is left.

    Args:
        url: An empty database.
        script: What the model server says.
        profile: What its model can do.
        places: Attempts that each service takes at once.
        in_flight: Worker attempts that the MetaAgent has open at once.
        max_waiting: Requests in the model server's queue that slow work down; 0: not looked at.
        llm_settings: Fields of `LlmSettings` that differ.
        rule_changes: Fields of `Rules` that differ.
        observers: Told of every event, after the recorder.
        llm_options: Of the model server.
    """
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(ScriptedLLM(script, **llm_options))
        differing = {"profile": profile, **(llm_settings or {})}
        routes = llm.routes(**differing)
        settings = MetaAgentSettings(
            database_url=Secret(url),
            llm=LlmSettings(base_url=llm.base_url, **differing),
            max_tasks_in_flight=in_flight,
            max_waiting_requests=max_waiting,
        )
        rules = replace(rules_of(settings, routes), **(rule_changes or {}))
        replica = new_replica_id("whole")
        interceptor = RpcInterceptor(AccessMetrics(CollectorRegistry()))
        server = grpc.aio.server(interceptors=[interceptor])
        port = server.add_insecure_port("127.0.0.1:0")
        store = await stack.enter_async_context(
            open_store(url, replica_id=replica, address=f"127.0.0.1:{port}", options=_STEADY)
        )
        model = await stack.enter_async_context(OpenAICompatible(settings.llm))
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{port}"))
        reporter = await stack.enter_async_context(Reporter(channel))
        slots = [await stack.enter_async_context(Slots(places, grace=2)) for _ in range(3)]
        board = ProgressBoard()
        relays = await stack.enter_async_context(
            Relays(store.replica_id, store.replicas.driver_of, store.notifications, board)
        )
        watches = Watches(store.log, store.jobs, store.notifications, board, relays)
        job_reader = JobReader(store.log)
        watch = RouteWatch(model, routes, gate_rules_of(settings, replica), while_down=0.05)
        peers = [
            Peer(name=n, service=n, method=m, address="", channel=channel)
            for n, m in (("analyst", "Plan"), ("worker", "Execute"), ("reducer", "Reduce"))
        ]
        status = StatusBoard(
            store,
            peers,
            routes,
            model,
            ready_tasks=lambda: drivers.ready_tasks,
            route_states=lambda: watch.learned,
        )
        for service in services_of(
            settings,
            store,
            watches,
            status,
            rules,
            reader=job_reader,
            board=board,
            trail=AuditTrail(store.audit, CollectorRegistry()),
        ):
            service.register(server)
        analyst = AnalystServicer(model, routes, slots[0], reporter, timing=_PATIENT)
        library = Library(DocumentReader(channel, 0), 1 << 20)
        metrics = WorkerMetrics(CollectorRegistry(), lambda: slots[1].running)
        worker = WorkerServicer(
            model, routes, library, slots[1], reporter, metrics, timing=_PATIENT
        )
        reader = DocumentReader(channel, 1 << 20)
        reducer = ReducerServicer(model, routes, reader, slots[2], reporter, timing=_PATIENT)
        analyst_pb2_grpc.add_AnalystServiceServicer_to_server(analyst, server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
        reducer_pb2_grpc.add_ReducerServiceServicer_to_server(reducer, server)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        counters, history = FleetCounters(), HistoryWatch(store.fleet)
        recorder = Recorder(counters, BenchmarkLog(None), rules)
        drivers = Drivers(
            store.claims,
            store.notifications,
            replica,
            Surroundings(
                log=store.log,
                notifications=store.notifications,
                clock=store.clock,
                services=Services(channel, channel, channel),
                rules=rules,
                routes=watch,
                capacity=Capacity(in_flight),
                board=board,
                history=history,
                held=store.beat.held,
                draws=store.quotas.draws,
                observers=(recorder.observe, *observers),
            ),
            max_jobs=50,
        )
        tasks = [asyncio.create_task(drivers.run()), asyncio.create_task(watch.run())]
        stack.push_async_callback(partial(_end, tasks))
        address = f"127.0.0.1:{port}"
        client = await stack.enter_async_context(hma.AsyncClient(address))
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        page = FleetPage(counters, store.fleet, store.jobs)
        yield Whole(llm, client, stub, store, address, history, page)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
