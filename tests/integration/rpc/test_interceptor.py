"""Errors and metrics at the edge of a real server, for every kind of RPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import CollectorRegistry

from hma import errors
from hma.rpc.status import from_rpc_error
from tests.integration.rpc.support import serving, until

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream", "written"]
SERVICE = "test.Echo"


class Echo:
    """Raises what it is told by the request's text, else echoes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    async def unary_unary(self, request: Any, context: Any) -> Any:
        self.started.set()
        if request.value == "wait":
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        if self.error is not None:
            raise self.error
        return request

    async def unary_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield await self.unary_unary(request, context)

    async def stream_unary(self, requests: Any, context: Any) -> Any:
        found = [await self.unary_unary(request, context) async for request in requests]
        return found[-1]

    async def stream_stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self.unary_unary(request, context)

    async def written(self, requests: Any, context: Any) -> None:
        async for request in requests:
            await context.write(await self.unary_unary(request, context))

    def register(self, server: grpc.aio.Server) -> None:
        handlers = {}
        for name in KINDS:
            kind = "stream_stream" if name == "written" else name
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            handlers[name] = make(
                getattr(self, name),
                request_deserializer=StringValue.FromString,
                response_serializer=StringValue.SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def call(
    channel: grpc.aio.Channel, name: str, data: bytes, *, method: str | None = None
) -> bytes:
    kind = "stream_stream" if name == "written" else name
    rpc = getattr(channel, kind)(f"/{SERVICE}/{method or name}")

    async def one() -> AsyncIterator[bytes]:
        yield data

    request = one() if kind.startswith("stream") else data
    running = rpc(request)
    if kind.endswith("stream"):
        answers = [each async for each in running]
        return bytes(answers[-1])
    return bytes(await running)


def counted(registry: CollectorRegistry, method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return registry.get_sample_value("hma_rpcs_total", labels) or 0.0


@pytest.mark.parametrize("name", KINDS)
async def test_answers_pass_and_are_counted(name: str) -> None:
    registry = CollectorRegistry()
    async with serving(Echo().register, registry=registry) as channel:
        data = StringValue(value="hello").SerializeToString()
        assert await call(channel, name, data) == data
        await until(lambda: counted(registry, f"/{SERVICE}/{name}", "OK") == 1)
    labels = {"method": f"/{SERVICE}/{name}"}
    assert registry.get_sample_value("hma_rpcs_running", labels) == 0
    assert registry.get_sample_value("hma_rpc_duration_seconds_count", labels) == 1


@pytest.mark.parametrize("name", KINDS)
async def test_an_error_of_the_tree_arrives_typed(name: str) -> None:
    registry = CollectorRegistry()
    error = errors.QuotaExceeded("spent", subject="tenant:a/tokens", retry_after=4)
    async with serving(Echo(error).register, registry=registry) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, name, b"")
        await until(lambda: counted(registry, f"/{SERVICE}/{name}", "RESOURCE_EXHAUSTED") == 1)
    back = from_rpc_error(raised.value)
    assert isinstance(back, errors.QuotaExceeded)
    assert (back.subject, back.retry_after) == ("tenant:a/tokens", 4)


@pytest.mark.parametrize("name", KINDS)
async def test_an_unknown_exception_does_not_leak(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Echo(RuntimeError("password=hunter2")).register) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, name, b"")
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in repr(raised.value)
    (record,) = [each for each in caplog.records if hasattr(each, "error_id")]
    assert vars(record)["error_id"] in (raised.value.details() or "")


@pytest.mark.parametrize("name", KINDS)
async def test_bytes_that_are_no_message_are_an_invalid_argument(name: str) -> None:
    async with serving(Echo().register) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, name, b"\xff\xff\xff")
        # And the process is unharmed.
        assert await call(channel, name, b"") == b""
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "DecodeError" not in (raised.value.details() or "")


@pytest.mark.parametrize("name", KINDS)
async def test_a_call_that_the_client_gives_up_ends_and_is_counted(name: str) -> None:
    registry = CollectorRegistry()
    echo = Echo()
    async with serving(echo.register, registry=registry) as channel:
        waiting = asyncio.create_task(
            call(channel, name, StringValue(value="wait").SerializeToString())
        )
        await echo.started.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        await asyncio.wait_for(echo.ended.wait(), 30)
        await until(lambda: counted(registry, f"/{SERVICE}/{name}", "CANCELLED") == 1)


async def test_unknown_methods_share_one_label() -> None:
    registry = CollectorRegistry()
    async with serving(Echo().register, registry=registry) as channel:
        for name in ("a", "b"):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(channel, "unary_unary", b"", method=name)
            assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert counted(registry, "unknown", "UNIMPLEMENTED") == 2
