"""Whether each route can be called now: asked again and again, told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from hma.llm.base import SaysReadiness
from hma.llm.routes import Route, Routes
from services.meta_agent.deciding.observed import RouteState

_log = logging.getLogger(__name__)


class RouteWatch:
    """Asks every model server how it is; routes over the same server share one answer."""

    def __init__(
        self, llm: SaysReadiness, routes: Routes, *, while_down: float = 0.5, while_up: float = 5.0
    ) -> None:
        """Nothing is asked yet.

        Args:
            llm: Asks.
            routes: What to ask about.
            while_down: Seconds between questions while some route is not ready.
            while_up: Seconds between questions while all are.
        """
        self._llm = llm
        self._routes = routes
        self._while_down = while_down
        self._while_up = while_up
        self._states: dict[str, RouteState] = {
            name: RouteState(ready=False, detail=f"route {name} has not been asked yet")
            for name in routes
        }
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def states(self) -> Mapping[str, RouteState]:
        """By name, as last seen."""
        return self._states

    def listen(self, key: object, wake: Callable[[], None]) -> None:
        """Calls `wake` whenever a state changes."""
        self._listeners[key] = wake

    def unlisten(self, key: object) -> None:
        """Ends that."""
        self._listeners.pop(key, None)

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            await self.ask()
            ready = all(state.ready for state in self._states.values())
            await asyncio.sleep(self._while_up if ready else self._while_down)

    async def ask(self) -> None:
        """Asks once."""
        servers: dict[tuple[str, str], list[Route]] = {}
        for route in self._routes.values():
            servers.setdefault((route.base_url, route.model), []).append(route)
        answers = await asyncio.gather(
            *(self._llm.readiness(routes[0]) for routes in servers.values())
        )
        seen = {
            route.name: RouteState(ready=answer.ready, detail=answer.detail)
            for routes, answer in zip(servers.values(), answers, strict=True)
            for route in routes
        }
        if seen == self._states:
            return
        for name, state in seen.items():
            if state.ready != self._states[name].ready:
                _log.info("route %s: %s", name, "ready" if state.ready else state.detail)
        self._states = seen
        for wake in list(self._listeners.values()):
            wake()
