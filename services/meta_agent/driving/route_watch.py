"""Whether each route can be called now: asked again and again, told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from hma.llm.base import Readiness
from hma.llm.routes import Route, Routes
from hma.v1 import job_pb2
from services.meta_agent.deciding.observed import RouteState
from services.meta_agent.driving.breaker import State
from services.meta_agent.driving.capacity import Claimant
from services.meta_agent.driving.route_gates import GateRules, RouteGates
from services.meta_agent.job.state import JobFold

_log = logging.getLogger(__name__)

WHILE_NARROW = 1.0
"""Seconds between questions while a route takes fewer attempts than it may."""


class Servers(Protocol):
    """Who can ask the routes' servers how they are."""

    async def readiness(self, route: Route) -> Readiness:
        """Whether the route can be called, in a second or two."""
        ...

    async def waiting(self, route: Route) -> int | None:
        """Requests that wait in the queue of the route's server; None when not known."""
        ...


class RouteWatch:
    """Asks every model server how it is, and learns from what its routes bring.

    Routes over the same server share its answer; each has a gate of its own.
    """

    def __init__(
        self,
        servers: Servers,
        routes: Routes,
        rules: GateRules | None = None,
        *,
        while_down: float = 0.5,
        while_up: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            servers: Asks.
            routes: What to ask about.
            rules: When a route is closed, or takes fewer attempts.
            while_down: Seconds between questions while some route is not ready.
            while_up: Seconds between questions while all are.
            clock: Seconds that never go back.
        """
        self._servers = servers
        self._routes = routes
        self._rules = rules or GateRules()
        self._while_down = while_down
        self._while_up = while_up
        self._gates = RouteGates(routes, self._rules, clock)
        self._signs = self._gates.signs()
        self._seen: dict[str, RouteState] = {
            name: RouteState(ready=False, detail=f"route {name} has not been asked yet")
            for name in routes
        }
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def states(self) -> Mapping[str, RouteState]:
        """By name, as last seen, gates included."""
        return self._gates.states(self._seen)

    @property
    def learned(self) -> Mapping[str, RouteState]:
        """By name: what using the routes has shown, whatever their servers say."""
        return self._gates.states({name: RouteState(ready=True) for name in self._routes})

    def states_for(self, job_id: str) -> Mapping[str, RouteState]:
        """By name: what a job may start now."""
        return self._gates.states(self._seen, job_id)

    def introduce(self, job_id: str, who: Claimant) -> None:
        """Says whose a job is."""
        self._gates.introduce(job_id, who)

    def hold(
        self,
        job_id: str,
        fold: JobFold,
        decided: JobFold,
        crowded: frozenset[str],
        wake: Callable[[], None],
    ) -> None:
        """Says what a job is about to have open on each route; see `RouteGates.hold`."""
        if self._gates.hold(job_id, fold, decided, crowded, wake):
            self._tell()

    def leave(self, job_id: str) -> None:
        """A job is no longer driven here."""
        if self._gates.leave(job_id):
            self._tell()

    def observe(self, event: job_pb2.JobEvent, fold: JobFold) -> None:
        """Learns from a committed event of any job that is driven here."""
        if self._gates.observe(event, fold) and not self._compare():
            self._tell()

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
            pause = self._while_up
            if self._gates.narrowed:
                pause = min(pause, WHILE_NARROW)
            if not all(state.ready for state in self.states.values()):
                pause = min(pause, self._while_down)
            await asyncio.sleep(pause)

    async def ask(self) -> None:
        """Asks once."""
        servers: dict[tuple[str, str], list[Route]] = {}
        for route in self._routes.values():
            servers.setdefault((route.base_url, route.model), []).append(route)
        answers = await asyncio.gather(*(self._ask(routes) for routes in servers.values()))
        seen = {name: state for answer in answers for name, state in answer.items()}
        changed = seen != self._seen
        for name, state in seen.items():
            if state.ready != self._seen[name].ready:
                _log.info("route %s: %s", name, "ready" if state.ready else state.detail)
        self._seen = seen
        if not self._compare() and changed:
            self._tell()

    async def _ask(self, routes: list[Route]) -> dict[str, RouteState]:
        """One server, for all routes over it."""
        answer = await self._servers.readiness(routes[0])
        if answer.ready and self._rules.max_waiting:
            waiting = await self._servers.waiting(routes[0])
            for route in routes:
                self._gates.queue_seen(route.name, waiting)
        state = RouteState(ready=answer.ready, detail=answer.detail)
        return {route.name: state for route in routes}

    def _compare(self) -> bool:
        """Tells listeners of breakers that have changed; whether any has."""
        signs = self._gates.signs()
        if signs == self._signs:
            return False
        for name, sign in signs.items():
            if sign is not self._signs[name]:
                level = logging.WARNING if sign is State.OPEN else logging.INFO
                _log.log(level, "the breaker of route %s is %s", name, sign.value)
        self._signs = signs
        self._tell()
        return True

    def _tell(self) -> None:
        for wake in list(self._listeners.values()):
            wake()
