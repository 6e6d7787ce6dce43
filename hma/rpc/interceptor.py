"""The one server interceptor: errors to statuses, and access metrics."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hma import errors
from hma.rpc.errors import abort, code_of, unexpected

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = logging.getLogger(__name__)
_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 30, 120, 600)
_UNKNOWN = "unknown"
_CODES: dict[int, str] = {each.value[0]: each.name for each in grpc.StatusCode}


class AccessMetrics:
    """Counts and times RPCs by method and code.

    Args:
        registry: Where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rpcs = Counter(
            "hma_rpcs", "RPCs that ended, by method and code", ["method", "code"], registry=registry
        )
        self.duration = Histogram(
            "hma_rpc_duration_seconds",
            "Time from the start of an RPC to its end",
            ["method"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.running = Gauge(
            "hma_rpcs_running", "RPCs that are running", ["method"], registry=registry
        )


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands for a request that is not a message of its type."""


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every asyncio handler.

    `HmaError` becomes its status; anything else INTERNAL with an id that is in the
    log, and nothing of its text. Bytes that are no message become INVALID_ARGUMENT.

    Args:
        metrics: Where RPCs are counted.
    """

    def __init__(self, metrics: AccessMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the handler of one RPC."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            self._metrics.rpcs.labels(_UNKNOWN, grpc.StatusCode.UNIMPLEMENTED.name).inc()
            return None
        kind = _kind_of(handler)
        behaviour = getattr(handler, kind)
        if not (inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)):
            # A synchronous handler runs in a thread; wrapping would move it onto the loop.
            return handler  # type: ignore[no-any-return]
        method = handler_call_details.method
        wrapped = (
            self._streaming(behaviour, method, handler.request_streaming)
            if handler.response_streaming
            else self._unary(behaviour, method, handler.request_streaming)
        )
        replaced: Handler = handler._replace(
            **{kind: wrapped, "request_deserializer": _lenient(handler.request_deserializer)}
        )
        return replaced

    def _unary(self, behaviour: Any, method: str, request_streaming: bool) -> Any:
        async def call(request: Any, context: Context) -> Any:
            with self._counted(method, context) as ended:
                try:
                    return await behaviour(_checked(request, request_streaming), context)
                except Exception as error:  # noqa: BLE001 - the process' last line
                    await self._end(error, method, context, ended)

        return call

    def _streaming(self, behaviour: Any, method: str, request_streaming: bool) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._counted(method, context) as ended:
                try:
                    result = behaviour(_checked(request, request_streaming), context)
                    if inspect.isasyncgen(result):
                        async with aclosing(result) as responses:
                            async for response in responses:
                                yield response
                    else:
                        # The handler writes to the context itself.
                        await result
                except Exception as error:  # noqa: BLE001 - the process' last line
                    await self._end(error, method, context, ended)

        return call

    async def _end(
        self, error: Exception, method: str, context: Context, ended: dict[str, str]
    ) -> None:
        if isinstance(error, grpc.aio.AbortError):
            ended["code"] = _code_name(context, default=grpc.StatusCode.UNKNOWN)
            raise error
        if context.cancelled() or context.done():
            # Nobody is left to be told; grpc would log a traceback of its own.
            ended["code"] = grpc.StatusCode.CANCELLED.name
            raise asyncio.CancelledError from error
        known = error if isinstance(error, errors.HmaError) else unexpected(error, method)
        ended["code"] = code_of(known).name
        await abort(context, known)

    @contextmanager
    def _counted(self, method: str, context: Context) -> Iterator[dict[str, str]]:
        ended: dict[str, str] = {}
        start = time.perf_counter()
        running = self._metrics.running.labels(method)
        running.inc()
        try:
            yield ended
        except (asyncio.CancelledError, GeneratorExit):
            ended.setdefault("code", grpc.StatusCode.CANCELLED.name)
            raise
        finally:
            running.dec()
            code = ended.get("code") or _code_name(context, default=grpc.StatusCode.OK)
            self._metrics.rpcs.labels(method, code).inc()
            self._metrics.duration.labels(method).observe(time.perf_counter() - start)
            _log.debug("rpc ended", extra={"method": method, "code": code})


def _kind_of(handler: Any) -> str:
    before = "stream" if handler.request_streaming else "unary"
    after = "stream" if handler.response_streaming else "unary"
    return f"{before}_{after}"


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Lets malformed requests reach the handler's wrapper, where they get a status."""
    if deserialize is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Malformed()

    return attempt


def _checked(request: Any, streaming: bool) -> Any:
    return _checked_all(request) if streaming else _checked_one(request)


def _checked_one(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise errors.InvalidRequest.field("", "the request is not a message of its type")
    return request


async def _checked_all(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked_one(request)


def _code_name(context: Context, default: grpc.StatusCode) -> str:
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code, default.name) if code else default.name
