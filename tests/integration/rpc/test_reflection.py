"""Whether a server says what it serves."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from hma.rpc.channel import open_channel
from hma.rpc.server import ServerSettings, Service, bind


@pytest.mark.parametrize("on", [True, False])
async def test_reflection_is_a_matter_of_settings(on: bool) -> None:
    settings = ServerSettings(port=0, metrics_port=0, reflection=on)
    hidden = Service("hidden.v1.Service", lambda server: None, described=False)
    shown = Service("hma.v1.WorkerService", lambda server: None)
    server, health, port = bind(settings, [hidden, shown], CollectorRegistry())
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            call = stub.ServerReflectionInfo(iter([question]), timeout=30)
            if on:
                answer = await anext(aiter(call))
                names = {each.name for each in answer.list_services_response.service}
                assert "hma.v1.WorkerService" in names
                assert "hidden.v1.Service" not in names
            else:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await anext(aiter(call))
                assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
            # Health is open either way.
            checked = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=30
            )
            assert checked.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        await health.drain()
        await server.stop(0)
