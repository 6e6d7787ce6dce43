"""A door for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.access.callers import Door, open_door


@pytest.fixture
async def door(module_postgres_url: str, tmp_path: Path) -> AsyncIterator[Door]:
    """An edge that asks who calls, over a database that holds other tests' keys too."""
    async with open_door(module_postgres_url, tmp_path) as opened:
        yield opened
