"""Runs a Worker: `python -m services.worker`."""

from __future__ import annotations

import os
from functools import partial

from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.routes import load_routes
from hma.rpc.callers import META_AGENT, WORKER
from hma.rpc.channel import open_channel
from hma.rpc.documents import DocumentReader
from hma.rpc.membership import Membership
from hma.rpc.reporter import Reporter
from hma.rpc.route_windows import RouteWindows
from hma.rpc.server import Service, serve
from hma.rpc.service import run_service
from hma.rpc.slots import Slots
from hma.telemetry import logs
from hma.telemetry.metrics import new_registry
from hma.v1 import worker_pb2, worker_pb2_grpc
from services.worker.metrics import WorkerMetrics
from services.worker.reading import Library
from services.worker.servicer import WorkerServicer
from services.worker.settings import WorkerSettings

_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


async def main(settings: WorkerSettings) -> None:
    """Serves until told to stop."""
    routes = load_routes(settings.llm, os.environ)
    membership = Membership.of(WORKER, settings.access, settings.tls, settings.server.host)
    logs.hide(route.api_key for route in routes.values())
    registry = new_registry()
    async with (
        open_channel(
            settings.meta_agent_address, settings.channel, membership, server=META_AGENT
        ) as channel,
        OpenAICompatible(settings.llm) as llm,
        Reporter(channel, registry=registry) as reporter,
        Slots(settings.max_concurrent, registry=registry) as slots,
    ):
        # Half for contents, half for what was made of them: tasks that read different
        # sections of a document have their own indexes, but it is fetched once.
        share = settings.document_cache // 2
        reader = DocumentReader(channel, share, idle=settings.idle_state)
        library = Library(reader, share, settings.idle_state)
        metrics = WorkerMetrics(registry, lambda: slots.running)
        servicer = WorkerServicer(
            llm, routes, library, slots, reporter, metrics, windows=RouteWindows(channel)
        )
        register = partial(worker_pb2_grpc.add_WorkerServiceServicer_to_server, servicer)
        await serve(
            settings.server,
            [Service(_SERVICE, register)],
            readiness=servicer.readiness,
            registry=registry,
            membership=membership,
            hand_over=slots.hand_over,
        )


if __name__ == "__main__":
    run_service("worker", WorkerSettings, main)
