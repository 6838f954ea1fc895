"""Waits until the parts of a stack say that they are healthy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.config import CHROMA_SERVER, ENVOY, HOST, SANDBOX, LocalSettings
from deploy.local.environment import chroma_url

_POLL_SECONDS = 0.05
_CALL_SECONDS = 2.0
_REPORT_SECONDS = 5.0
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
)


async def wait_until_healthy(settings: LocalSettings, *, report: Callable[[Sequence[str], float], None]) -> None:
    """Return when all parts are healthy; ``report`` is called as by ``wait_for``."""
    ports = settings.ports
    async with httpx.AsyncClient(trust_env=False, timeout=_CALL_SECONDS) as client:
        waits: dict[str, Awaitable[None]] = {
            **{name: grpc_serving(port) for name, port in ports.services.items()},
            ENVOY: http_ok(client, f"http://{HOST}:{ports.admin}/ready"),
        }
        if settings.uses_sandbox:
            waits[SANDBOX] = http_ok(client, f"http://{HOST}:{ports.sandbox}/health")
        if settings.uses_chroma_server:
            waits[CHROMA_SERVER] = http_ok(client, f"{chroma_url(ports)}/api/v2/heartbeat")
        await wait_for(waits, report=report)


async def wait_for(
    waits: Mapping[str, Awaitable[None]],
    *,
    report: Callable[[Sequence[str], float], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Wait for all at once, however long it takes; the runner ends this process when a part has died.

    Every 5 seconds ``report`` gets the sorted names of those that are not there yet and the seconds that have passed.
    """
    began = now()
    tasks = {name: asyncio.ensure_future(wait) for name, wait in waits.items()}
    everything: asyncio.Future[Any] = asyncio.gather(*tasks.values())
    try:
        while True:
            tick: asyncio.Future[Any] = asyncio.ensure_future(sleep(_REPORT_SECONDS))
            await asyncio.wait([everything, tick], return_when=asyncio.FIRST_COMPLETED)
            tick.cancel()
            if everything.done():
                everything.result()
                return
            report(sorted(name for name, task in tasks.items() if not task.done()), now() - began)
    finally:
        everything.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def grpc_serving(port: int) -> None:
    """Return when the gRPC server on the port reports SERVING."""
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=_CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types know no asynchronous channel
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=_CALL_SECONDS)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(_POLL_SECONDS)


async def http_ok(client: httpx.AsyncClient, url: str) -> None:
    """Return when a GET is answered with 200."""
    while True:
        try:
            if (await client.get(url)).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(_POLL_SECONDS)
