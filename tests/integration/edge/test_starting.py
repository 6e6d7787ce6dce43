"""A MetaAgent that starts while PostgreSQL comes and goes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from hma.errors import Unavailable
from services.meta_agent.starting import open_on_database


async def test_a_database_that_goes_away_while_the_store_opens_is_waited_for_again(
    postgres_url: str,
) -> None:
    tries = 0

    @contextlib.asynccontextmanager
    async def open_() -> AsyncIterator[str]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("it went away")
        yield "store"

    async with contextlib.AsyncExitStack() as stack:
        opened = await open_on_database(postgres_url, 30, open_, stack, pause=0.01)
        assert (opened, tries) == ("store", 3)
    tries = -1_000_000
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(Unavailable):
            await open_on_database(postgres_url, 0.2, open_, stack, pause=0.01)
