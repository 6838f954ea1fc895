"""Heads of answers that are not quite HTTP: what is good in them is taken, what is none is refused."""

from __future__ import annotations

import pytest

from common.errors import UpstreamFailed
from common.upstream.http import HttpClient
from tests.common.raw_upstream import HEAD_JSON, LAST_CHUNK, chunk
from tests.common.upstream.support import Peer, asked, fetch, json_answer, listening, timers


async def answered(answer: bytes) -> tuple[int, dict[str, str], bytes, bool]:
    """Return what the client makes of an answer: its status, headers and body, and whether its connection is kept."""

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer)

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        async with asked(client, server.url) as got:
            result = got.status, dict(got.headers), await got.read()
        assert (await fetch(client, server.url))[1] == result[2]
        return *result, len(server.peers) == 1


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"x-city: M\xfcnchen", "M\xfcnchen"),
        (b"x-city: \xe2\x82\xac", "\xe2\x82\xac"),
        (b"x-city: a\x01\x7f\x0bb", "a\x01\x7f\x0bb"),
        (b"x-city:", ""),
        (b"x-city:a ", "a"),
        (b"x-city : a", "a"),
        (b"x-city: a\r\n b", "a b"),
        (b"x-city: " + b"a" * 60_000, "a" * 60_000),
        (b"X-City: a\r\nX-CITY: b", "b"),
        (b"no colon at all", None),
        (b": no name", None),
        (b"x city: a", None),
        (b"x(city): a", None),
        (b"x-\xe4: a", None),
        (b"x\x01: a", None),
        (b"x-zero: a\0b", None),
        (b"x-return: a\rb", None),
        (b"\r\n".join(b"x-%d: a" % number for number in range(1000)), None),
    ],
)
async def test_an_odd_header_spoils_no_answer(line: bytes, kept: str | None) -> None:
    status, headers, body, reused = await answered(json_answer(b"{}", headers=line + b"\r\n"))
    assert (status, body, reused) == (200, b"{}", True)
    assert headers["content-type"] == "application/json"
    assert headers.get("x-city") == kept


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: 2\r\n\r\n{}",
        b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n folded onto nothing\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\n{\r\n01\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\ntrailer: x\r\n\r\n2\r\n{}\r\n0\r\nx: a\r\n\r\n",
    ],
)
async def test_what_a_parser_may_take_is_taken(answer: bytes) -> None:
    status, _, body, reused = await answered(answer)
    assert (status, body, reused) == (200, b"{}", True)


async def test_a_head_may_come_byte_by_byte() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        for number in json_answer(b"{}", headers=b"no colon\r\n"):
            await peer.send(bytes((number,)))

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (200, b"{}")


async def test_trailers_never_become_headers() -> None:
    answer = HEAD_JSON + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"{}")
    trailers = b"0\r\nx-request-id: forged\r\ncontent-type: text/html\r\n\r\n"
    _, headers, body, _ = await answered(answer + trailers)
    assert body == b"{}"
    assert headers == {"content-type": "application/json", "transfer-encoding": "chunked"}


async def test_an_informational_head_leaves_no_header() -> None:
    _, headers, _, _ = await answered(b"HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n" + json_answer(b"{}"))
    assert "x-early" not in headers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 99 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 1000 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 -200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n" + LAST_CHUNK,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"{}",
        b"<html>",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000,
        b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 60_000,
    ],
    ids=lambda answer: answer[:60].decode(errors="replace"),
)
async def test_what_is_no_http_is_refused_at_once(answer: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.until_closed()

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        with pytest.raises(UpstreamFailed) as raised:
            await fetch(client, server.url)
        assert raised.value.code == "upstream_malformed"
        await server.peers[0].closed.wait()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    answer = json_answer(b"", status=f"{status} Elsewhere", headers=b"location: /elsewhere\r\n")
    got, headers, body, _ = await answered(answer)
    assert (got, headers["location"], body) == (status, "/elsewhere", b"")
