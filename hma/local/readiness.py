"""How to tell that a part is ready: each check asks the part itself, briefly."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable

import asyncpg
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hma.errors import HmaError
from hma.local.connecting import Prove, open_channel, plain

_TIMEOUT_S = 1.0

Check = Callable[[], bool]
"""Whether the part is ready now. Takes a second at most; never raises."""


def database_answers(url: str) -> Check:
    """A connection to `url` can be made."""

    async def connect() -> None:
        connection = await asyncpg.connect(url, timeout=_TIMEOUT_S)
        await connection.close(timeout=_TIMEOUT_S)

    def check() -> bool:
        try:
            asyncio.run(connect())
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    return check


def http_answers(host: str, port: int, path: str) -> Check:
    """GET `path` answers 200."""

    def check() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return check


def grpc_serves(address: str, *, answer_is_enough: bool = False, prove: Prove = plain) -> Check:
    """The gRPC health service says SERVING.

    Args:
        address: Its host:port.
        answer_is_enough: Take NOT_SERVING for ready too: the part runs, but waits for
            something that is not of this stack.
        prove: Certificates, for connections that need them.
    """
    good = {health_pb2.HealthCheckResponse.SERVING}
    if answer_is_enough:
        good.add(health_pb2.HealthCheckResponse.NOT_SERVING)

    def check() -> bool:
        try:
            proof = prove()
        except HmaError:
            # The files are being replaced; whoever uses them says what is wrong with them.
            return False
        with open_channel(address, proof) as channel:
            try:
                response = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S
                )
            except grpc.RpcError:
                return False
        return response.status in good

    return check
