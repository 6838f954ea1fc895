"""What the tests of the HTTP client share: timers, answers, and a server that is no more than its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from common.upstream.http import HttpAnswer, HttpClient, Timers
from tests.common.raw_upstream import HEAD_JSON

SOON = 0.05
"""A timer that runs out at once."""
NEVER = 30.0


def timers(
    *, connect: float = NEVER, first: float = NEVER, gap: float = NEVER, total: float = NEVER, alive: float = NEVER
) -> Timers:
    """Return timers that do not run out but for those that are given."""
    return Timers(
        connect_timeout_seconds=connect,
        first_byte_timeout_seconds=first,
        chunk_timeout_seconds=gap,
        total_timeout_seconds=total,
        keep_alive_seconds=alive,
    )


def json_answer(body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> bytes:
    """Return an answer with a body of known length; ``headers`` end with a line end each."""
    head = HEAD_JSON.replace(b"200 OK", status.encode())
    return head + headers + f"content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(eq=False)
class Peer:
    """The server's end of one connection."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has closed its end, if somebody has read up to there."""

    async def head(self) -> str:
        """Read a request's head."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def request(self) -> tuple[str, bytes]:
        """Read a whole request."""
        head = await self.head()
        length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        body = await self.reader.readexactly(int(length or 0))
        self.requests.append((head, body))
        return head, body

    async def send(self, data: bytes) -> None:
        """Write and wait until it is out."""
        self.writer.write(data)
        await self.writer.drain()

    async def until_closed(self) -> int:
        """Read until the client has closed its end, and return how many bytes came."""
        size = 0
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(1 << 20):
                size += len(data)
        self.closed.set()
        return size


@dataclass
class Server:
    """The running server."""

    url: str
    peers: list[Peer] = field(default_factory=list)


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[Peer], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Give each connection to ``serve``, and fail when it fails; what it leaves open is closed at the end."""
    server = Server("")
    tasks: set[asyncio.Task[None]] = set()

    async def run(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(peer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(server.peers), reader, writer)
        server.peers.append(peer)
        tasks.add(asyncio.create_task(run(peer)))

    listener = await asyncio.start_server(accept, host, port, ssl=tls)
    bound = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}/v1"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for peer in server.peers:
            peer.writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await peer.writer.wait_closed()
        assert [error for error in results if isinstance(error, Exception)] == []


@contextlib.asynccontextmanager
async def asked(client: HttpClient, url: str, body: bytes = b"{}") -> AsyncIterator[HttpAnswer]:
    """Post a request, and close its answer at the end."""
    answer = await client.post(url, body=body, headers={"content-type": "application/json"})
    try:
        yield answer
    finally:
        answer.close()


async def fetch(client: HttpClient, url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    """Return the status and the whole body of an answer."""
    async with asked(client, url, body) as answer:
        return answer.status, await answer.read()
