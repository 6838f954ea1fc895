"""A real Envoy in front of services that answer as the test says: what callers get of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from pydantic import SecretStr

from common.settings import MAX_BODY_BYTES
from deploy.envoy.settings import EdgeSettings
from deploy.local.envoy import write_envoy
from tests.e2e.stack import bounded
from tests.ports import reserved_ports
from turnpike.auth.v1 import auth_pb2

CHAT: Final = "/v1/chat/completions"
KEY: Final = "service-key-of-the-test"
GOOD: Final = {"x-api-key": "good"}
Serve = Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[bytes]]


class Services(grpc.GenericRpcHandler):
    """All services at once: ``serve`` answers each call but those of auth, which know one credential."""

    def __init__(self) -> None:
        self.serve: Serve = answer(b"{}", content_type="application/json")
        self.seen: dict[str, str | bytes] = {}
        self.asked: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method == "/turnpike.auth.v1.AuthService/Authenticate":
            self.seen = dict(handler_call_details.invocation_metadata or ())
            return grpc.unary_unary_rpc_method_handler(self._authenticate)
        self.seen = dict(handler_call_details.invocation_metadata or ())
        return grpc.unary_unary_rpc_method_handler(self._serve)

    async def _serve(self, _: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return await self.serve(context)

    async def _authenticate(self, message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        assert self.seen["x-turnpike-service-key"] == KEY
        credential = auth_pb2.AuthenticateRequest.FromString(message).credential
        self.asked.append(credential)
        if credential != "good":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown")
        return b""


def answer(data: bytes, *, content_type: str) -> Serve:
    async def serve(_: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        message: bytes = HttpBody(data=data, content_type=content_type).SerializeToString()
        return message

    return serve


def refusal(code: grpc.StatusCode, *trailers: tuple[str, str]) -> Serve:
    async def serve(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await context.abort(code, "words of the runtime", trailers)
        raise AssertionError

    return serve


@asynccontextmanager
async def running_edge(directory: Path, services: Services) -> AsyncIterator[httpx.AsyncClient]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((services,))
    backend = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        port, admin_port = stack.enter_context(reserved_ports(2))
        backends = dict.fromkeys(("auth", "chat", "chroma", "ocr", "usage"), backend)
        settings = EdgeSettings(service_key=SecretStr(KEY))
        config = write_envoy(directory, port=port, admin_port=admin_port, backends=backends, settings=settings)
        envoy = [str(Path(sys.executable).with_name("envoy")), "-c", str(config), "--disable-hot-restart"]
        with (directory / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *envoy, "--concurrency", "1", env={"PATH": os.environ["PATH"]}, stdout=log, stderr=log
            )
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)
        await stack.enter_async_context(client)
        for _ in bounded(30):
            try:
                assert (await client.get(f"http://127.0.0.1:{admin_port}/ready")).status_code == 200
                break
            except httpx.TransportError:
                assert process.returncode is None, (directory / "log").read_text()
        client.headers["x-admin-port"] = str(admin_port)
        yield client


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
async def edge(tmp_path: Path, services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with running_edge(tmp_path, services) as client:
        yield client


@pytest.mark.parametrize(
    ("code", "status", "type_", "chromas"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_error", "RateLimitError"),
        (grpc.StatusCode.UNAVAILABLE, 503, "server_error", "InternalError"),
        (grpc.StatusCode.UNIMPLEMENTED, 501, "invalid_request_error", "InternalError"),
        (grpc.StatusCode.INTERNAL, 500, "server_error", "InternalError"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "server_error", "InternalError"),
        (grpc.StatusCode.CANCELLED, 499, "server_error", "InternalError"),
    ],
)
async def test_what_grpc_itself_refuses_has_the_body_of_the_path(
    edge: httpx.AsyncClient, services: Services, *, code: grpc.StatusCode, status: int, type_: str, chromas: str
) -> None:
    services.serve = refusal(code)
    chat = await edge.post(CHAT, headers=GOOD)
    chroma = await edge.post("/v1/chroma/api/v2/x", headers=GOOD)
    head = await edge.head("/v1/chroma/api/v2/x", headers=GOOD)
    assert (chat.status_code, chroma.status_code, head.status_code) == (status, status, status)
    assert chat.json()["error"]["type"] == type_
    assert chroma.json()["error"] == chromas
    assert head.content == b""
    for found in (chat, chroma, head):
        assert found.headers["content-type"] == "application/json"
        assert found.headers["access-control-allow-origin"] == "*"
        assert ("retry-after" in found.headers) is (status in (429, 503))
        assert not [name for name in found.headers if name.startswith(("grpc-", "x-envoy-"))]


async def test_a_service_chooses_status_and_body(edge: httpx.AsyncClient, services: Services) -> None:
    chosen = (("x-http-status", "404"), ("x-error-body", '{"error":"chosen"}'), ("retry-after", "7"))
    services.serve = refusal(grpc.StatusCode.NOT_FOUND, *chosen)
    found = await edge.post(CHAT, headers=GOOD)
    assert (found.status_code, found.json(), found.headers["retry-after"]) == (404, {"error": "chosen"}, "7")
    assert "x-http-status" not in found.headers


async def test_a_stream_is_not_kept_back_and_other_answers_may_be(edge: httpx.AsyncClient, services: Services) -> None:
    plain = await edge.post(CHAT, headers=GOOD)
    services.serve = answer(b"data: x\n\n", content_type="text/event-stream; charset=utf-8")
    stream = await edge.post(CHAT, headers=GOOD)
    assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "cache-control" not in plain.headers


async def test_only_listed_headers_reach_a_service(edge: httpx.AsyncClient, services: Services) -> None:
    dropped = {
        "cookie": "a",
        "x-envoy-original-path": "/forged",
        "grpc-timeout": "1n",
        "te": "trailers",
        "x-a-bin": "!",
    }
    kept = {"openai-beta": "b", "traceparent": "00-1", "x-request-id": "one.of/mine", **GOOD}
    assert (await edge.post(CHAT, headers={**dropped, **kept})).status_code == 200
    assert {name: services.seen.get(name) for name in kept} == kept
    assert services.seen["x-envoy-original-path"] == CHAT
    assert not {"cookie", "grpc-timeout", "x-a-bin", "accept", "user-agent-of-the-client"} & services.seen.keys()


async def test_the_credential_of_a_large_body_is_asked_about_first(edge: httpx.AsyncClient, services: Services) -> None:
    large = b"x" * 200_000
    assert (await edge.post(CHAT, content=b"x" * 1000, headers={"x-api-key": "made-up"})).status_code == 200
    assert services.asked == []
    for header, status in (("Bearer good", 200), ("Bearer made-up", 401), ("Basic good", 401)):
        found = await edge.post(CHAT, content=large, headers={"authorization": header})
        assert found.status_code == status
    assert services.asked == ["good", "made-up"]


async def test_a_body_of_32_mib_is_taken_and_a_larger_one_is_413(edge: httpx.AsyncClient) -> None:
    assert (await edge.post(CHAT, content=b"x" * MAX_BODY_BYTES, headers=GOOD)).status_code == 200
    for path in (CHAT, "/v1/chroma/api/v2/x"):
        found = await edge.post(path, content=b"x" * (MAX_BODY_BYTES + 2**20), headers=GOOD)
        assert found.status_code == 413
        assert found.headers["access-control-allow-origin"] == "*"
        assert "32 MiB" in found.text
        assert found.json()["error"]


async def test_http_1_0_is_served_and_the_admin_page_changes_nothing(edge: httpx.AsyncClient) -> None:
    host, port = edge.base_url.host, edge.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /v1/chroma/api/v2/x HTTP/1.0\r\nx-api-key: good\r\n\r\n")
    head = await reader.readline()
    writer.close()
    assert head == b"HTTP/1.0 200 OK\r\n"
    admin = f"http://127.0.0.1:{edge.headers['x-admin-port']}"
    for path in ("/quitquitquit", "/stats/recentlookups/clear", "/config_dump", "/"):
        assert (await edge.post(admin + path)).status_code == 403
    assert (await edge.get(f"{admin}/stats/prometheus")).status_code == 200
