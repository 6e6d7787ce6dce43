"""Runs the Reducer: `python -m services.reducer`."""

from __future__ import annotations

import os
from functools import partial

from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.routes import load_routes
from hma.rpc.callers import META_AGENT, REDUCER
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
from hma.v1 import reducer_pb2, reducer_pb2_grpc
from services.reducer.servicer import ReducerServicer
from services.reducer.settings import ReducerSettings

_SERVICE = reducer_pb2.DESCRIPTOR.services_by_name["ReducerService"].full_name


async def main(settings: ReducerSettings) -> None:
    """Serves until told to stop."""
    routes = load_routes(settings.llm, os.environ)
    membership = Membership.of(REDUCER, settings.access, settings.tls, settings.server.host)
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
        reader = DocumentReader(channel, settings.document_cache, idle=settings.idle_state)
        servicer = ReducerServicer(
            llm, routes, reader, slots, reporter, windows=RouteWindows(channel)
        )
        register = partial(reducer_pb2_grpc.add_ReducerServiceServicer_to_server, servicer)
        await serve(
            settings.server,
            [Service(_SERVICE, register)],
            readiness=servicer.readiness,
            registry=registry,
            membership=membership,
            hand_over=slots.hand_over,
        )


if __name__ == "__main__":
    run_service("reducer", ReducerSettings, main)
