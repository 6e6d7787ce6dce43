"""Stores on a real PostgreSQL, straight or through a proxy that breaks connections."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.meta_agent.store.ids import new_replica_id
from services.meta_agent.store.store import Store, StoreOptions, open_store
from tests.integration.store.proxy import Proxy

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[Proxy]:
    """A proxy before the test's database."""
    async with Proxy(postgres_url).running() as running:
        yield running


@pytest.fixture
async def open_replica(postgres_url: str, proxy: Proxy) -> AsyncIterator[OpenStore]:
    """Opens the store of one more replica on the test's database; closed before the proxy."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_(
            name: str = "r", *, url: str = postgres_url, options: StoreOptions | None = None
        ) -> Store:
            return await stack.enter_async_context(
                open_store(
                    url, replica_id=new_replica_id(name), address="127.0.0.1:1", options=options
                )
            )

        yield open_


@pytest.fixture
async def store(open_replica: OpenStore) -> Store:
    """The store of a single replica."""
    return await open_replica()
