"""Runs the Analyst: `python -m services.analyst`."""

from __future__ import annotations

import os
from functools import partial

from hma.llm.openai_compatible import OpenAICompatible
from hma.llm.routes import load_routes
from hma.rpc.callers import ANALYST, META_AGENT
from hma.rpc.channel import open_channel
from hma.rpc.membership import Membership
from hma.rpc.reporter import Reporter
from hma.rpc.route_windows import RouteWindows
from hma.rpc.server import Service, serve
from hma.rpc.service import run_service
from hma.rpc.slots import Slots
from hma.telemetry import logs
from hma.telemetry.metrics import new_registry
from hma.v1 import analyst_pb2, analyst_pb2_grpc
from services.analyst.servicer import AnalystServicer
from services.analyst.settings import AnalystSettings

_SERVICE = analyst_pb2.DESCRIPTOR.services_by_name["AnalystService"].full_name


async def main(settings: AnalystSettings) -> None:
    """Serves until told to stop."""
    routes = load_routes(settings.llm, os.environ)
    membership = Membership.of(ANALYST, settings.access, settings.tls, settings.server.host)
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
        servicer = AnalystServicer(llm, routes, slots, reporter, windows=RouteWindows(channel))
        register = partial(analyst_pb2_grpc.add_AnalystServiceServicer_to_server, servicer)
        await serve(
            settings.server,
            [Service(_SERVICE, register)],
            readiness=servicer.readiness,
            registry=registry,
            membership=membership,
            hand_over=slots.hand_over,
        )


if __name__ == "__main__":
    run_service("analyst", AnalystSettings, main)
