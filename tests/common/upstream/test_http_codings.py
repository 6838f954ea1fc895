"""Content codings that nobody asked for: decoded whole, or a failure, and never more than the memory can take."""

from __future__ import annotations

import asyncio
import collections
import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UpstreamFailed
from common.upstream.content_coding import STEP_BYTES, ContentDecoder
from common.upstream.http import HttpClient
from tests.common.raw_upstream import HEAD_STREAM, LAST_CHUNK, chunk
from tests.common.upstream.support import Peer, asked, fetch, json_answer, listening, timers

_TEXT: Final = b'{"choices":[{"message":{"content":"' + b"Hello world, " * 200 + b'"}}]}'

# Without the time of day, which would be in the name of a test: all processes must agree on the names.
_WRONG_SUM: Final = gzip.compress(_TEXT, mtime=0)[:-8] + b"\1" * 8


def _raw(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


_CODINGS: Final[Mapping[str, tuple[str, Callable[[bytes], bytes]]]] = MappingProxyType(
    {
        "gzip": ("gzip", gzip.compress),
        "x-gzip": ("X-GZIP", gzip.compress),
        "members": ("gzip", lambda data: gzip.compress(data[:80]) + gzip.compress(data[80:])),
        "zlib": ("deflate", zlib.compress),
        "raw": ("deflate", _raw),
        "br": ("br", lambda data: brotli.compress(data, quality=1)),
        "zstd": ("zstd", zstd.compress),
        "frames": ("zstd", lambda data: zstd.compress(data[:80]) + zstd.compress(data[80:])),
        "identity": ("identity", bytes),
        "two": ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
        "three": ("deflate,zstd , gzip", lambda data: gzip.compress(zstd.compress(zlib.compress(data)))),
    }
)
"""What the header says, and how the body is made."""


def decoded(header: str, *pieces: bytes) -> bytes:
    decoder = ContentDecoder(header)
    data = b"".join(part for piece in pieces for part in decoder.decode(piece))
    decoder.end()
    return data


async def answered(header: str, body: bytes, *, status: str = "200 OK") -> tuple[int, bytes]:
    """Return what the client makes of an answer with a coding."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(json_answer(body, status=status, headers=f"content-encoding: {header}\r\n".encode()))

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        return await fetch(client, server.url)


@pytest.mark.parametrize("status", ["200 OK", "429 Too Many Requests"])
@pytest.mark.parametrize("name", _CODINGS)
async def test_a_body_that_is_coded_against_our_wish_is_read_all_the_same(name: str, status: str) -> None:
    header, encode = _CODINGS[name]
    assert await answered(header, encode(_TEXT), status=status) == (int(status[:3]), _TEXT)


@given(st.binary(max_size=3000), st.sampled_from(sorted(_CODINGS)), st.integers(1, 40))
def test_any_body_in_any_pieces_is_decoded_to_what_it_was(data: bytes, name: str, size: int) -> None:
    header, encode = _CODINGS[name]
    coded = encode(data)
    assert decoded(header, *(coded[start : start + size] for start in range(0, len(coded), size))) == data


@pytest.mark.parametrize("name", [name for name in _CODINGS if name != "identity"])
@pytest.mark.parametrize("lost", [1, 2, 8, 12])
async def test_a_coding_without_its_end_is_a_failure(name: str, lost: int) -> None:
    header, encode = _CODINGS[name]
    with pytest.raises(UpstreamFailed):
        await answered(header, encode(_TEXT)[:-lost])


@pytest.mark.parametrize("header", ["gzip", "deflate", "br", "zstd", "gzip, br"])
@pytest.mark.parametrize("body", [_TEXT, b"\0" * 30, b"\x1f\x8b\x08", b"x", _WRONG_SUM])
async def test_a_body_that_is_not_what_it_says_is_a_failure(header: str, body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        await answered(header, body)


@pytest.mark.parametrize("header", ["snappy", "gzip, snappy", "utf-8", "gzip,gzip,gzip,gzip,gzip", "*"])
async def test_a_coding_that_nobody_knows_is_a_failure_and_closes_the_connection(header: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(json_answer(b"{}", headers=f"content-encoding: {header}\r\n".encode()))
        await peer.until_closed()

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        with pytest.raises(UpstreamFailed) as raised:
            await fetch(client, server.url)
        assert raised.value.code == "upstream_malformed"
        await server.peers[0].closed.wait()


async def test_the_codings_of_two_header_lines_belong_together() -> None:
    body = brotli.compress(gzip.compress(_TEXT))
    assert await answered("gzip\r\ncontent-encoding: br", body) == (200, _TEXT)


@pytest.mark.parametrize("name", ["gzip", "members", "zlib", "raw", "zstd"])
def test_zeros_behind_the_end_are_padding_and_anything_else_is_not(name: str) -> None:
    header, encode = _CODINGS[name]
    assert decoded(header, encode(_TEXT) + bytes(512)) == _TEXT
    assert decoded(header, encode(_TEXT), bytes(512)) == _TEXT
    with pytest.raises(UpstreamFailed):
        decoded(header, encode(_TEXT) + b"surplus")


@pytest.mark.parametrize("header", ["gzip", "br", "gzip, br"])
async def test_a_body_without_a_byte_is_empty_whatever_its_coding(header: str) -> None:
    assert await answered(header, b"", status="429 Too Many Requests") == (429, b"")


@pytest.mark.parametrize("name", ["gzip", "members", "zlib", "br", "zstd"])
async def test_a_coded_stream_gives_each_event_when_it_comes(name: str) -> None:
    header, encode = _CODINGS[name]
    events = [b'data: {"a":%d}\n\n' % number for number in range(3)]
    flushed: dict[str, list[bytes]] = {"members": [gzip.compress(event) for event in events]}
    if name in ("gzip", "zlib"):
        compressor = zlib.compressobj(wbits=zlib.MAX_WBITS + (16 if name == "gzip" else 0))
        flushed[name] = [compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH) for event in events]
        flushed[name][-1] += compressor.flush()
    pieces = flushed.get(name, [encode(b"".join(events))])

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD_STREAM.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {header}\r\n\r\n".encode()))
        for piece in pieces:
            await wanted.acquire()
            await peer.send(chunk(piece))
        await peer.send(LAST_CHUNK)

    wanted = asyncio.Semaphore(0)
    seen: list[bytes] = []
    async with (
        listening(serve) as server,
        HttpClient(timers=timers()) as client,
        asked(client, server.url) as answer,
    ):
        for _ in pieces:
            wanted.release()
            seen += await answer.events()
        seen += await answer.events()
    assert seen == events


@pytest.mark.parametrize("name", ["gzip", "zlib", "br", "zstd", "two"])
def test_a_little_data_that_unfolds_to_much_is_given_in_steps(name: str) -> None:
    header, encode = _CODINGS[name]
    size = 16 * 1024 * 1024
    coded = encode(bytes(size))
    decoder = ContentDecoder(header)
    tracemalloc.start()
    try:
        sizes = [len(part) for part in decoder.decode(coded)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == size
    assert max(sizes) <= 2 * STEP_BYTES
    assert peak < 2 * 1024 * 1024


@pytest.mark.parametrize("name", ["gzip", "br", "zstd", "two"])
def test_what_unfolds_without_measure_is_refused(name: str) -> None:
    header, encode = _CODINGS[name]
    parts = ContentDecoder(header).decode(encode(bytes(64 * 1024 * 1024)))
    with pytest.raises(UpstreamFailed) as refused:
        collections.deque(parts, maxlen=0)
    assert refused.value.code == "upstream_answer_too_large"


async def test_others_have_their_turn_while_an_answer_unfolds() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(json_answer(gzip.compress(bytes(16 * 1024 * 1024)), headers=b"content-encoding: gzip\r\n"))

    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async with listening(serve) as server, HttpClient(timers=timers()) as client, asked(client, server.url) as answer:
        counting = asyncio.create_task(count())
        before = rounds
        assert len(await answer.read()) == 16 * 1024 * 1024
        counting.cancel()
    assert rounds - before >= 16 * 1024 * 1024 / STEP_BYTES


async def test_a_coded_stream_is_complete_only_when_its_last_event_was_returned() -> None:
    events = [b"data: %d\n\n" % number for number in range(5)]

    async def serve(peer: Peer) -> None:
        await peer.request()
        head = HEAD_STREAM.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
        await peer.send(head + chunk(b"".join(map(gzip.compress, events))) + LAST_CHUNK)

    got: list[bytes] = []
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        answer = await client.post(server.url, body=b"{}", headers={})
        while came := await answer.events():
            got += came
            if answer.complete:
                break
        answer.close()
    assert got == events
