"""One run: ten jobs, a plan of faults, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import grpc

import hma
from hma.v1 import meta_agent_pb2_grpc
from tests.chaos.evidence import Verdict, judge
from tests.chaos.fleet import HOST, Fleet
from tests.chaos.jobs import PATIENCE, Order, Taken, command, place, watch
from tests.chaos.leaks import find_leaks
from tests.chaos.trouble import Trouble
from tests.scripted_llm.journal import read_journal

GRACE = 15.0
"""Seconds past the deadline for which the end of a job is awaited."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        faults: What is wrong; nothing when all is well.
        verdicts: On each job.
        seconds: How long it took.
    """

    faults: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def summary(self) -> str:
        """One line of figures."""
        states = sorted({v.state.removeprefix("JOB_STATE_") for v in self.verdicts})
        counts = {s: sum(v.state.endswith(s) for v in self.verdicts) for s in states}
        exact = sum(v.exact for v in self.verdicts)
        known, unknown, counted = (
            sum(getattr(v, name) for v in self.verdicts) for name in ("known", "unknown", "counted")
        )
        return (
            f"{self.seconds:.0f} s, {counts}, known {known}, counted {counted}, "
            f"unknown {unknown}, exact {exact} of {len(self.verdicts)}, "
            f"lost {dict(Counter(why for v in self.verdicts for why in v.lost))}"
        )


async def run(
    fleet: Fleet,
    seed: int,
    orders: Sequence[Order],
    trouble: Callable[[Trouble], Coroutine[Any, Any, None]],
    *,
    spread: float = 4.0,
    stubborn: bool = True,
) -> Outcome:
    """Brings the jobs in while the faults happen, waits for their ends, judges.

    Args:
        fleet: Ready; it is ready again afterwards.
        seed: Decides when each job comes.
        orders: The jobs.
        trouble: What goes wrong; everything is ready again when it returns.
        spread: Seconds in which the jobs come.
        stubborn: Whether clients try on where the client library gives up.
    """
    begun = time.monotonic()
    chance = random.Random(f"moments {seed}")
    moments = [chance.uniform(0.0, spread) for _ in orders]
    maker = Trouble(fleet)
    guard = asyncio.create_task(maker.guard())
    patience = PATIENCE if stubborn else 0.0
    outcome = Outcome()
    try:
        async with contextlib.AsyncExitStack() as stack:
            address = f"{HOST}:{fleet.port}"
            client = await stack.enter_async_context(hma.AsyncClient(address))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
            making = asyncio.create_task(trouble(maker))
            taken = await asyncio.gather(
                *(
                    place(client, order, at, patience)
                    for order, at in zip(orders, moments, strict=True)
                )
            )
            steering = [asyncio.create_task(command(stub, each, PATIENCE)) for each in taken]
            watching = [asyncio.create_task(watch(client, each, patience)) for each in taken]
            await making
            limit = max(float(order.options["deadline"]) for order in orders) + GRACE
            _, late = await asyncio.wait([*steering, *watching], timeout=limit)
            for task in late:
                task.cancel()
            ended = await asyncio.gather(*steering, *watching, return_exceptions=True)
            outcome.faults += [repr(e) for e in ended if isinstance(e, BaseException)]
        await _judge(fleet, taken, outcome)
    finally:
        guard.cancel()
        await asyncio.gather(guard, return_exceptions=True)
    outcome.faults += maker.complaints
    outcome.seconds = time.monotonic() - begun
    return outcome


async def _judge(fleet: Fleet, taken: Sequence[Taken], outcome: Outcome) -> None:
    connection = await asyncpg.connect(fleet.database_url, timeout=30)
    try:
        outcome.faults += await find_leaks(fleet, connection)
        counted = read_journal(fleet.journal)
        for each in taken:
            verdict = await judge(connection, each, counted, fleet.logs)
            outcome.verdicts.append(verdict)
            outcome.faults += [
                f"{each.order.name} {each.job_id}: {fault}" for fault in verdict.faults
            ]
    finally:
        await connection.close(timeout=30)
    known, unknown, total, budget = (
        sum(getattr(v, name) for v in outcome.verdicts)
        for name in ("known", "unknown", "counted", "budget")
    )
    if not total <= known + unknown <= budget:
        outcome.faults.append(f"fleet: {known} known, {unknown} unknown, {total} counted")
