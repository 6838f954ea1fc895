"""An HTTP server made of raw sockets, whose every byte a test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

HEAD_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
HEAD_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return the data as one chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Request:
    """A request as it came in, and the connection that it came on."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: Connection


@dataclass(eq=False)
class Connection:
    """The server's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has gone."""

    async def send(self, data: bytes) -> None:
        """Write and wait until it is out."""
        self.writer.write(data)
        await self.writer.drain()

    async def wait_for_the_client_to_leave(self) -> None:
        """Return once the client has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.closed.set()

    def reset(self) -> None:
        """Drop the connection without a farewell."""
        self.writer.transport.abort()


Answer = Callable[[Request], Awaitable[None]]


@dataclass
class Upstream:
    """The running server: where it is, and what it got."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Upstream]:
    """Answer every request with ``answer``, which writes what it likes to the request's connection."""
    upstream = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(connection: Connection) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await _read_request(connection)
                upstream.requests.append(request)
                await answer(request)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        upstream.connections.append(connection)
        tasks.add(asyncio.create_task(serve(connection)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    upstream.url = f"http://{host}:{port}/v1/chat/completions"
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for connection in upstream.connections:
            connection.writer.close()
            with contextlib.suppress(ConnectionError):
                await connection.writer.wait_closed()
        failures = [error for error in results if isinstance(error, Exception)]
        assert failures == []


async def _read_request(connection: Connection) -> Request:
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    body = await connection.reader.readexactly(int(headers.get("content-length", "0")))
    return Request(line, headers, body, connection)
