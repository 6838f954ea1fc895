"""Channels between services: no proxy of the operator is on their way."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.serving.channel import inner_channel
from common.serving.server import Server
from tests.common.environment import environment
from tests.common.running import ROUTES


def _stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)  # its types know no asynchronous channel


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
async def test_a_proxy_in_the_environment_is_not_asked(name: str) -> None:
    server = Server(routes=ROUTES, servicers=[], interceptors=[])
    port = await server.start("127.0.0.1:0")
    with environment({name: "http://127.0.0.1:1"}):
        async with inner_channel(f"127.0.0.1:{port}") as channel:
            answer = await _stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        # Otherwise this test sees nothing.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await _stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    await server.stop(grace_seconds=0)
