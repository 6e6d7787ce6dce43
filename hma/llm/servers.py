"""The model servers, for those who only ask how they are.

Apart from the provider that calls them, whose client library costs every process that
imports it 25 MB: a MetaAgent calls no model.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx2

from hma.llm import ready
from hma.llm.base import Readiness
from hma.llm.routes import Route
from hma.llm.settings import LlmSettings


def open_http(settings: LlmSettings) -> httpx2.AsyncClient:
    """A client for model servers; close it.

    Args:
        settings: Timeouts.
    """
    timeout = httpx2.Timeout(
        settings.stall_timeout, connect=settings.connect_timeout, pool=settings.connect_timeout
    )
    # Idle connections are dropped before servers do (5 s), so that a call is not
    # sent into one that is just being closed: it would have to be booked as unknown.
    limits = httpx2.Limits(max_connections=None, keepalive_expiry=3.0)
    # A proxy of the environment must not stand between us and our own machine.
    direct = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}
    return httpx2.AsyncClient(timeout=timeout, limits=limits, mounts=direct)


class ModelServers:
    """Asks model servers how they are. An async context manager.

    Args:
        settings: Timeouts.
    """

    def __init__(self, settings: LlmSettings) -> None:
        self._http = open_http(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def readiness(self, route: Route) -> Readiness:
        """Whether the route can be called; see `hma.llm.ready`."""
        return await ready.probe(self._http, route)

    async def waiting(self, route: Route) -> int | None:
        """Requests that wait at the route's server; see `hma.llm.ready`."""
        return await ready.waiting(self._http, route)
