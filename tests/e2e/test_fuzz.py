"""Hostile inputs through the real Envoy: a few hundred of a fixed seed. `make fuzz` sends more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.fleet import HOST, Fleet, open_fleet
from tests.chaos.jobs import SCRIPT
from tests.fuzz.aftermath import faults
from tests.fuzz.grpc_surface import GrpcFuzz
from tests.fuzz.http_surface import HttpFuzz
from tests.fuzz.running import UNLIMITED

SEED = 11
MESSAGES, REQUESTS = 300, 200


@pytest.fixture
async def fleet(open_directory: Path) -> AsyncIterator[Fleet]:
    """All services, behind a gateway that limits no rate."""
    async with open_fleet(open_directory / "fuzz", SCRIPT, limits=UNLIMITED) as running:
        yield running


async def test_hostile_inputs_are_refused_and_nothing_breaks(fleet: Fleet) -> None:
    address = f"{HOST}:{fleet.port}"
    messages, requests = GrpcFuzz(address), HttpFuzz(address)
    await asyncio.to_thread(messages.run, MESSAGES, SEED)
    await asyncio.to_thread(requests.run, REQUESTS, SEED)

    assert messages.sent >= MESSAGES
    assert requests.sent >= REQUESTS
    # They reach what lies behind the validation, too.
    assert messages.summary()["OK"] > MESSAGES // 50
    assert requests.summary()["200"] > REQUESTS // 50
    assert await faults(fleet, messages.ids) == []
