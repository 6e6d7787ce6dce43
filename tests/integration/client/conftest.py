"""A scripted MetaAgent for each test, and scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.client.job_logs import Team
from tests.integration.client.scripted_meta_agent import ScriptedMetaAgent


@pytest.fixture
def server() -> Iterator[ScriptedMetaAgent]:
    """A job that is complete within half a second."""
    with ScriptedMetaAgent(Team(tasks=4).steps(), speed=20) as scripted:
        yield scripted


@pytest.fixture
def slow_server() -> Iterator[ScriptedMetaAgent]:
    """A job that takes its time, so that there is time to interrupt it."""
    with ScriptedMetaAgent(Team(tasks=40, workers=1).steps(), speed=1) as scripted:
        yield scripted
