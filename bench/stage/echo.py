"""A round trip of one small message on loopback gRPC: the least that any grant can take."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

_PATH = "/hma.bench.Echo/Echo"


async def _answer(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


class _Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of the one method there is."""
        return grpc.stream_stream_rpc_method_handler(_answer) if details.method == _PATH else None


async def round_trips(count: int) -> list[float]:
    """Times of so many round trips on one stream, in seconds."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    took = []
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream: Any = channel.stream_stream(_PATH)()
            for _ in range(count):
                begin = time.perf_counter()
                await stream.write(b"x" * 60)
                await stream.read()
                took.append(time.perf_counter() - begin)
            await stream.done_writing()
    finally:
        await server.stop(0)
    return took
