"""The HTTP client, against a server that misbehaves in every way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections.abc import AsyncGenerator, Iterator

import pytest

from common.errors import UpstreamFailed, UpstreamTimeout
from common.upstream.http import HttpAnswer, HttpClient, UnreachableError
from common.upstream.sse import KEEP_ALIVE
from tests.common.raw_upstream import HEAD_JSON, HEAD_STREAM, LAST_CHUNK, Request, chunk, serving
from tests.common.upstream.support import SOON, asked, json_answer, timers

_A, _B = b'data: {"a":1}\n\n', b"data: [DONE]\n\n"


async def events_of(answer: HttpAnswer) -> AsyncGenerator[bytes, None]:
    while events := await answer.events():
        for event in events:
            yield event


async def read_into(seen: list[bytes], answer: HttpAnswer) -> None:
    async for event in events_of(answer):
        seen.append(event)


async def all_events(answer: HttpAnswer) -> list[bytes]:
    return [event async for event in events_of(answer)]


async def test_a_json_answer_comes_whole_with_its_status_and_headers() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(
            b"HTTP/1.1 429 Too Many Requests\r\nX-RateLimit-Remaining-Tokens: 5\r\n"
            b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        )

    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers()) as client,
        asked(client, upstream.url, b"[1]") as got,
    ):
        assert (got.status, got.content_type, got.is_event_stream) == (429, "application/json", False)
        assert got.headers["x-ratelimit-remaining-tokens"] == "5"
        assert await got.read() == b"{}"
        (request,) = upstream.requests
        assert request.line == "POST /v1/chat/completions HTTP/1.1"
        assert request.body == b"[1]"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["accept-encoding"] == "identity"


async def test_events_come_one_by_one_however_the_body_is_chunked() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM)
        for start in range(0, len(_A + _B), 3):
            await request.connection.send(chunk((_A + _B)[start : start + 3]))
        await request.connection.send(LAST_CHUNK)

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        assert got.is_event_stream
        assert await all_events(got) == [_A, _B]


async def test_an_event_is_handed_on_before_the_next_one_is_there() -> None:
    seen = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_A))
        await seen.wait()
        await request.connection.send(chunk(_B) + LAST_CHUNK)

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        events = events_of(got)
        assert await anext(events) == _A
        seen.set()
        assert await anext(events) == _B
        await events.aclose()


async def test_the_last_event_of_a_body_with_returns_is_not_lost() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(b"data: a\r\rdata: [DONE]\r\r") + LAST_CHUNK)

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        assert await all_events(got) == [b"data: a\r\r", b"data: [DONE]\r\r"]


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that another one is neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_the_connect_timer_ends_an_attempt_that_may_be_repeated(full_port: int) -> None:
    async with HttpClient(timers=timers(connect=SOON)) as client:
        with pytest.raises(UnreachableError):
            await client.post(f"http://127.0.0.1:{full_port}/", body=b"{}", headers={})


async def test_the_first_byte_timer_ends_a_silent_request() -> None:
    left = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.connection.wait_for_the_client_to_leave()
        left.set()

    async with serving(answer) as upstream, HttpClient(timers=timers(first=SOON)) as client:
        with pytest.raises(UpstreamTimeout) as raised:
            await client.post(upstream.url, body=b"{}", headers={})
        assert raised.value.code == "upstream_timeout"
        await left.wait()


async def test_the_chunk_timer_ends_a_body_that_stalls() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_JSON + b"content-length: 10\r\n\r\n{")
        await request.connection.wait_for_the_client_to_leave()

    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers(gap=SOON)) as client,
        asked(client, upstream.url) as got,
    ):
        with pytest.raises(UpstreamTimeout):
            await got.read()


@pytest.mark.parametrize("size", [1000, 1001, 1_000_000])
async def test_a_long_body_is_cut_and_its_rest_is_not_awaited(size: int) -> None:
    async def answer(request: Request) -> None:
        # Of the longest the rest never comes: nobody waits for it.
        head = HEAD_JSON + b"content-length: " + str(size).encode() + b"\r\n\r\n"
        await request.connection.send(head + b"x" * min(size, 2000))
        await request.connection.wait_for_the_client_to_leave()
        left.set()

    left = asyncio.Event()
    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        async with asked(client, upstream.url) as got:
            assert await got.read(cut_at=1000) == b"x" * 1000
        if size > 2000:
            await left.wait()


async def test_the_chunk_timer_begins_anew_with_each_chunk() -> None:
    wanted = asyncio.Semaphore(1)

    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM)
        for _ in range(4):
            await wanted.acquire()
            await request.connection.send(chunk(_A))
        await request.connection.send(LAST_CHUNK)

    silences = 0
    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers(gap=0.8, alive=0.1)) as client,
        asked(client, upstream.url) as got,
    ):
        async for event in events_of(got):
            silences += event is KEEP_ALIVE
            # Three silences before each event: together longer than the timer, each much shorter.
            if silences and silences % 3 == 0 and event is KEEP_ALIVE:
                wanted.release()
    assert silences >= 9


async def test_the_chunk_timer_ends_a_stream_in_spite_of_keep_alives() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_A))
        await request.connection.wait_for_the_client_to_leave()

    seen: list[bytes] = []
    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers(gap=0.2, alive=SOON)) as client,
        asked(client, upstream.url) as got,
    ):
        with pytest.raises(UpstreamTimeout):
            await read_into(seen, got)
    assert seen[0] == _A
    assert seen[1:] == [KEEP_ALIVE] * len(seen[1:])
    assert 3 <= len(seen[1:]) <= 4


async def test_the_total_timer_ends_a_stream_that_never_falls_silent() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM)
        while True:
            await request.connection.send(chunk(_A))
            await asyncio.sleep(0)  # Lets the client run in this same loop.

    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers(total=0.5, alive=SOON)) as client,
        asked(client, upstream.url) as got,
    ):
        with pytest.raises(UpstreamTimeout):
            await all_events(got)


async def test_the_total_timer_also_ends_a_request_without_an_answer() -> None:
    async def answer(request: Request) -> None:
        await request.connection.wait_for_the_client_to_leave()

    async with serving(answer) as upstream, HttpClient(timers=timers(total=SOON)) as client:
        with pytest.raises(UpstreamTimeout):
            await client.post(upstream.url, body=b"{}", headers={})


async def test_silence_is_filled_with_comments_and_no_event_is_lost_for_it() -> None:
    silent = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_A[:5]))
        await silent.wait()
        await request.connection.send(chunk(_A[5:] + _B) + LAST_CHUNK)

    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers(alive=SOON)) as client,
        asked(client, upstream.url) as got,
    ):
        events = events_of(got)
        assert [await anext(events), await anext(events)] == [KEEP_ALIVE, KEEP_ALIVE]
        silent.set()
        rest = [event async for event in events]
        assert [event for event in rest if event is not KEEP_ALIVE] == [_A, _B]


async def test_a_refused_connection_may_be_repeated() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with HttpClient(timers=timers()) as client:
            with pytest.raises(UnreachableError) as raised:
                await client.post(f"http://127.0.0.1:{port}/", body=b"{}", headers={})
    assert raised.value.code == "upstream_unreachable"


async def test_a_name_that_nobody_has_may_be_repeated() -> None:
    async with HttpClient(timers=timers()) as client:
        with pytest.raises(UnreachableError):
            await client.post("http://nobody.invalid/", body=b"{}", headers={})


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\ncontent-"], ids=["nothing", "a", "b"])
async def test_a_connection_that_ends_before_the_head_must_not_be_repeated(begin: bytes) -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(begin)
        request.connection.reset()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        with pytest.raises(UpstreamFailed) as raised:
            await client.post(upstream.url, body=b"{}", headers={})
        assert not isinstance(raised.value, UnreachableError)
        assert len(upstream.requests) == 1


async def test_what_is_no_http_is_a_failure() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        with pytest.raises(UpstreamFailed):
            await client.post(upstream.url, body=b"{}", headers={})


@pytest.mark.parametrize("kindly", [True, False], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "begin",
    [
        HEAD_JSON + b"content-length: 100\r\n\r\n" + _A,
        HEAD_STREAM + chunk(_A),
        HEAD_STREAM + chunk(_A) + b"5\r\nda",
        HEAD_STREAM + chunk(_A) + b"0\r\n",
    ],
    ids=["content-length", "chunked", "within a chunk", "within the last chunk"],
)
async def test_a_body_that_is_cut_is_a_failure_after_what_came_before(begin: bytes, kindly: bool) -> None:  # noqa: FBT001
    seen = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.connection.send(begin)
        await seen.wait()
        if kindly:
            request.connection.writer.close()
        else:
            request.connection.reset()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        events = events_of(got)
        assert await anext(events) == _A
        seen.set()
        with pytest.raises(UpstreamFailed) as raised:
            await anext(events)
        assert raised.value.code == "upstream_cut"


async def test_a_chunk_that_is_none_is_a_failure() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_A) + b"zz\r\n")
        await request.connection.wait_for_the_client_to_leave()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        with pytest.raises(UpstreamFailed):
            async with asked(client, upstream.url) as got:
                await all_events(got)


async def test_a_whole_body_that_is_cut_is_a_failure() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_JSON + b"content-length: 100\r\n\r\n{}")
        request.connection.writer.close()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        with pytest.raises(UpstreamFailed) as raised:
            await got.read()
        assert raised.value.code == "upstream_cut"


@pytest.mark.parametrize("size", [1024 * 1024, 1024 * 1024 + 1, 40 * 1024 * 1024])
async def test_a_large_body_arrives_whole_and_with_its_length(size: int) -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(json_answer(b"{}"))

    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with (
        serving(answer) as upstream,
        HttpClient(timers=timers()) as client,
        asked(client, upstream.url, body) as got,
    ):
        assert await got.read() == b"{}"
        (request,) = upstream.requests
        assert request.headers["content-length"] == str(size)
        assert "transfer-encoding" not in request.headers
        assert zlib.crc32(request.body) == zlib.crc32(body)


async def test_a_stream_that_was_read_to_its_end_leaves_its_connection_for_the_next() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_B))
        await request.connection.send(LAST_CHUNK)

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        for _ in range(3):
            async with asked(client, upstream.url) as got:
                events = events_of(got)
                assert await anext(events) == _B
                await events.aclose()
                await got.finish()
        assert (len(upstream.requests), len(upstream.connections)) == (3, 1)


async def test_a_stream_that_was_left_early_closes_its_connection() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_A))
        await request.connection.wait_for_the_client_to_leave()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        for number in range(2):
            async with asked(client, upstream.url) as got:
                events = events_of(got)
                assert await anext(events) == _A
                await events.aclose()
            await upstream.connections[number].closed.wait()
        assert (len(upstream.requests), len(upstream.connections)) == (2, 2)


async def test_finishing_does_not_wait_long_for_a_server_that_does_not_end() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM + chunk(_B))
        await request.connection.wait_for_the_client_to_leave()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        async with asked(client, upstream.url) as got:
            events = events_of(got)
            assert await anext(events) == _B
            await events.aclose()
            await got.finish(timeout_seconds=SOON)
        await upstream.connections[0].closed.wait()


async def test_a_caller_who_is_cancelled_while_waiting_closes_the_connection() -> None:
    arrived = asyncio.Event()

    async def answer(request: Request) -> None:
        arrived.set()
        await request.connection.wait_for_the_client_to_leave()

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        waiting = asyncio.create_task(client.post(upstream.url, body=b"{}", headers={}))
        await arrived.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await upstream.connections[0].closed.wait()


async def test_redirects_are_not_followed() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(
            b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
        )

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        assert got.status == 307
        assert await got.read() == b""
        assert len(upstream.requests) == 1


async def test_cookies_are_not_kept() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(
            b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\ncontent-length: 0\r\ncontent-type: text/plain\r\n\r\n"
        )

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:
        for _ in range(2):
            async with asked(client, upstream.url) as got:
                await got.read()
        assert "cookie" not in upstream.requests[1].headers


async def test_three_hundred_requests_at_once_wait_for_no_connection() -> None:
    everybody = asyncio.Event()
    arrived = 0

    async def answer(request: Request) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 300:
            everybody.set()
        await everybody.wait()
        await request.connection.send(json_answer(b"{}"))

    async with serving(answer) as upstream, HttpClient(timers=timers()) as client:

        async def one() -> bytes:
            async with asked(client, upstream.url) as got:
                return await got.read()

        assert await asyncio.gather(*(one() for _ in range(300))) == [b"{}"] * 300


async def test_a_client_outside_of_its_context_says_so() -> None:
    with pytest.raises(RuntimeError, match="context"):
        await HttpClient(timers=timers()).post("http://127.0.0.1:1/", body=b"{}", headers={})
