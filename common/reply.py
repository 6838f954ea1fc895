"""Where an answer goes, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

# Envoy's transcoder takes no message over 1 MiB, and a slow reader should hold up pieces rather than all of a body.
PIECE_BYTES: Final = 256 * 1024


class Head(msgspec.Struct, frozen=True):
    """What comes before an answer's body."""

    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Reply(Protocol):
    """Where an answer goes. Its last piece does not: that one is returned, so that it can leave with the status."""

    def begin(self, head: Head) -> None:
        """Take the head; it leaves with the first piece, because until then a failure can become a status."""

    async def write(self, piece: bytes) -> None:
        """Send a piece, and return when there is room for another; raises CancelledError when the caller has gone."""

    async def write_events(self, events: Sequence[bytes]) -> None:
        """Send events of a stream, which may leave together; returns and raises as ``write``."""

    async def keep_alive(self) -> bool:
        """Send what clients of a stream ignore, before the answer has begun; say whether there is such a thing."""


class Collected:
    """A reply that is kept, for callers who want it whole; ``pieces`` is what was written so far."""

    def __init__(self) -> None:
        self.head = Head()
        self.pieces: list[bytes] = []

    def begin(self, head: Head) -> None:
        """Keep the head."""
        self.head = head

    async def write(self, piece: bytes) -> None:
        """Keep the piece."""
        self.pieces.append(piece)

    async def write_events(self, events: Sequence[bytes]) -> None:
        """Keep the events."""
        for event in events:
            await self.write(event)

    async def keep_alive(self) -> bool:
        """Say that nothing was sent."""
        return False

    def body(self, last: Sequence[bytes]) -> bytes:
        """Return the body that ends with ``last``."""
        return b"".join((*self.pieces, *last))


async def all_but_last(body: bytes, reply: Reply, *, sent: Callable[[int], None] = lambda _: None) -> bytes:
    """Write a body in pieces and return the last of them; ``sent`` is told each piece's size before it leaves."""
    last = max(0, len(body) - 1) // PIECE_BYTES * PIECE_BYTES
    for start in range(0, last, PIECE_BYTES):
        sent(PIECE_BYTES)
        await reply.write(body[start : start + PIECE_BYTES])
    return body[last:] if last else body


def messages_of(events: Sequence[bytes]) -> list[bytes]:
    """Return events joined into messages of whole ones, and only an event over PIECE_BYTES cut into several."""
    if len(events) == 1 and len(events[0]) <= PIECE_BYTES:
        return [events[0]]
    if sum(map(len, events)) <= PIECE_BYTES:
        return [b"".join(events)] if events else []
    messages: list[bytes] = []
    joined: list[bytes] = []
    size = 0
    for event in events:
        if joined and size + len(event) > PIECE_BYTES:
            messages.append(b"".join(joined))
            joined, size = [], 0
        if len(event) > PIECE_BYTES:
            messages += [event[start : start + PIECE_BYTES] for start in range(0, len(event), PIECE_BYTES)]
        else:
            joined.append(event)
            size += len(event)
    return [*messages, b"".join(joined)] if joined else messages
