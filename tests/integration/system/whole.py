"""The whole of HMA in one process: real services, real PostgreSQL, a scripted model server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

import hma
from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.settings import LlmSettings
from hma.rpc.channel import open_channel
from hma.rpc.documents import DocumentReader
from hma.rpc.interceptor import AccessMetrics, RpcInterceptor
from hma.rpc.reporter import Reporter
from hma.rpc.slots import Slots
from hma.settings import Secret
from hma.v1 import analyst_pb2_grpc, reducer_pb2_grpc, worker_pb2_grpc
from services.analyst.servicer import AnalystServicer
from services.meta_agent.__main__ import rules_of, services_of
from services.meta_agent.driving.capacity import Capacity
from services.meta_agent.driving.driver import Surroundings
from services.meta_agent.driving.drivers import Drivers
from services.meta_agent.driving.history_watch import HistoryWatch
from services.meta_agent.driving.progress import ProgressBoard
from services.meta_agent.driving.route_watch import RouteWatch
from services.meta_agent.driving.streams import Services
from services.meta_agent.edge.status import Peer, StatusBoard
from services.meta_agent.edge.watch import Watches
from services.meta_agent.settings import MetaAgentSettings
from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.store import Store, open_store
from services.reducer.servicer import ReducerServicer
from services.worker.metrics import WorkerMetrics
from services.worker.reading import Library
from services.worker.servicer import WorkerServicer
from tests.scripted_llm import ScriptedLLM


@dataclass
class Whole:
    """The running system."""

    llm: ScriptedLLM
    client: hma.AsyncClient
    store: Store
    address: str


@asynccontextmanager
async def open_whole(
    url: str,
    script: Sequence[Any] | Callable[[Any], Any] = (),
    *,
    profile: str = "standard",
    places: int = 20,
    **llm_options: Any,
) -> AsyncIterator[Whole]:
    """Everything, until the context is left."""
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(ScriptedLLM(script, **llm_options))
        routes = llm.routes(profile=profile)
        settings = MetaAgentSettings(
            database_url=Secret(url), llm=LlmSettings(base_url=llm.base_url, profile=profile)
        )
        rules = rules_of(settings, routes)
        replica = new_replica_id("whole")
        store = await stack.enter_async_context(
            open_store(url, replica_id=replica, address="127.0.0.1:1")
        )
        model = await stack.enter_async_context(OpenAICompatible(settings.llm))
        interceptor = RpcInterceptor(AccessMetrics(CollectorRegistry()))
        server = grpc.aio.server(interceptors=[interceptor])
        port = server.add_insecure_port("127.0.0.1:0")
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{port}"))
        reporter = await stack.enter_async_context(Reporter(channel))
        slots = [await stack.enter_async_context(Slots(places, grace=2)) for _ in range(3)]
        board = ProgressBoard()
        watches = Watches(store.log, store.jobs, store.notifications, board)
        watch = RouteWatch(model, routes, while_down=0.05)
        peers = [
            Peer(name=n, service=n, method=m, address="", channel=channel)
            for n, m in (("analyst", "Plan"), ("worker", "Execute"), ("reducer", "Reduce"))
        ]
        status = StatusBoard(store, peers, routes, model, ready_tasks=lambda: drivers.ready_tasks)
        for service in services_of(settings, store, watches, status, rules):
            service.register(server)
        analyst = AnalystServicer(model, routes, slots[0], reporter)
        library = Library(DocumentReader(channel, 0), 1 << 20)
        metrics = WorkerMetrics(CollectorRegistry(), lambda: slots[1].running)
        worker = WorkerServicer(model, routes, library, slots[1], reporter, metrics)
        reader = DocumentReader(channel, 1 << 20)
        reducer = ReducerServicer(model, routes, reader, slots[2], reporter)
        analyst_pb2_grpc.add_AnalystServiceServicer_to_server(analyst, server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
        reducer_pb2_grpc.add_ReducerServiceServicer_to_server(reducer, server)
        await server.start()
        stack.push_async_callback(server.stop, 0)
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
                capacity=Capacity(64),
                board=board,
                history=HistoryWatch(store.fleet),
                held=store.beat.held,
            ),
            max_jobs=50,
        )
        tasks = [asyncio.create_task(drivers.run()), asyncio.create_task(watch.run())]
        stack.push_async_callback(partial(_end, tasks))
        address = f"127.0.0.1:{port}"
        client = await stack.enter_async_context(hma.AsyncClient(address))
        yield Whole(llm, client, store, address)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
