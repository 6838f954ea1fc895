"""What the edge refuses by itself: in the dialect of the path, readable to web pages, and the same every time."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_reflection.v1alpha import reflection_pb2_grpc

from tests.e2e.stack import Stack, running_stack
from turnpike.chat.v1 import chat_pb2, chat_pb2_grpc

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
ORIGIN = {"origin": "https://app.example"}
LARGE = 32_000_000
_LARGE_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n%b\r\ncontent-length: 33000000\r\n\r\n"


def test_headers_up_to_64_kib_are_taken_and_more_are_431(stack: Stack) -> None:
    with stack.client() as client:
        for size in (4_000, 9_000, 15_000, 20_000, 50_000):
            answers = {client.post(CHAT, json=HELLO, headers={"cookie": "a" * size}).status_code for _ in range(5)}
            assert answers == {200}, size
        for size in (66_000, 100_000, 400_000):
            answer = client.post(CHAT, json=HELLO, headers={"cookie": "a" * size, **ORIGIN})
            assert answer.status_code == 431
            assert answer.json()["error"]["code"] == "headers_too_large"
            assert answer.headers["access-control-allow-origin"] == "*"
        for count, status in ((101, 200), (900, 200), (1100, 431)):
            many = {f"x-{number}": "1" for number in range(count)}
            assert client.post(CHAT, json=HELLO, headers=many).status_code == status, count
        # A credential may be as large, though no token is.
        assert client.post(CHAT, json=HELLO, headers={"x-api-key": "a" * 40_000}).status_code == 200
        assert client.get("/v1/usage", params=[("hours", "1"), *[("x", "1")] * 3000]).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "x-a-bin: !!!",
        "x!a: b",
        "grpc-timeout: abc",
        "grpc-timeout: 1n",
        "grpc-encoding: zstd",
        "te: trailers, x",
        "grpc-previous-rpc-attempts: x",
        "grpc-trace-bin: *",
        "user-agent: \u2603",
        "x-envoy-original-path: /x",
    ],
)
def test_headers_that_no_service_reads_change_nothing(stack: Stack, header: str) -> None:
    status, body = _raw(stack, header.encode())
    assert status == 200, body


@pytest.mark.parametrize("header", ["openai-beta: \u2603", "authorization: Bearer \u2603", "x-api-key: \u00e9"])
def test_a_header_that_is_read_must_be_printable(stack: Stack, header: str) -> None:
    status, body = _raw(stack, header.encode())
    assert status == 400
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def _raw(stack: Stack, header: bytes) -> tuple[int, bytes]:
    content = json.dumps(HELLO).encode()
    with socket.create_connection(("127.0.0.1", stack.port), timeout=20) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\napi-key: " + stack.token.encode() + b"\r\n" + header
        )
        client.sendall(b"\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content) + content)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, answer.read()


async def test_an_http_callers_deadline_leaves_other_callers_calls_alone(stack: Stack) -> None:
    for _ in range(6):
        await asyncio.to_thread(_raw, stack, b"grpc-timeout: abc")
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=[chat_pb2.ContentPart(text="Hello")])
    request = chat_pb2.CompleteChatRequest(chat=chat_pb2.Chat(model="demo", messages=[message]))
    for _ in range(8):
        # Connections of their own, so that both of Envoy's workers are asked.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port}", options=options) as channel:
            call = chat_pb2_grpc.ChatServiceStub(channel).CompleteChat
            answer = await call(request, metadata=(("authorization", f"Bearer {stack.token}"),), timeout=20)
            assert answer.usage.total_tokens > 0


def test_a_malformed_deadline_is_refused_and_malformed_metadata_are_dropped(stack: Stack) -> None:
    with httpx.Client(base_url=stack.url, http1=True, trust_env=False) as client:
        call = {"content-type": "application/grpc", "te": "trailers", "api-key": stack.token}
        path, empty = "/turnpike.chat.v1.ChatService/CompleteChat", b"\0\0\0\0\0"
        refused = client.post(path, content=empty, headers={**call, "grpc-timeout": "abc"})
        odd = {"grpc-trace-bin": "!!", "my-bin": "a=b", "x!y": "1", "grpc-encoding": "bogus", "grpc-what": "1"}
        dropped = client.post(path, content=empty, headers={**call, **odd, "grpc-timeout": "5S"})
        no_call = client.post(path, content=b"{}", headers={**call, "content-type": "application/json"})
    assert refused.headers["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])
    assert refused.headers["grpc-message"] == "The header grpc-timeout is malformed."
    # The service has read the call: it lacks a model.
    assert dropped.headers["grpc-status"] == str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert no_call.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nowhere", 404),
        ("GET", CHAT, 405),
        ("POST", CHAT, 401),
        ("DELETE", "/v1/api-tokens/%ff%fe", 400),
        ("GET", "/v1/chroma/%FF%FE", 401),
        ("POST", "/v1/chroma/api/v2/x", 401),
    ],
)
def test_every_refusal_is_readable_to_web_pages_and_in_the_dialect_of_the_path(
    stack: Stack, method: str, path: str, status: int
) -> None:
    with stack.client(credential="") as client:
        answer = client.request(method, path, headers=ORIGIN)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-request-id"]
    assert set(answer.json()) == ({"error", "message"} if path.startswith("/v1/chroma") else {"error"})


def test_a_query_parameter_does_not_replace_the_id_of_the_path(stack: Stack) -> None:
    with stack.client(credential=stack.jwt_of("query")) as client:
        for parameter in ("token_id", "tokenId"):
            kept, deleted = (stack.new_token("query")["id"] for _ in range(2))
            answer = client.delete(f"/v1/api-tokens/{deleted}", params={parameter: kept})
            assert answer.status_code == 204
            left = {token["id"] for token in client.get("/v1/api-tokens").json()["data"]}
            assert kept in left
            assert deleted not in left


def test_bodies_without_a_credential_are_not_kept(stack: Stack) -> None:
    envoy = _envoy(stack)
    before = envoy.memory_info().rss
    with contextlib.ExitStack() as open_connections:
        for _ in range(8):
            client = open_connections.enter_context(socket.create_connection(("127.0.0.1", stack.port), timeout=20))
            client.sendall(_LARGE_HEAD % b"accept: */*" + b"x" * LARGE)
        assert envoy.memory_info().rss - before < LARGE
        # Whoever sends it whole is told why it was refused, on a connection that goes on.
        client.sendall(b"x" * (33_000_000 - LARGE))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 401
        assert json.loads(answer.read())["error"]["type"] == "authentication_error"
        assert answer.getheader("connection") is None


@pytest.mark.parametrize(
    "credential", ["authorization: Bearer tp_made_up", "x-api-key: made-up", "authorization: Basic YTpi"]
)
def test_large_bodies_with_a_made_up_credential_are_not_taken_in(stack: Stack, credential: str) -> None:
    envoy = _envoy(stack)
    before = envoy.memory_info().rss
    with contextlib.ExitStack() as open_connections, ThreadPoolExecutor(8) as senders:
        clients = []
        for _ in range(8):
            client = open_connections.enter_context(socket.create_connection(("127.0.0.1", stack.port), timeout=20))
            client.sendall(_LARGE_HEAD % credential.encode())
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 401
            clients.append(client)
        # Envoy waits a second before it closes each, so all send at once.
        list(senders.map(_send_body, clients))
        assert envoy.memory_info().rss - before < LARGE
    with stack.client() as client_of_demo:
        assert client_of_demo.post(CHAT, json={**HELLO, "user": "x" * 300_000}).status_code == 200
        assert client_of_demo.post(CHAT, content=iter([json.dumps(HELLO).encode()])).status_code == 200


def _send_body(client: socket.socket) -> None:
    """Send as much of a large body as the edge takes before it closes the connection."""
    with contextlib.suppress(OSError):
        client.sendall(b"x" * LARGE)


def _envoy(stack: Stack) -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process(stack.process.pid).children()
        if str(stack.state / "envoy") in str(child.cmdline())
    )
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway that does little at once, answers without a credential, and knows one origin."""
    settings = {
        "TURNPIKE_EDGE_MEMORY_MIB": "192",
        "TURNPIKE_EDGE_REQUEST_SECONDS": "2",
        "TURNPIKE_EDGE_REFLECTION": "0",
        "TURNPIKE_MAX_CONCURRENT_CALLS": "16",
        "API_AUTH_REQUIRED": "0",
        "TURNPIKE_CORS_ORIGINS": "https://known.example, http://localhost:3000",
        "CHROMA_BASE_URL": "http://127.0.0.1:9",
    }
    with running_stack(tmp_path_factory.mktemp("small"), settings) as running:
        yield running


def test_memory_is_bounded_where_everybody_may_send_bodies(small: Stack) -> None:
    with contextlib.ExitStack() as open_connections:
        for _ in range(16):
            client = open_connections.enter_context(socket.create_connection(("127.0.0.1", small.port), timeout=20))
            # Beyond its limit the edge takes no more.
            with contextlib.suppress(OSError):
                client.sendall(_LARGE_HEAD % b"accept: */*" + b"x" * LARGE)
        assert _envoy(small).memory_info().rss < 400 * 2**20
    small.wait_until_ready()


def test_a_slow_body_ends(small: Stack) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 408
        assert json.loads(answer.read())["error"]["code"] == "request_timeout"


def test_too_many_calls_are_429_with_the_envelope(small: Stack) -> None:
    slow = {**HELLO, "sandbox": {"first_byte_delay_seconds": 1.5}}
    answers: list[httpx.Response] = []

    def ask() -> None:
        with small.client() as client:
            answers.append(client.post(CHAT, json=slow, headers={"sec-fetch-site": "same-origin", **ORIGIN}))

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    for answer in refused:
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert answer.headers["retry-after"]


def test_web_pages_of_other_origins_do_not_use_what_is_open(small: Stack) -> None:
    with small.client(credential="") as client:
        for path, method in (("/v1/usage", "GET"), (CHAT, "POST"), ("/v1/usage", "OPTIONS")):
            asked = {"access-control-request-method": "GET"} if method == "OPTIONS" else {}
            answer = client.request(method, path, headers={**ORIGIN, "sec-fetch-site": "cross-site", **asked})
            assert answer.status_code == 403, path
        known = {"origin": "https://known.example", "sec-fetch-site": "cross-site"}
        for answer in (client.get("/v1/usage", headers=known), client.post(CHAT, json=HELLO, headers=known)):
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://known.example"
            assert answer.headers["vary"] == "origin"
        assert "access-control-allow-origin" not in client.get("/v1/usage").headers


def test_usage_without_a_key_is_open_but_not_to_web_pages(stack: Stack) -> None:
    with stack.client(credential="") as client:
        assert client.get("/v1/usage", headers=ORIGIN).status_code == 403
        asked = {**ORIGIN, "access-control-request-method": "GET"}
        assert client.options("/v1/usage", headers=asked).status_code == 403
        own_page = client.get("/v1/usage", headers={**ORIGIN, "sec-fetch-site": "same-origin"})
        assert own_page.status_code == 200
        assert "access-control-allow-origin" not in own_page.headers


async def test_reflection_can_be_closed(small: Stack) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{small.port}") as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore  # its types know no aio
        # Nothing is sent: a message that meets a call which was refused already is INTERNAL to the client.
        assert await stub.ServerReflectionInfo().code() is grpc.StatusCode.UNIMPLEMENTED
