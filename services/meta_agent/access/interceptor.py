"""Before every public RPC: who calls, and may they?"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from hma.errors import HmaError
from hma.rpc.status import code_of
from hma.rpc.tokens import TokenKeys
from services.meta_agent.access.auditing import resource_of
from services.meta_agent.access.caller import Caller, set_caller
from services.meta_agent.access.identity import identity_of
from services.meta_agent.access.observing import AccessObserver
from services.meta_agent.access.refusing import Refusal
from services.meta_agent.access.roles import OPERATOR, is_public, least_role

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Identify = Callable[[Context], Caller]
"""Who makes an RPC; raises Unauthenticated."""

Recheck = Callable[[Caller], Awaitable[None]]
"""Raises Refusal when a caller who is served may not be served on."""


def by_identity(keys: TokenKeys) -> Identify:
    """Believes the tokens that `identity.sign_identity` makes, and nothing else."""
    return lambda context: identity_of(keys, context.invocation_metadata() or ())


def everybody(tenant: str) -> Identify:
    """Takes everybody for the operator, and for one tenant: HMA_AUTH=none."""

    def identify(context: Context) -> Caller:
        return Caller(tenant=tenant, subject="", role=OPERATOR, address=context.peer())

    return identify


async def never(caller: Caller) -> None:
    """Lets callers who were let in stay."""


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Refuses public RPCs of callers who are not known or may not; tells the others' servicer.

    It raises `HmaError`: put it inside `hma.rpc.interceptor.RpcInterceptor`. Services that
    are not public, health and reflection are none of its business.
    """

    def __init__(
        self,
        identify: Identify,
        observer: AccessObserver,
        recheck: Recheck = never,
        *,
        interval: float = 1.0,
    ) -> None:
        """Intercepts nothing yet.

        Args:
            identify: Who makes an RPC.
            observer: Told of refusals.
            recheck: Asked at the start of a call, and before a response of a stream or of a call
                that waited, whether its caller may go on.
            interval: Seconds for which its answer holds.
        """
        self._identify = identify
        self._observer = observer
        self._recheck = recheck
        self._interval = interval

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the handler of a public RPC."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not is_public(method):
            return handler  # type: ignore[no-any-return]
        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        wrap = self._streaming if handler.response_streaming else self._unary
        return handler._replace(  # type: ignore[no-any-return]
            **{kind: wrap(getattr(handler, kind), method)}
        )

    def _unary(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: Context) -> Any:
            caller = await self._admitted(method, request, context)
            began = time.monotonic()
            response = await behaviour(request, context)
            if time.monotonic() - began >= self._interval:
                # It waited, for a job's end perhaps.
                await self._check_again(caller, method, request)
            return response

        return call

    def _streaming(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            caller = await self._admitted(method, request, context)
            checked = time.monotonic()
            responses = behaviour(request, context)
            if not inspect.isasyncgen(responses):
                raise TypeError(f"{method} does not generate its responses")
            async with aclosing(responses):
                async for response in responses:
                    if time.monotonic() - checked >= self._interval:
                        await self._check_again(caller, method, request)
                        checked = time.monotonic()
                    yield response

        return call

    async def _admitted(self, method: str, request: Any, context: Context) -> Caller:
        caller = self._admit(method, request, context)
        # The gateway may have let it pass for a caller whom it knew.
        await self._check_again(caller, method, request)
        return caller

    async def _check_again(self, caller: Caller, method: str, request: Any) -> None:
        """Ends a call whose caller's key has ended: what it waits for is not told any more."""
        try:
            await self._recheck(caller)
        except Refusal as refusal:
            self._tell(caller, method, refusal.error, caller.address, resource_of(request))
            raise refusal.error from None

    def _admit(self, method: str, request: Any, context: Context) -> Caller:
        caller = None
        try:
            caller = self._identify(context)
            caller.require(least_role(method))
        except HmaError as error:
            address = (caller and caller.address) or context.peer()
            self._tell(caller, method, error, address, resource_of(request))
            raise
        set_caller(caller)
        return caller

    def _tell(
        self,
        caller: Caller | None,
        method: str,
        error: HmaError,
        address: str,
        resource: str,
    ) -> None:
        self._observer.denied(
            subject=caller.subject if caller else "",
            tenant=caller.tenant if caller else "",
            method=method.rpartition("/")[2],
            resource=resource,
            address=address,
            request_id=caller.request_id if caller else "",
            reason=error.reason,
            code=code_of(error).name,
        )
