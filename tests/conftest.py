"""Fixtures that every test may use.

`postgres_url` is a real, empty PostgreSQL database of the test's own;
`module_postgres_url` is one that the tests of a module share.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from hma.local.database import database_url
from hma.local.tether import tethered

# How long an example takes says more of who else uses the machine than of the code.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")

MOST_BYTES_OF_AN_ID = 16


def pytest_make_parametrize_id(val: object) -> str | None:
    """Refuses long bytes that are no text as the id of a test.

    What packed them may have put the time in (gzip does), and then each of pytest-xdist's
    workers collects another test.
    """
    if isinstance(val, bytes) and len(val) > MOST_BYTES_OF_AN_ID and not val.isascii():
        raise pytest.UsageError(f"give a parameter of {len(val)} bytes an id: {val[:16]!r}…")
    return None


@pytest.fixture
def passable() -> Iterator[Path]:
    """A directory of the test's own to which every user of the machine may come."""
    with tempfile.TemporaryDirectory(prefix="hma-test-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


NewDatabase = Callable[[], AbstractContextManager[str]]

# A test's data need not survive a power cut; most of a test's time would go to fsync.
_FAST = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory that other users may pass through.

    As root, PostgreSQL runs as a user of its own. pytest's own directories are closed to
    others again by every pytest that starts, so they do not serve.
    """
    # A process that is ending may still write while its files are deleted.
    with tempfile.TemporaryDirectory(prefix="hma-test-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def new_database(open_directory: Path) -> Iterator[NewDatabase]:
    """Makes databases: each call is the URL of a new, empty one, which is dropped after it."""
    data = open_directory / "postgres" / "pg"
    data.parent.mkdir()
    command = [sys.executable, "-m", "hma.local.database", str(data)]
    for option in _FAST:
        command += ["-c", option]
    log = data.with_name("log")
    with log.open("w") as output:
        process = subprocess.Popen(
            tethered(command, signal.SIGINT), stdout=output, stderr=subprocess.STDOUT
        )
    numbers = itertools.count(1)

    @contextmanager
    def create() -> Iterator[str]:
        name = f"test_{next(numbers)}"
        _execute(database_url(data), f"create database {name}")
        try:
            yield database_url(data, name)
        finally:
            # Hundreds of them would be gigabytes, and minutes to delete at the end.
            _execute(database_url(data), f"drop database {name} with (force)")

    try:
        end = time.monotonic() + 60
        while "ready to accept connections" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield create
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _execute(url: str, statement: str) -> None:
    async def once() -> None:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            await connection.execute(statement, timeout=60)
        finally:
            await connection.close(timeout=30)

    with asyncio.Runner() as runner:
        runner.run(once())


@pytest.fixture
def postgres_url(new_database: NewDatabase) -> Iterator[str]:
    """URL of an empty database for one test."""
    with new_database() as url:
        yield url


@pytest.fixture(scope="module")
def module_postgres_url(new_database: NewDatabase) -> Iterator[str]:
    """URL of an empty database for the tests of one module."""
    with new_database() as url:
        yield url
