"""One run: a fleet of its own, inputs by gRPC and by HTTP, and what became of it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from hma.gateway.limits import GatewayLimits
from tests.chaos.fleet import HOST, open_fleet
from tests.chaos.jobs import SCRIPT
from tests.fuzz.aftermath import faults
from tests.fuzz.grpc_surface import GrpcFuzz
from tests.fuzz.http_surface import HttpFuzz

UNLIMITED = GatewayLimits(address_rate=0, read_rate=0, mutation_rate=0, stream_rate=0)


async def run(inputs: int, seed: int) -> int:
    """Sends the inputs to a fleet of its own; the number of faults, which are printed."""
    print(f"seed {seed}: {inputs} inputs, half by gRPC, half by HTTP", flush=True)
    with tempfile.TemporaryDirectory(prefix="hma-fuzz-") as directory:
        # PostgreSQL is another user when this one is root.
        os.chmod(directory, 0o755)
        async with open_fleet(Path(directory) / "fleet", SCRIPT, limits=UNLIMITED) as fleet:
            address = f"{HOST}:{fleet.port}"
            found: list[str] = []
            messages, requests = GrpcFuzz(address), HttpFuzz(address)
            for surface in (messages, requests):
                begin = time.monotonic()
                try:
                    await asyncio.to_thread(surface.run, inputs // 2, seed)
                except AssertionError as error:
                    found.append(str(error))
                name = type(surface).__name__
                print(f"{name}: {surface.sent} in {time.monotonic() - begin:.0f} s", flush=True)
                for code, count in sorted(surface.summary().items()):
                    print(f"  {code:<22} {count:>6}")
            found += await faults(fleet, messages.ids)
    for fault in found:
        print(f"FAULT {fault}", file=sys.stderr)
    print(f"{len(found)} faults")
    return len(found)
