"""Streams through the whole path: nothing held back, nothing piled up, nothing running on for nobody."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.e2e.stack import Stack, running_stack
from tests.e2e.upstream import DONE, EVENT, HEAD, Exchange, Upstream, chunk
from tests.ports import reserved_ports

SETTINGS = {
    "OPENAI_API_KEY": "sk-the-operators-own-key",
    "TURNPIKE_KEEP_ALIVE_SECONDS": "0.2",
    "TURNPIKE_CHUNK_TIMEOUT_SECONDS": "1.5",
    "TURNPIKE_FIRST_BYTE_TIMEOUT_SECONDS": "1",
}


@pytest.fixture(scope="module")
def own_upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, int]]:
    """A gateway whose provider is a port on which each test listens."""
    with reserved_ports() as ports:
        settings = {**SETTINGS, "OPENAI_BASE_URL": f"http://127.0.0.1:{ports[0]}/v1"}
        with running_stack(tmp_path_factory.mktemp("streaming"), settings) as stack:
            yield stack, ports[0]


class Client:
    """A raw HTTP client, because it must see every write and be able to stop reading."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """Return the answer's head."""
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)

    async def piece(self) -> bytes:
        """Return the next chunk of the body, b"" at its end."""
        size = int((await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 30)).strip(), 16)
        return (await asyncio.wait_for(self.reader.readexactly(size + 2), 30))[:-2]


@asynccontextmanager
async def streaming(stack: Stack, *, extra: bytes = b"", receive_buffer: int | None = None) -> AsyncIterator[Client]:
    """Ask for a stream."""
    raw = socket.socket()
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.settimeout(0)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", stack.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096 if receive_buffer else 65536)
    body = b'{"model":"m","stream":true,"messages":[]}'
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n%scontent-length: %d\r\n\r\n%s"
        % (stack.token.encode(), extra, len(body), body)
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


Serve = Callable[[Exchange], Awaitable[None]]


async def test_events_leave_whole_and_together_and_none_waits_for_the_next(own_upstream: tuple[Stack, int]) -> None:
    stack, port = own_upstream
    go = asyncio.Queue[bytes]()

    async def serve(exchange: Exchange) -> None:
        await exchange.send(HEAD)
        while data := await go.get():
            await exchange.send(chunk(data))
        await exchange.send(b"0\r\n\r\n")

    async with Upstream(serve).listening(port), streaming(stack) as client:
        go.put_nowait(EVENT)
        assert b" 200 " in await client.head()
        # Nothing more has left the provider when the first event is read whole.
        assert await client.piece() == EVENT
        go.put_nowait(EVENT[:40])
        go.put_nowait(EVENT[40:] + EVENT)
        # Half an event waits for its other half, and what came with that leaves with it.
        assert await client.piece() == EVENT + EVENT
        go.put_nowait(DONE)
        assert await client.piece() == DONE
        go.put_nowait(b"")
        assert await client.piece() == b""


async def test_silence_is_filled_with_comments_until_the_timer_ends_it(own_upstream: tuple[Stack, int]) -> None:
    stack, port = own_upstream

    async def serve(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(EVENT))
        assert await exchange.gone()

    async with Upstream(serve).listening(port), streaming(stack) as client:
        await client.head()
        pieces = []
        while piece := await client.piece():
            pieces.append(piece)
    assert pieces[0] == EVENT
    assert set(pieces[1:-1]) == {b": ping\n\n"}
    assert 4 <= len(pieces[1:-1]) <= 8
    assert json.loads(pieces[-1][6:])["error"]["code"] == "upstream_timeout"


async def test_a_client_that_leaves_ends_the_call_to_the_provider(own_upstream: tuple[Stack, int]) -> None:
    stack, port = own_upstream
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def serve(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(EVENT))
        ended.set_result(await exchange.gone())

    async with Upstream(serve).listening(port):
        async with streaming(stack) as client:
            await client.head()
            assert await client.piece() == EVENT
        # Well before the chunk timer, which would end it too.
        assert await asyncio.wait_for(ended, 1.2)


async def test_a_client_that_does_not_read_stops_the_provider(own_upstream: tuple[Stack, int]) -> None:
    stack, port = own_upstream
    sent = 0
    blocked = asyncio.Event()
    large = b'data: {"choices":[{"delta":{"content":"' + b"x" * 32_000 + b'"}}]}\n\n'

    async def serve(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(HEAD)
        try:
            while sent < 2000 * len(large):
                await asyncio.wait_for(exchange.send(chunk(large)), 0.8)
                sent += len(large)
        except TimeoutError:
            blocked.set()

    async with Upstream(serve).listening(port), streaming(stack, receive_buffer=8192) as client:
        await client.head()
        await asyncio.wait_for(blocked.wait(), 30)
    # Sockets, Envoy and gRPC hold a few megabytes between them; without backpressure it would be all of the 64 MB.
    assert sent < 24_000_000


async def test_only_what_the_provider_needs_reaches_it_and_no_secret_comes_back(
    own_upstream: tuple[Stack, int],
) -> None:
    stack, port = own_upstream
    seen: list[Exchange] = []

    async def serve(exchange: Exchange) -> None:
        seen.append(exchange)
        text = b'{"error":{"message":"Incorrect API key provided: sk-the-operators-own-key."}}'
        await exchange.send(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n" % len(text) + text)

    extra = (
        b"OpenAI-Organization: org-1\r\nOpenAI-Project: proj-1\r\ncookie: secret=1\r\nx-request-id: trace-me\r\n"
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    )
    async with Upstream(serve).listening(port), streaming(stack, extra=extra) as client:
        assert b" 401 " in await client.head()
        answer = await client.piece()
    head = seen[0].head.lower()
    assert b"\r\nauthorization: bearer sk-the-operators-own-key\r\n" in head
    assert b"\r\nopenai-organization: org-1\r\n" in head
    assert b"\r\nopenai-project: proj-1\r\n" in head
    assert b"\r\nx-request-id: trace-me\r\n" in head
    assert b"\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-" in head
    assert stack.token.encode().lower() not in head
    assert b"cookie" not in head
    assert json.loads(seen[0].body)["stream_options"] == {"include_usage": True}
    assert b"sk-the-operators-own-key" not in answer


async def test_headers_of_the_operators_account_stay_behind(own_upstream: tuple[Stack, int]) -> None:
    stack, port = own_upstream

    async def serve(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(EVENT) + chunk(DONE) + b"0\r\n\r\n")

    async with Upstream(serve).listening(port), streaming(stack) as client:
        head = (await client.head()).lower()
    assert b"openai-organization" not in head
    assert b"set-cookie" not in head


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b"", 502, "upstream_failed"),
        (HEAD, 502, "upstream_cut"),
        (HEAD + chunk(EVENT[:20]), 502, "upstream_cut"),
        (HEAD + chunk(b"data: nonsense\n\n"), 502, "upstream_cut"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", 502, "upstream_cut"),
        (b"nonsense\r\n\r\n", 502, "upstream_malformed"),
    ],
)
async def test_what_fails_before_the_first_event_is_a_status(
    own_upstream: tuple[Stack, int], answer: bytes, status: int, code: str
) -> None:
    stack, port = own_upstream

    async def serve(exchange: Exchange) -> None:
        await exchange.send(answer)

    async with Upstream(serve).listening(port), streaming(stack) as client:
        head = await client.head()
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        error = json.loads(await client.reader.readexactly(length))["error"]
    assert f" {status} ".encode() in head
    assert error["code"] == code


async def test_a_provider_that_says_nothing_is_a_504(own_upstream: tuple[Stack, int]) -> None:
    stack, port = own_upstream

    async def serve(exchange: Exchange) -> None:
        assert await exchange.gone()

    async with Upstream(serve).listening(port), streaming(stack) as client:
        assert b" 504 " in await client.head()


async def test_a_provider_that_is_down_is_a_502(own_upstream: tuple[Stack, int]) -> None:
    stack, _ = own_upstream
    async with streaming(stack) as client:
        assert b" 502 " in await client.head()
