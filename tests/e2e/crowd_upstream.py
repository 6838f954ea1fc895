"""A provider that keeps every stream open until all of a crowd are there, and numbers what it sends."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NUMBER: Final = re.compile(rb"stream number (\d+)")
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ANSWER_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_ANSWER: Final = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"crowd","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"Yes."}}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
)


def stream_body(number: int) -> bytes:
    """Return the body of the request for a stream."""
    content = b"stream number %d" % number
    return b'{"model":"crowd","stream":true,"messages":[{"role":"user","content":"' + content + b'"}]}'


def event(number: int, place: int) -> bytes:
    """Return one event of a stream: no other stream has it, and this one has it once."""
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"crowd",'
        b'"choices":[{"index":0,"delta":{"content":"%d of stream %d"}}]}\n\n' % (place, number)
    )


class CrowdUpstream:
    """Begins each stream at once, and goes on when ``streams`` of them have begun."""

    def __init__(self, *, streams: int, events: int, interval_seconds: float) -> None:
        self._streams = streams
        self._events = events
        self._interval_seconds = interval_seconds
        self._open = 0
        self._all_there = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.most_at_once = 0

    @asynccontextmanager
    async def listening(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve while the context is open."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=4096)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def go_on(self) -> None:
        """Let the streams go on that have begun, though others are missing."""
        self._all_there.set()

    def begin(self, number: int, transport: asyncio.WriteTransport) -> None:
        """Write a stream, in a task of its own."""
        task = asyncio.ensure_future(self._write(number, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, number: int, transport: asyncio.WriteTransport) -> None:
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        transport.write(_HEAD + _chunk(event(number, 0)))
        if self._open == self._streams:
            self._all_there.set()
        await self._all_there.wait()
        # Spread over the interval, as streams are that have nothing to do with each other.
        await asyncio.sleep(self._interval_seconds * number / self._streams)
        for place in range(1, self._events):
            await asyncio.sleep(self._interval_seconds)
            transport.write(_chunk(event(number, place)))
        self._open -= 1
        transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


class _Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, upstream: CrowdUpstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or self._transport is None or len(body) < int(length[1] if length else 0):
            return
        self._received = b""
        number = _NUMBER.search(body)
        if number:
            self._upstream.begin(int(number[1]), self._transport)
        else:
            self._transport.write(_ANSWER_HEAD % len(_ANSWER) + _ANSWER)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
