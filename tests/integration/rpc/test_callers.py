"""Which service may call which, with real servers and keys in real files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hma.errors import HmaError, PermissionDenied, SettingsError, Unauthenticated
from hma.rpc.access_settings import ServiceAccess
from hma.rpc.attempt_stream import Lost, reduce_stream
from hma.rpc.caller_tokens import HEADER
from hma.rpc.channel import open_channel
from hma.rpc.membership import Membership
from hma.rpc.server import ServerSettings
from hma.rpc.status import from_rpc_error
from hma.rpc.tokens import TokenKeys
from hma.v1 import (
    common_pb2,
    meta_agent_pb2,
    meta_agent_pb2_grpc,
    reducer_pb2,
    reducer_pb2_grpc,
)
from tests.integration.rpc.members import (
    KEY,
    OTHER_KEY,
    PLAIN,
    Internal,
    Reducing,
    member,
    serving_as,
    write,
)

REPORT = meta_agent_pb2.ReportAttemptRequest()


async def report(channel: grpc.aio.Channel, **options: Any) -> HmaError | None:
    """Reports over a channel; what it was refused with."""
    stub: Any = meta_agent_pb2_grpc.InternalServiceStub(channel)
    try:
        await stub.ReportAttempt(REPORT, timeout=30, **options)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_services_that_have_business_are_served(tmp_path: Path) -> None:
    internal = Internal()
    async with serving_as(member("meta-agent", tmp_path), internal.register) as address:
        for role in ("analyst", "worker", "reducer"):
            async with open_channel(address, membership=member(role, tmp_path)) as channel:
                assert await report(channel) is None
    assert internal.served == 3


async def test_who_knocks_at_a_method_with_bytes_does_not_change_it_for_stubs(
    tmp_path: Path,
) -> None:
    internal = Internal()
    async with (
        serving_as(member("meta-agent", tmp_path), internal.register) as address,
        open_channel(address, membership=member("worker", tmp_path)) as channel,
    ):
        knock: Any = channel.unary_unary("/hma.v1.InternalService/ReportAttempt")
        assert isinstance(await knock(REPORT.SerializeToString(), timeout=30), bytes)
        assert await report(channel) is None
    assert internal.served == 2


async def test_a_genuine_service_without_business_is_denied(tmp_path: Path) -> None:
    internal = Internal()
    async with serving_as(member("meta-agent", tmp_path), internal.register) as address:
        for role in ("meta-agent", "gateway", "cli", "key:abc"):
            async with open_channel(address, membership=member(role, tmp_path)) as channel:
                refused = await report(channel)
            assert isinstance(refused, PermissionDenied), role
            assert refused.reason == "CALLER_NOT_ALLOWED"
    assert internal.served == 0


async def test_documents_are_not_for_the_analyst(tmp_path: Path) -> None:
    internal = Internal()
    request = meta_agent_pb2.ReadDocumentRequest()
    async with serving_as(member("meta-agent", tmp_path), internal.register) as address:
        async with open_channel(address, membership=member("worker", tmp_path)) as channel:
            stub: Any = meta_agent_pb2_grpc.InternalServiceStub(channel)
            assert [r.chunk async for r in stub.ReadDocument(request, timeout=30)] == [b"text"]
        async with open_channel(address, membership=member("analyst", tmp_path)) as channel:
            stub = meta_agent_pb2_grpc.InternalServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(aiter(stub.ReadDocument(request, timeout=30)))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert internal.served == 1


async def test_replicas_may_ask_each_other_and_no_one_else_may(tmp_path: Path) -> None:
    internal = Internal()
    request = meta_agent_pb2.WatchProgressRequest()
    async with serving_as(member("meta-agent", tmp_path), internal.register) as address:
        for role, served in (("meta-agent", 1), ("worker", 0), ("reducer", 0)):
            async with open_channel(address, membership=member(role, tmp_path)) as channel:
                stub: Any = meta_agent_pb2_grpc.InternalServiceStub(channel)
                call = stub.WatchProgress(request, timeout=30)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    # Until what it says is read, a call has no code.
                    async for _ in call:
                        pass
                expected = "OK" if served else "PERMISSION_DENIED"
                assert (await call.code()).name == expected, role
    assert internal.served == 1


def _forgeries() -> dict[str, tuple[str, str]]:
    now = time.time()
    ours, others = TokenKeys([KEY.encode()]), TokenKeys([OTHER_KEY.encode()])
    expired = TokenKeys([KEY.encode()], clock=lambda: now - 3600)
    return {
        "another installation's": (others.sign("worker", "meta-agent"), "TOKEN_INVALID"),
        "for another service": (ours.sign("worker", "reducer"), "TOKEN_INVALID"),
        "expired": (expired.sign("worker", "meta-agent"), "TOKEN_EXPIRED"),
        "no token": ("worker", "TOKEN_INVALID"),
    }


@pytest.mark.parametrize("kind", _forgeries())
async def test_a_token_that_is_not_genuine_is_refused(tmp_path: Path, kind: str) -> None:
    token, reason = _forgeries()[kind]
    internal = Internal()
    async with (
        serving_as(member("meta-agent", tmp_path), internal.register) as address,
        open_channel(address) as channel,
    ):
        refused = await report(channel, metadata=((HEADER, token),))
    assert isinstance(refused, Unauthenticated)
    assert refused.reason == reason
    assert internal.served == 0


async def test_a_direct_call_without_a_token_is_unauthenticated(tmp_path: Path) -> None:
    internal = Internal()
    async with (
        serving_as(member("meta-agent", tmp_path), internal.register) as address,
        open_channel(address) as channel,
    ):
        refused = await report(channel)
    assert isinstance(refused, Unauthenticated)
    assert refused.reason == "NO_CALLER"
    assert internal.served == 0


async def test_a_stream_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    reducing = Reducing()
    reducer = member("reducer", tmp_path)
    async with (
        serving_as(reducer, reducing.register, name="hma.v1.ReducerService") as address,
        open_channel(address) as nobody,
        open_channel(address, membership=member("worker", tmp_path)) as worker,
        open_channel(address, membership=member("meta-agent", tmp_path)) as meta_agent,
    ):
        for channel, code in (
            (nobody, grpc.StatusCode.UNAUTHENTICATED),
            (worker, grpc.StatusCode.PERMISSION_DENIED),
        ):
            call: Any = reducer_pb2_grpc.ReducerServiceStub(channel).Reduce(timeout=30)
            assert await call.code() is code
        assert reducing.served == 0
        call = reducer_pb2_grpc.ReducerServiceStub(meta_agent).Reduce(timeout=30)
        await call.write(reducer_pb2.ReduceRequest())
        assert await call.read() == reducer_pb2.ReduceResponse()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_an_attempt_that_is_not_let_in_has_spent_nothing(tmp_path: Path) -> None:
    """Keys that are just being changed are no reason to give a task up."""
    reducer = member("reducer", tmp_path, OTHER_KEY)
    reducing = Reducing()
    start = reducer_pb2.ReduceStart()
    start.attempt.time_left.FromSeconds(30)
    async with (
        serving_as(reducer, reducing.register, name="hma.v1.ReducerService") as address,
        open_channel(address, membership=member("meta-agent", tmp_path)) as channel,
        reduce_stream(channel, start) as stream,
    ):
        assert [item async for item in stream] == []
    assert isinstance(stream.outcome, Lost)
    assert stream.outcome.failure_class == common_pb2.FAILURE_CLASS_TRANSIENT
    assert not stream.outcome.admitted
    assert reducing.served == 0


async def test_health_and_reflection_stay_open(tmp_path: Path) -> None:
    async with (
        serving_as(member("meta-agent", tmp_path), Internal().register) as address,
        open_channel(address) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await anext(aiter(watch))).status == answer.status
        watch.cancel()
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        replies = [r async for r in reflection.ServerReflectionInfo(iter(asked), timeout=30)]
        assert replies


async def test_a_service_that_nobody_has_thought_of_is_closed(tmp_path: Path) -> None:
    served = []

    def register(server: grpc.aio.Server) -> None:
        async def do(request: bytes, context: Any) -> bytes:
            served.append(request)
            return b""

        handler: Any = grpc.unary_unary_rpc_method_handler(do)
        generic = grpc.method_handlers_generic_handler("hma.v1.NewService", {"Do": handler})
        server.add_generic_rpc_handlers((generic,))

    token = TokenKeys([KEY.encode()]).sign("meta-agent", "worker")
    server = serving_as(member("worker", tmp_path), register, name="hma.v1.ReducerService")
    async with server as address, open_channel(address) as channel:
        new: Any = channel.unary_unary("/hma.v1.NewService/Do")
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            (((HEADER, token),), grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await new(b"", timeout=30, metadata=metadata)
            assert refused.value.code() is code
    assert served == []


async def test_keys_are_changed_without_a_refused_call(tmp_path: Path) -> None:
    """Added at the end, moved to the front, the old one taken away: file after file."""
    called, caller = tmp_path / "meta-agent-keys", tmp_path / "worker-keys"
    meta_agent, worker = member("meta-agent", tmp_path), member("worker", tmp_path)
    refusals: list[HmaError | None] = []
    async with (
        serving_as(meta_agent, Internal().register) as address,
        open_channel(address, membership=worker) as channel,
    ):

        async def call_for(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                refusals.append(await report(channel))
                await asyncio.sleep(0.05)

        for keys in ((KEY, OTHER_KEY), (OTHER_KEY, KEY), (OTHER_KEY,)):
            for path in (called, caller):
                write(path, "\n".join(keys))
                await call_for(1.2)
        assert set(refusals) == {None}
        old = TokenKeys([KEY.encode()]).sign("worker", "meta-agent")
        async with open_channel(address) as anonymous:
            refused = await report(anonymous, metadata=((HEADER, old),))
    assert isinstance(refused, Unauthenticated)


async def test_without_authentication_nobody_is_asked() -> None:
    open_access = ServiceAccess(auth="none")
    open_member = Membership.of("meta-agent", open_access, PLAIN, "127.0.0.1")
    async with (
        serving_as(open_member, Internal().register) as address,
        open_channel(address) as channel,
    ):
        assert await report(channel) is None


@pytest.mark.parametrize(
    ("access", "host", "said"),
    [
        (ServiceAccess(), "127.0.0.1", "openssl rand -hex 32"),
        (ServiceAccess(auth="none"), "0.0.0.0", "HMA_AUTH_NONE_ANYWHERE"),
        (ServiceAccess(internal_key_file="/nonexistent/key"), "127.0.0.1", "cannot be read"),
    ],
)
def test_a_service_does_not_start_half_open(access: ServiceAccess, host: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Membership.of("worker", access, PLAIN, host)


def test_loopback_is_the_default() -> None:
    assert ServerSettings(port=0, metrics_port=0).host == "127.0.0.1"


async def test_half_close_and_cancellation_are_grpcs_own(tmp_path: Path) -> None:
    """A call of a member is the call that grpc makes, not one of an interceptor's."""
    reducing = Reducing()
    async with (
        serving_as(
            member("reducer", tmp_path), reducing.register, name="hma.v1.ReducerService"
        ) as address,
        open_channel(address, membership=member("meta-agent", tmp_path)) as channel,
    ):
        call: Any = reducer_pb2_grpc.ReducerServiceStub(channel).Reduce(timeout=30)
        assert isinstance(call, grpc.aio.StreamStreamCall)
        await call.write(reducer_pb2.ReduceRequest())
        await call.read()
        assert call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
