"""An answer of a provider: its head, and its body as bytes or events."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp.http import RawResponseMessage

from common.errors import TurnpikeError, UpstreamFailed, UpstreamTimeout
from common.upstream.content_coding import STEP_BYTES, ContentDecoder
from common.upstream.http_connection import BrokenConnection, HttpConnection
from common.upstream.http_parser import MalformedAnswer
from common.upstream.sse import KEEP_ALIVE, EventSplitter

_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
_KEEP_ALIVE_TIMEOUT: Final = re.compile(r"timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Timers:
    """The four timers of a request to a provider, and the silence after which a stream is kept alive, in seconds."""

    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 600.0
    chunk_timeout_seconds: float = 600.0
    total_timeout_seconds: float = 1800.0
    keep_alive_seconds: float = 15.0


class HttpAnswer:
    """A provider's answer whose head has arrived and whose body is still on its way."""

    def __init__(
        self, connection: HttpConnection, message: RawResponseMessage, *, timers: Timers, deadline: float
    ) -> None:
        self._connection = connection
        self._timers = timers
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._splitter = EventSplitter()
        self._silent_seconds = 0.0
        self._peeked = b""
        self.status = message.code
        self.headers: Mapping[str, str] = _headers(message)
        self.content_type = self.headers.get("content-type", "application/octet-stream")
        self.is_event_stream = self.content_type.partition(";")[0].strip().lower() == "text/event-stream"
        """Whether the body is a stream of server-sent events."""
        codings = self.headers.get("content-encoding")
        self._decoder = ContentDecoder(codings) if codings else None
        self._decoded: Iterator[bytes] = iter(())

    async def peek(self) -> bytes:
        """Return the first bytes of the body without taking them, none at its end; raises as ``read``."""
        self._peeked = self._peeked or await self.part()
        return self._peeked

    async def part(self) -> bytes:
        """Return the next part of the body, b"" at its end; raises as ``read``."""
        try:
            return await self._next(self._timers.chunk_timeout_seconds)
        except (TimeoutError, BrokenConnection, MalformedAnswer) as error:
            raise _failure(error) from None

    async def read(self, *, cut_at: int | None = None) -> bytes:
        """Return the whole body; raises UpstreamFailed when it breaks off, UpstreamTimeout when a timer runs out.

        Of a body of more than ``cut_at`` bytes, only so many are returned, and no more are read.
        """
        parts: list[bytes] = []
        size = 0
        while part := await self.part():
            parts.append(part)
            size += len(part)
            if cut_at is not None and size > cut_at:
                return b"".join(parts)[:cut_at]
            if size > _MAX_ANSWER_BYTES:
                raise UpstreamFailed("The provider's answer is too large.", code="upstream_answer_too_large")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def events(self) -> Sequence[bytes]:
        """Wait for events and return those that are whole: KEEP_ALIVE in silence, none at the end; raises as ``read``.

        When the body ends well, an event that only lacks its blank line is whole; half an event is dropped.
        """
        limit = self._timers.chunk_timeout_seconds
        while True:
            step = min(self._timers.keep_alive_seconds, limit - self._silent_seconds)
            try:
                data = await self._next(step)
            except TimeoutError as error:
                self._silent_seconds += step
                if self._silent_seconds >= limit or self._loop.time() >= self._deadline:
                    raise _failure(error) from None
                return (KEEP_ALIVE,)
            except (BrokenConnection, MalformedAnswer) as error:
                raise _failure(error) from None
            if not data:
                return self._splitter.end()
            self._silent_seconds = 0.0
            events = self._splitter.feed(data)
            if events:
                return events

    @property
    def complete(self) -> bool:
        """Say whether the body's end has come and everything before it was returned; False where that is not known."""
        return (
            self._connection.ended
            and not self._peeked
            and not self._splitter.pending
            # What has come may not be decoded yet.
            and self._decoder is None
        )

    async def finish(self, *, timeout_seconds: float = 0.25) -> None:
        """Wait for the end of a body whose content is complete, so that the connection can serve again."""
        with contextlib.suppress(TimeoutError, BrokenConnection, MalformedAnswer):
            until = self._loop.time() + timeout_seconds
            while await self._connection.read(until=until):
                pass

    def close(self) -> None:
        """Let go of the connection; one whose body was not read to its end is closed, so that the provider stops."""
        self._connection.close(idle_seconds=_idle_seconds(self.headers))

    def _next(self, timeout_seconds: float) -> Awaitable[bytes]:
        """Return the next part of the decoded body, b"" at its end; raises as the connection does.

        No coroutine for what is neither decoded nor peeked at: each event of a stream resumes all that wait for it.
        """
        if self._decoder is None and not self._peeked:
            return self._receive(timeout_seconds)
        return self._next_decoded(timeout_seconds)

    async def _next_decoded(self, timeout_seconds: float) -> bytes:
        if self._peeked:
            data, self._peeked = self._peeked, b""
            return data
        if self._decoder is None:
            return await self._receive(timeout_seconds)
        while True:
            for part in self._decoded:
                if len(part) >= STEP_BYTES:
                    # A little data may unfold to much: others have their turn in between.
                    await asyncio.sleep(0)
                return part
            data = await self._receive(timeout_seconds)
            if not data:
                self._decoder.end()
                return b""
            self._decoded = self._decoder.decode(data)

    def _receive(self, timeout_seconds: float) -> Awaitable[bytes]:
        return self._connection.read(until=min(self._loop.time() + timeout_seconds, self._deadline))


def _failure(error: TimeoutError | BrokenConnection | MalformedAnswer) -> TurnpikeError:
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("The provider stopped sending.", code="upstream_timeout")
    return UpstreamFailed("The provider broke off its answer.", code="upstream_cut")


def _headers(message: RawResponseMessage) -> dict[str, str]:
    """Return the headers, names in lower case; of a repeated one the last, of codings all."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in message.raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name == "content-encoding" and name in headers else value
    return headers


def _idle_seconds(headers: Mapping[str, str]) -> float | None:
    """Return how long the provider says that it keeps an unused connection, less what a request may be on its way."""
    match = _KEEP_ALIVE_TIMEOUT.search(headers.get("keep-alive", ""))
    if match is None:
        return None
    seconds = int(match[1])
    return seconds - min(1.0, seconds / 2)
