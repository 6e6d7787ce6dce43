"""The system that is measured: all services in this process, a database, a scripted model.

The model server is the one of the tests (`tests.scripted_llm`), and so is the way to wire
everything up: what is measured is what is tested.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from bench.append import embedded
from tests.integration.system.whole import Whole, open_whole

__all__ = ["Whole", "database_server", "running"]

_numbers = itertools.count(1)


@contextlib.contextmanager
def database_server() -> Iterator[str]:
    """An embedded PostgreSQL, with fsync, until the context is left; its URL."""
    # Broken calls are made on purpose: what is logged about them says nothing new.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with embedded() as url:
        yield url


@contextlib.asynccontextmanager
async def running(server: str, script: Any, **options: Any) -> AsyncIterator[Whole]:
    """The whole system on a database of its own.

    Args:
        server: URL of the database server.
        script: What the model says.
        options: As for `open_whole`.
    """
    name = f"bench_{next(_numbers)}"
    connection = await asyncpg.connect(server, timeout=10)
    try:
        await connection.execute(f"create database {name}", timeout=30)
    finally:
        await connection.close(timeout=10)
    async with open_whole(server.replace("/postgres?", f"/{name}?"), script, **options) as whole:
        yield whole
