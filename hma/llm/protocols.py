"""What calls within a grant need of others: who asks for grants, and who keeps a route's room."""

from __future__ import annotations

import asyncio
from typing import Protocol

from hma.v1 import attempt_pb2, common_pb2


class Attempt(Protocol):
    """What a call needs of the attempt that it is made for (`hma.rpc.attempt`)."""

    stop: asyncio.Event
    calls: list[attempt_pb2.CallUsage]

    @property
    def ref(self) -> attempt_pb2.AttemptRef:
        """Which attempt this is."""
        ...

    @property
    def route(self) -> str:
        """Name of the route; empty: the default."""
        ...

    @property
    def priority(self) -> int:
        """For the server's queue; lower runs earlier."""
        ...

    def time_left(self) -> float:
        """Seconds until the attempt must have ended."""
        ...

    def held(self, call: int) -> int:
        """Tokens of the grant that is already there for a call; 0 when there is none."""
        ...

    async def ask(self, intent: attempt_pb2.CallIntent) -> attempt_pb2.Grant:
        """Announces a call and waits for its grant."""
        ...

    def progress(
        self,
        *,
        call: int = 0,
        usage: common_pb2.Usage | None = None,
        text: str = "",
        phase: str = "",
    ) -> None:
        """Says what the attempt is doing."""
        ...


class Windows(Protocol):
    """Room in the windows of routes that have limits (`hma.rpc.route_windows`)."""

    async def reserve(
        self, route: str, tokens: int, stop: asyncio.Event, time_left: float, priority: int
    ) -> str | None:
        """Waits for room for a call; its id, None when it was stopped or out of time."""
        ...

    async def settle(self, route: str, call_id: str, tokens: int) -> None:
        """Says what the call took."""
        ...
