"""A running edge for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.edge.edge import Edge, running_edge


@pytest.fixture
async def edge(module_postgres_url: str) -> AsyncIterator[Edge]:
    """The edge of a MetaAgent, over a database that holds other tests' jobs too."""
    async with running_edge(module_postgres_url) as running:
        yield running


@pytest.fixture
async def fresh_edge(postgres_url: str) -> AsyncIterator[Edge]:
    """The edge of a MetaAgent, over an empty database."""
    async with running_edge(postgres_url) as running:
        yield running
