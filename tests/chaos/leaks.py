"""Finds what a run has left behind: attempts, drivers, connections, processes."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter

import asyncpg
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.fleet import HOST, Fleet, Part

PATIENCE = 20.0
"""Seconds in which what is left behind must go away by itself."""

_SESSIONS = """
SELECT application_name, state FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_MOST = {"hma-meta-agent": 12, "hma-appender": 2, "hma-beat": 2, "hma-notifications": 2}
"""Sessions of two MetaAgents at most, with HMA_DATABASE_CONNECTIONS=6."""

_BUSY = (
    "hma_attempts_running",
    "hma_jobs_driven",
    "hma_reports_pending",
    "hma_ready_tasks",
    "hma_watchers",
    "hma_relays",
)


async def find_leaks(fleet: Fleet, connection: asyncpg.Connection) -> list[str]:
    """What is still there after `PATIENCE`; nothing when all is well."""
    end = time.monotonic() + PATIENCE
    while True:
        found = [*_processes(fleet), *await _sessions(connection), *await _work(fleet)]
        if not found or time.monotonic() > end:
            return found
        await asyncio.sleep(0.25)


def _processes(fleet: Fleet) -> list[str]:
    """Children of this process that are not the fleet's; PostgreSQL's own ones are."""
    known = fleet.pids
    return [
        f"process {child.pid} is nobody's"
        for child in psutil.Process().children()
        if child.pid not in known and _command(child).find("hma") >= 0
    ]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


async def _sessions(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(_SESSIONS)
    counts = Counter(row["application_name"] for row in rows)
    found = [
        f"{count} sessions of {name or 'nobody'}"
        for name, count in counts.items()
        if count > _MOST.get(name, 0)
    ]
    if any(row["state"] == "idle in transaction" for row in rows):
        found.append("a transaction stands open")
    return found


async def _work(fleet: Fleet) -> list[str]:
    """What the services' own gauges say is under way."""
    pages = await asyncio.gather(*(asyncio.to_thread(_busy, part) for part in fleet.services))
    return [each for page in pages for each in page]


def _busy(part: Part) -> list[str]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{part.metrics}/metrics", timeout=30) as page:
            text = page.read().decode()
    except OSError as error:
        return [f"{part.name} shows no metrics: {error}"]
    return [
        f"{part.name}: {sample.name} is {sample.value:g}"
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in _BUSY and sample.value
    ]
