"""Content codings undone: gzip, deflate, br and zstd, in bounded steps.

We ask for identity (RFC 9110, 8.4), but servers send what they like; what cannot be decoded is never passed on.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import brotli

from common.errors import UpstreamFailed, UpstreamMalformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP_BYTES: Final = 64 * 1024
"""The most that one step of decoding gives; of br, which counts in blocks, twice as much."""

_SLICE: Final = 16 * 1024
_MAX_CODINGS: Final = 4
# What any answer may unfold to; beyond it no more than this many times what was sent.
_FREE_BYTES: Final = 32 * 1024 * 1024
_MAX_RATIO: Final = 200
# RFC 9659: a decoder of HTTP content needs a window of 8 MiB and no more.
_ZSTD_OPTIONS: Final[Mapping[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}
_ERRORS: Final = (zlib.error, brotli.error, zstd.ZstdError)


class _Coding(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what ``data`` stands for, a step at a time; raises one of _ERRORS."""

    @property
    def is_complete(self) -> bool:
        """Say whether the end of the coded body has come."""


class _Frame(Protocol):
    """What zlib and zstd have in common: the decompressor of one member or frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Frames:
    """Members of gzip or frames of zstd, one after the other, perhaps padded with zeros."""

    def __init__(self, new: Callable[[], _Frame]) -> None:
        self._new = new
        self._frame: _Frame | None = None
        self._frames = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE):
            yield from self._decode(data[start : start + _SLICE])

    def _decode(self, data: bytes) -> Iterator[bytes]:
        more = False
        while data or more:
            if self._frame is None:
                data = data.lstrip(b"\0") if self._frames else data
                if not data:
                    return
                self._frame = self._new()
            piece = self._frame.decompress(data, STEP_BYTES)
            if piece:
                yield piece
            more = len(piece) == STEP_BYTES
            if self._frame.eof:
                data, more = self._frame.unused_data, False
                self._frame = None
                self._frames += 1
            else:
                # zlib gives back what it did not take, zstd keeps it.
                data = getattr(self._frame, "unconsumed_tail", b"")

    @property
    def is_complete(self) -> bool:
        return self._frame is None and self._frames > 0


class _Deflate:
    """RFC 9110 means zlib's format, some servers the bare one."""

    def __init__(self) -> None:
        self._start = b""
        self._frames: _Frames | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._frames is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return
            bits = zlib.MAX_WBITS if _has_zlib_header(data) else -zlib.MAX_WBITS
            self._frames = _Frames(lambda: zlib.decompressobj(bits))
        yield from self._frames.decode(data)

    @property
    def is_complete(self) -> bool:
        return self._frames is not None and self._frames.is_complete


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._decompressor.is_finished():
            if data.strip(b"\0"):
                raise brotli.error
            return
        piece = self._decompressor.process(data, output_buffer_limit=STEP_BYTES)
        while piece or not self._decompressor.can_accept_more_data():
            if piece:
                yield piece
            if self._decompressor.is_finished():
                return
            piece = self._decompressor.process(b"", output_buffer_limit=STEP_BYTES)

    @property
    def is_complete(self) -> bool:
        return bool(self._decompressor.is_finished())


_CODINGS: Final[Mapping[str, Callable[[], _Coding]]] = MappingProxyType(
    {
        "gzip": lambda: _Frames(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
        "x-gzip": lambda: _Frames(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
        "deflate": _Deflate,
        "br": _Brotli,
        "zstd": lambda: _Frames(lambda: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)),
    }
)


class ContentDecoder:
    """Undoes the codings that a content-encoding header names; the last one named was applied last.

    Raises UpstreamFailed for a coding that nobody knows, for what is not that coding, and for what unfolds too far.
    """

    def __init__(self, codings: str) -> None:
        names = [name for part in codings.lower().split(",") if (name := part.strip()) not in ("", "identity")]
        if len(names) > _MAX_CODINGS or any(name not in _CODINGS for name in names):
            raise _malformed()
        self._codings = [_CODINGS[name]() for name in reversed(names)]
        self._coded_bytes = 0
        self._bytes = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what a part of the body stands for, a step at a time."""
        self._coded_bytes += len(data)
        pieces: Iterator[bytes] = iter((data,))
        for coding in self._codings:
            pieces = _decoded(coding, pieces)
        try:
            for piece in pieces:
                self._bytes += len(piece)
                if self._bytes > max(_FREE_BYTES, _MAX_RATIO * self._coded_bytes):
                    raise UpstreamFailed("The provider's answer is too large.", code="upstream_answer_too_large")
                yield piece
        except _ERRORS:
            raise _malformed() from None

    def end(self) -> None:
        """Raise UpstreamFailed when the body has ended before its coding did; a body without a byte is empty."""
        if self._coded_bytes and not all(coding.is_complete for coding in self._codings):
            raise UpstreamFailed("The provider broke off its answer.", code="upstream_cut")


def _decoded(coding: _Coding, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from coding.decode(piece)


def _has_zlib_header(data: bytes) -> bool:
    """Look for the method and the check bits of RFC 1950, 2.2."""
    return data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0


def _malformed() -> UpstreamMalformed:
    return UpstreamMalformed("The provider's answer cannot be decoded.", code="upstream_malformed")
