"""One replica is lost while a job's task runs; the other one finds everything, pays nothing twice.

The moments are not left to chance here: the fault comes while a Worker writes.
"""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

import hma
from hma.v1 import job_pb2
from services.meta_agent.store.claims import LEASE
from tests.chaos.evidence import judge, read_log
from tests.chaos.fleet import HOST, Fleet, Part, open_fleet
from tests.chaos.jobs import SCRIPT, Order, Taken, chain
from tests.scripted_llm.journal import read_journal

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

LENGTH = 4
BUSY = 30.0
"""Seconds that a busy machine may add to what takes a moment."""


@pytest.fixture
async def fleet(open_directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """A fleet whose model needs some two seconds for a task."""
    directory = open_directory / f"takeover-{request.node.name}"
    async with open_fleet(directory, SCRIPT, token_delay=0.04) as running:
        yield running


@pytest.fixture
async def database(fleet: Fleet) -> AsyncIterator[asyncpg.Connection]:
    """The fleet's database."""
    connection = await asyncpg.connect(fleet.database_url, timeout=30)
    yield connection
    await connection.close(timeout=30)


async def _submit(fleet: Fleet) -> Taken:
    options: dict[str, Any] = {"plan": chain(LENGTH), "deadline": 300.0, "budget": 20_000}
    order = Order("chain", "Do one after the other.", options)
    async with hma.AsyncClient(f"{HOST}:{fleet.port}") as client:
        return Taken(order, await client.submit(order.task, **options))


async def _writing(fleet: Fleet, database: asyncpg.Connection, job_id: str) -> Part:
    """The replica that drives a job, once a Worker's model is in the middle of an answer."""
    async with asyncio.timeout(30), hma.AsyncClient(f"{HOST}:{fleet.port}") as client:
        async for update in client.watch(job_id):
            if any(attempt.text for attempt in update.progress.attempts):
                break
    return _driver(fleet, await read_log(database, job_id))


async def _until(
    database: asyncpg.Connection, job_id: str, what: str, count: int = 1, timeout: float = 120
) -> list[job_pb2.JobEvent]:
    """The log once it has so many events of a kind."""
    async with asyncio.timeout(timeout):
        while True:
            events = await read_log(database, job_id)
            if sum(event.HasField(what) for event in events) >= count:  # type: ignore[arg-type]
                return events
            await asyncio.sleep(0.05)


def _driver(fleet: Fleet, events: Sequence[job_pb2.JobEvent]) -> Part:
    replica = next(e.job_claimed.replica for e in events if e.HasField("job_claimed"))
    return next(part for name, part in fleet.parts.items() if replica.startswith(name))


def _claims(events: Sequence[job_pb2.JobEvent]) -> list[job_pb2.JobEvent]:
    return [event for event in events if event.HasField("job_claimed")]


async def _gauge(part: Part, name: str, label: str = "") -> float:
    def read() -> float:
        with urllib.request.urlopen(f"http://{HOST}:{part.metrics}/metrics", timeout=30) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and label in ("", *sample.labels.values())
        )

    return await asyncio.to_thread(read)


async def _falls_to_zero(part: Part, name: str, label: str = "") -> None:
    async with asyncio.timeout(30):
        while await _gauge(part, name, label):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_replica_that_stood_still_is_fenced_and_gives_up_its_streams(
    fleet: Fleet, database: asyncpg.Connection
) -> None:
    taken = await _submit(fleet)
    sleeper = await _writing(fleet, database, taken.job_id)
    stopped = await database.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    sleeper.signal(signal.SIGSTOP)
    events = await _until(database, taken.job_id, "job_claimed", 2)
    claimed = _claims(events)[1]
    after = claimed.time.ToMicroseconds() / 1e6 - stopped
    assert after < LEASE + 2 + BUSY, "the loss was not noticed in time"
    sleeper.signal(signal.SIGCONT)
    await _falls_to_zero(sleeper, "hma_jobs_driven")
    events = await _until(database, taken.job_id, "job_finished")
    epochs = {e.epoch for e in events if e.sequence > claimed.sequence}
    assert epochs <= {0, 2}, "the one that woke has decided"
    assert len(_claims(events)) == 2
    for part in fleet.services:
        if part.name.startswith("worker"):
            await _falls_to_zero(part, "hma_rpcs_running", "/hma.v1.WorkerService/Execute")
    await _judge(fleet, database, taken, events)


async def test_what_workers_spent_for_a_killed_driver_is_reported_to_the_next(
    fleet: Fleet, database: asyncpg.Connection
) -> None:
    taken = await _submit(fleet)
    driver = await _writing(fleet, database, taken.job_id)
    driver.signal(signal.SIGKILL)
    events = await _until(database, taken.job_id, "job_finished")
    assert any(event.HasField("attempt_reported") for event in events)
    await _judge(fleet, database, taken, events)


async def test_a_driver_that_is_told_to_stop_hands_over_before_its_grace_is_over(
    fleet: Fleet, database: asyncpg.Connection
) -> None:
    taken = await _submit(fleet)
    leaving = await _writing(fleet, database, taken.job_id)
    leaving.signal(signal.SIGTERM)
    assert await leaving.ended(40) == 0
    events = await _until(database, taken.job_id, "job_finished")
    claims = _claims(events)
    assert len(claims) == 2
    # Its last task was ended by itself, in good order, and the next was begun elsewhere.
    assert not any(event.HasField("attempt_reported") for event in events)
    assert {e.attempt_started.ref.attempt for e in events if e.HasField("attempt_started")} == {1}
    await _judge(fleet, database, taken, events)


async def _judge(
    fleet: Fleet,
    database: asyncpg.Connection,
    taken: Taken,
    events: Sequence[job_pb2.JobEvent],
) -> None:
    """Everything was finished, and every token is known, to the token."""
    taken.seen = [event.sequence for event in events]
    verdict = await judge(database, taken, read_journal(fleet.journal), fleet.logs)
    assert verdict.faults == []
    ends = [e.task_settled.state for e in events if e.HasField("task_settled")]
    assert ends == [job_pb2.TASK_STATE_SUCCEEDED] * LENGTH
    assert (verdict.unknown, verdict.known) == (0, verdict.counted)
