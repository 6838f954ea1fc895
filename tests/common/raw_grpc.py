"""A gRPC client that sends what no client library sends: any header, half a message, none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = 4
_HEADERS: Final = 1
_DATA: Final = 0
_END_STREAM: Final = 1
_END_HEADERS: Final = 4


def _frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: bytes) -> bytes:
    # HPACK's integer with a prefix of 7 bits, without Huffman coding: https://www.rfc-editor.org/rfc/rfc7541#section-5
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, length = len(text) - 127, bytearray((127,))
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*length, rest)) + text


class RawGrpcClient:
    """One HTTP/2 connection to a server on this machine; a context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream = -1

    async def __aenter__(self) -> RawGrpcClient:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(_PREFACE + _frame(_SETTINGS, b""))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        self._writer.close()
        await self._writer.wait_closed()

    async def begin(
        self,
        rpc: bytes,
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        message: bytes = b"",
        ends: bool = False,
    ) -> None:
        """Begin a call and send these bytes of its body, which stays open unless it ``ends`` with them."""
        self._stream += 2
        pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"localhost"), (b":path", rpc)]
        pairs = [*pseudo, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers]
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)
        self._writer.write(_frame(_HEADERS, block, flags=_END_HEADERS, stream=self._stream))
        if message or ends:
            self._writer.write(_frame(_DATA, message, flags=_END_STREAM if ends else 0, stream=self._stream))
        await self._writer.drain()

    async def read_until(self, part: bytes) -> bytes:
        """Return what the server sent up to and with these bytes; raises EOFError at the connection's end."""
        received = bytearray()
        while part not in received:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError(f"{part!r} is not in {bytes(received)!r}")
            received += data
        return bytes(received)


def framed(message: bytes) -> bytes:
    """Return a serialized message as gRPC sends it."""
    return b"\0" + len(message).to_bytes(4, "big") + message
