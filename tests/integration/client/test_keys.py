"""Keys by the client: what is tried again, and what must not be."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import hma
from hma.errors import InvalidRequest, Unavailable
from hma.v1 import admin_pb2, admin_pb2_grpc


class Flaky(admin_pb2_grpc.AdminServiceServicer):
    """Loses its answer to the first call of each method."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.metadata: dict[str, Any] = {}

    def _count(self, method: str, context: grpc.ServicerContext) -> None:
        self.metadata = dict(context.invocation_metadata())
        self.calls[method] = self.calls.get(method, 0) + 1
        if self.calls[method] == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    def CreateKey(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._count("CreateKey", context)
        return admin_pb2.CreateKeyResponse(secret="s")

    def ListKeys(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._count("ListKeys", context)
        if not request.page_token:
            return admin_pb2.ListKeysResponse(
                keys=[admin_pb2.ApiKey(key_id="b")], next_page_token="more"
            )
        return admin_pb2.ListKeysResponse(keys=[admin_pb2.ApiKey(key_id="a")])

    def RotateKey(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._count("RotateKey", context)
        return admin_pb2.RotateKeyResponse(secret=str(request.grace.seconds))

    def RevokeKey(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._count("RevokeKey", context)
        return admin_pb2.ApiKey(key_id=request.key_id)

    def SetQuota(self, request: Any, context: grpc.ServicerContext) -> Any:
        """None of this file's business."""

    def ListAuditEntries(self, request: Any, context: grpc.ServicerContext) -> Any:
        """None of this file's business."""


@pytest.fixture
def flaky() -> Iterator[tuple[Flaky, str]]:
    """The service and its address."""
    servicer = Flaky()
    server = grpc.server(ThreadPoolExecutor(2))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait(30)


def test_a_key_whose_answer_was_lost_is_not_made_again(flaky: tuple[Flaky, str]) -> None:
    servicer, address = flaky
    with hma.Client(address, api_key="k") as client:
        with pytest.raises(Unavailable):
            client.keys.create()
        with pytest.raises(Unavailable):
            client.keys.rotate("a", "1d")
        assert servicer.calls == {"CreateKey": 1, "RotateKey": 1}
        assert client.keys.create(lifetime="30d").secret == "s"
        assert client.keys.rotate("a", "1d").secret == "86400"
        # What changes nothing the second time is tried again.
        assert [key.key_id for key in client.keys.list()] == ["b", "a"]
        assert client.keys.revoke("a").key_id == "a"
    assert servicer.calls["RevokeKey"] == 2
    assert servicer.metadata["authorization"] == "Bearer k"


async def test_the_asynchronous_client_does_the_same(flaky: tuple[Flaky, str]) -> None:
    servicer, address = flaky
    async with hma.AsyncClient(address, api_key="k") as client:
        with pytest.raises(Unavailable):
            await client.keys.create()
        assert servicer.calls == {"CreateKey": 1}
        assert (await client.keys.create(role="admin")).secret == "s"
        assert [key.key_id async for key in client.keys.list()] == ["b", "a"]
        assert (await client.keys.revoke("a")).key_id == "a"
    assert servicer.metadata["authorization"] == "Bearer k"


def test_what_is_no_role_and_no_time_is_not_sent(flaky: tuple[Flaky, str]) -> None:
    servicer, address = flaky
    wrong: Any = "emperor"
    with hma.Client(address, api_key="k") as client:
        with pytest.raises(InvalidRequest, match="role"):
            client.keys.create(role=wrong)
        with pytest.raises(InvalidRequest, match="lifetime"):
            client.keys.create(lifetime="soon")
        with pytest.raises(InvalidRequest, match="grace"):
            client.keys.rotate("a", "-1s")
    assert servicer.calls == {}
