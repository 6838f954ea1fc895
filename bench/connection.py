"""One keep-alive HTTP/1.1 connection, as cheap as Python allows, that notes when an answer's first body byte came."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and when it was asked for, began and ended, in seconds of ``time.perf_counter``."""

    status: int
    body: bytes
    sent_at: float
    first_byte_at: float
    ended_at: float


class Connection(asyncio.Protocol):
    """Sends one request at a time and gives its answer to ``on_answer``, or None when the server hung up."""

    def __init__(self, on_answer: Callable[[Connection, Answer | None], None]) -> None:
        self._on_answer = on_answer
        self._transport: asyncio.Transport | None = None
        self._waiting = False
        self._sent_at = self._first_byte_at = 0.0
        self._rest = b""
        self._status = 0
        # Bytes of the body that are still to come; negative for a chunked one.
        self._left = 0
        self._parts: list[bytes] = []
        self._arrived: list[bytes] = []
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._waiting = False
            self._on_answer(self, None)

    def send(self, request: bytes) -> None:
        """Send the request; raises ConnectionError when the server has hung up."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the server closed the connection")
        self._waiting = True
        self._status = 0
        self._rest = b""
        self._parts = []
        self._arrived = []
        self._tail = b""
        self._first_byte_at = 0.0
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        rest = self._rest + data if self._rest else data
        self._rest = b""
        if not self._status:
            end = rest.find(b"\r\n\r\n")
            if end < 0:
                self._rest = rest
                return
            self._read_head(rest[: end + 2])
            rest = rest[end + 4 :]
        if rest and not self._first_byte_at:
            self._first_byte_at = now
        if self._left < 0:
            # A stream is taken apart once it may be complete, not event by event: the load shares the cores.
            self._arrived.append(rest)
            self._tail = (self._tail + rest)[-len(_LAST_CHUNK) :]
            if self._tail != _LAST_CHUNK:
                return
            rest = b"".join(self._arrived)
            self._arrived = []
        if self._read_body(rest):
            self._waiting = False
            self._on_answer(
                self,
                Answer(self._status, b"".join(self._parts), self._sent_at, self._first_byte_at or now, now),
            )

    def _read_head(self, head: bytes) -> None:
        self._status = int(head[9:12])
        length = _LENGTH.search(head)
        self._left = -1 if _CHUNKED.search(head) else int(length[1]) if length else 0

    def _read_body(self, rest: bytes) -> bool:
        if self._left >= 0:
            self._parts.append(rest)
            self._rest = b""
            self._left -= len(rest)
            return self._left <= 0
        start = 0
        while (line_end := rest.find(b"\r\n", start)) >= 0:
            size = int(rest[start:line_end], 16)
            end = line_end + 2 + size
            if len(rest) < end + 2:
                break
            if not size:
                return True
            self._parts.append(rest[line_end + 2 : end])
            start = end + 2
        self._rest = rest[start:]
        return False


class Caller:
    """A connection for one who asks and waits."""

    def __init__(self, *, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None
        self._answer: asyncio.Future[Answer | None] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send the request, over a new connection when there is none; raises ConnectionError."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            _, self._connection = await loop.create_connection(
                lambda: Connection(self._answered), "127.0.0.1", self._port
            )
        self._answer = loop.create_future()
        self._connection.send(request)
        answer = await self._answer
        if answer is None:
            self._connection = None
            raise ConnectionError("the server closed the connection")
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()

    def _answered(self, _: Connection, answer: Answer | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
