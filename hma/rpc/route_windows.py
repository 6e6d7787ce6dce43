"""Room in the windows of a route that has limits of its own, asked of the MetaAgent.

Any replica answers, from one book for the whole installation; so the limits of a hosted
provider hold however many services call it. While no replica answers, no call is made.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from typing import Any

import grpc

from hma import stopping
from hma.llm.base import CallRefused
from hma.v1 import common_pb2, meta_agent_pb2, meta_agent_pb2_grpc

_log = logging.getLogger(__name__)

CALL_TIMEOUT = 2.0
"""Seconds that one question may take."""

LEAVE_TIMEOUT = 0.5
"""Seconds that it may take to say that a call does not wait any more."""

PAUSE = 0.5
"""Seconds between two questions while no MetaAgent answers; up to half more at random."""


class RouteWindows:
    """Asks for room before calls, and says afterwards what they took.

    Args:
        channel: To the MetaAgent; stays the caller's.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = meta_agent_pb2_grpc.InternalServiceStub(channel)

    async def reserve(
        self, route: str, tokens: int, stop: asyncio.Event, time_left: float, priority: int = 0
    ) -> str | None:
        """Waits for room for one call.

        Args:
            route: The route's name.
            tokens: Most that the call can take, prompt and completion.
            stop: Ends the wait.
            time_left: Seconds after which it ends anyway.
            priority: As for the server's queue: lower goes earlier.

        Returns:
            The id to settle with; None when it was stopped or the time ran out.

        Raises:
            CallRefused: RATE_LIMITED: the route's limit is less than the call can take.
        """
        request = meta_agent_pb2.ReserveRouteRequest(
            route=route, call_id=uuid.uuid4().hex, tokens=tokens, priority=priority
        )
        try:
            async with asyncio.timeout(max(time_left, 0.0)):
                granted = await stopping.unless(stop, self._wait(request))
        except TimeoutError:
            granted = None
        if not granted:
            # Those behind it in line are not to wait for it until its place expires.
            await self._say(route, request.call_id, 0, LEAVE_TIMEOUT)
            return None
        return request.call_id

    async def settle(self, route: str, call_id: str, tokens: int) -> None:
        """Says what a call took. Lost, it counts with the most that it could have taken."""
        await self._say(route, call_id, tokens, CALL_TIMEOUT)

    async def _say(self, route: str, call_id: str, tokens: int, timeout: float) -> None:
        request = meta_agent_pb2.ReserveRouteRequest(
            route=route, call_id=call_id, used_tokens=tokens
        )
        try:
            await self._ask(request, timeout)
        except grpc.aio.AioRpcError as error:
            _log.debug("what a call took could not be said", extra={"code": error.code().name})

    async def _wait(self, request: meta_agent_pb2.ReserveRouteRequest) -> bool:
        while True:
            try:
                answer = await self._ask(request)
            except grpc.aio.AioRpcError as error:
                _log.warning("no room could be asked for", extra={"code": error.code().name})
                await asyncio.sleep(PAUSE * random.uniform(1.0, 1.5))  # noqa: S311 - no secret
                continue
            if answer.granted:
                return True
            if not answer.HasField("retry_after"):
                raise CallRefused(
                    f"Route {request.route} has a limit that is less than the "
                    f"{request.tokens} tokens that this call can take.",
                    common_pb2.FAILURE_CLASS_RATE_LIMITED,
                )
            await asyncio.sleep(answer.retry_after.ToNanoseconds() / 1e9)

    async def _ask(
        self, request: meta_agent_pb2.ReserveRouteRequest, timeout: float = CALL_TIMEOUT
    ) -> meta_agent_pb2.ReserveRouteResponse:
        call: Any = self._stub.ReserveRoute(request, timeout=timeout)
        answer: meta_agent_pb2.ReserveRouteResponse = await call
        return answer
