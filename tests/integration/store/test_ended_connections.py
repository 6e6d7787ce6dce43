"""Connections that the server ends are away, whenever they are used, and never a defect."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from hma.errors import Unavailable
from services.meta_agent.store.database import open_database

_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hma-meta-agent'
"""


# asyncpg leaves the socket of such a connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_connection_that_the_server_has_ended_is_unavailable(postgres_url: str) -> None:
    killer = await asyncpg.connect(postgres_url)
    unavailable = 0
    try:
        async with open_database(postgres_url) as database:
            for number in range(60):
                await killer.execute(_END)
                for _ in range(6):
                    try:
                        await database.fetchrow("SELECT $1::int", number)
                    except Unavailable:
                        unavailable += 1
                    await asyncio.sleep(0.0004 * (number % 7))
    finally:
        await killer.close()
    assert unavailable
