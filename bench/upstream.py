"""A provider far faster than what is measured: python -m bench.upstream PORT.

It parses as little as it can, and one timer for each pace serves all streams of that pace: 15,000 events a second cost
a fraction of a core.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import deque
from typing import Final, cast

import uvloop

from bench.messages import ANSWER, DONE, EVENT, USAGE_EVENT
from deploy.local.config import HOST

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM: Final = re.compile(rb'"bench_events":(\d+),"bench_rate":(\d+)')
_JSON_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
_WHOLE: Final = _JSON_HEAD + ANSWER
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# Two wake-ups are never closer than this: what falls due in between goes out together, a little late.
_TICK_SECONDS: Final = 0.001


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_EVENT_CHUNK: Final = _chunk(EVENT)
_USAGE_CHUNK: Final = _chunk(USAGE_EVENT)
_LAST_CHUNKS: Final = _chunk(DONE) + b"0\r\n\r\n"


class _Stream:
    """One answer that is being written."""

    __slots__ = ("left", "transport")

    def __init__(self, transport: asyncio.WriteTransport, *, left: int) -> None:
        self.transport = transport
        self.left = left

    def step(self) -> bool:
        """Write an event, or several when they are the last; say whether more follow."""
        if self.transport.is_closing():
            return False
        self.transport.write(_EVENT_CHUNK)
        self.left -= 1
        if self.left:
            return True
        self.transport.write(_USAGE_CHUNK)
        self.transport.write(_LAST_CHUNKS)
        return False


class _Pace:
    """All streams of one pace: they are due in the order in which they were before, so a queue is a timer wheel."""

    def __init__(self, *, rate: int) -> None:
        self._interval = 1 / rate
        self._queue: deque[tuple[float, _Stream]] = deque()
        self._loop = asyncio.get_running_loop()
        self._running = False

    def add(self, stream: _Stream) -> None:
        """Write the first event now and the others in their time."""
        stream.transport.write(_STREAM_HEAD)
        if stream.step():
            self._queue.append((self._loop.time() + self._interval, stream))
            if not self._running:
                self._running = True
                self._loop.call_at(self._queue[0][0], self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        queue = self._queue
        while queue and queue[0][0] <= now:
            due, stream = queue.popleft()
            if stream.step():
                # From when it was due, not from now: a late event does not delay the ones after it.
                queue.append((due + self._interval, stream))
        self._running = bool(queue)
        if queue:
            self._loop.call_at(max(queue[0][0], now + _TICK_SECONDS), self._fire)


class _FullSpeed:
    """All streams without a pace: each writes an event in its turn, so that they arrive mixed and as they come."""

    def __init__(self) -> None:
        self._queue: deque[_Stream] = deque()
        self._loop = asyncio.get_running_loop()

    def add(self, stream: _Stream) -> None:
        """Write the first event now, and the others in turn with those of the other streams."""
        stream.transport.write(_STREAM_HEAD)
        if stream.step():
            if not self._queue:
                self._loop.call_soon(self._fire)
            self._queue.append(stream)

    def _fire(self) -> None:
        queue = self._queue
        for _ in range(len(queue)):
            stream = queue.popleft()
            if stream.step():
                queue.append(stream)
        if queue:
            self._loop.call_soon(self._fire)


class _Streams:
    """The streams of every pace."""

    def __init__(self) -> None:
        self._paces: dict[int, _Pace | _FullSpeed] = {}

    def add(self, stream: _Stream, *, rate: int) -> None:
        """Begin to write the stream with ``rate`` events a second; 0 for full speed."""
        pace = self._paces.get(rate)
        if pace is None:
            pace = self._paces[rate] = _Pace(rate=rate) if rate else _FullSpeed()
        pace.add(stream)


class _Upstream(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, streams: _Streams) -> None:
        self._streams = streams
        # A large body comes in many parts: they are joined once, when all are there.
        self._parts: list[bytes] = []
        self._missing = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        request = b"".join(self._parts) if len(self._parts) > 1 else data
        end = self._end(request)
        if len(request) < end:
            self._parts, self._missing = [request], end - len(request)
            return
        # Nobody here sends a request before the last one was answered.
        self._parts, self._missing = [], 0
        self._answer(request)

    @staticmethod
    def _end(request: bytes) -> int:
        """Return where the request ends; one byte more than there is while its head is not complete."""
        head_end = request.find(b"\r\n\r\n")
        if head_end < 0:
            return len(request) + 1
        length = _LENGTH.search(request, 0, head_end)
        return head_end + 4 + (int(length[1]) if length else 0)

    def _answer(self, request: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if b'"stream":true' not in request:
            transport.write(_WHOLE)
            return
        wanted = _STREAM.search(request)
        if wanted is None:
            raise ValueError("a stream's request says neither how long nor how fast")
        self._streams.add(_Stream(transport, left=int(wanted[1])), rate=int(wanted[2]))


async def listening(port: int) -> asyncio.Server:
    """Return a provider that listens on the port."""
    streams = _Streams()
    return await asyncio.get_running_loop().create_server(lambda: _Upstream(streams), HOST, port, backlog=1024)


async def serve(port: int) -> None:
    """Serve on the port until the process is ended."""
    async with await listening(port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
