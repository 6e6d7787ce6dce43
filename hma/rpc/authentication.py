"""Before every RPC between services: which service calls, and may it?"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from hma.errors import HmaError
from hma.rpc.callers import is_between_services
from hma.rpc.membership import Context, Membership

_log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

OnRefused: TypeAlias = Callable[[str, str, HmaError], None]
"""Told the method, the peer's address and why; must neither wait nor raise."""


class CallerInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls between services that do not come from one that may make them.

    It raises `HmaError`: put it inside `hma.rpc.interceptor.RpcInterceptor`. Public services,
    health and reflection are none of its business; a service that nobody has thought of is.
    """

    def __init__(self, membership: Membership, on_refused: OnRefused | None = None) -> None:
        """Intercepts nothing yet.

        Args:
            membership: Who this process is, and what others prove themselves by.
            on_refused: Told of calls that were refused.
        """
        self._membership = membership
        self._on_refused = on_refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the handler of an RPC between services."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not is_between_services(method):
            return handler  # type: ignore[no-any-return]
        before = "stream" if handler.request_streaming else "unary"
        after = "stream" if handler.response_streaming else "unary"
        kind = f"{before}_{after}"
        wrap = self._streaming if handler.response_streaming else self._unary
        return handler._replace(  # type: ignore[no-any-return]
            **{kind: wrap(getattr(handler, kind), method)}
        )

    def _admit(self, method: str, context: Context) -> None:
        try:
            self._membership.admit(method, context)
        except HmaError as error:
            # Most likely keys or certificates that do not belong together.
            _log.info(
                "refused a service",
                extra={"method": method, "reason": error.reason, "address": context.peer()},
            )
            if self._on_refused is not None:
                self._on_refused(method, context.peer(), error)
            raise

    def _unary(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: Context) -> Any:
            self._admit(method, context)
            return await behaviour(request, context)

        return call

    def _streaming(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            self._admit(method, context)
            result = behaviour(request, context)
            if inspect.isasyncgen(result):
                async with aclosing(result) as responses:
                    async for response in responses:
                        yield response
            else:
                # The handler writes to the context itself.
                await result

        return call
