"""The benchmark's own provider: what it writes, and that it takes requests in any parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.connection import Answer, Caller
from bench.messages import ANSWER, http_request, question, stream_answer, stream_question
from bench.upstream import listening


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = await listening(0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _ask(port: int, body: bytes) -> Answer:
    caller = Caller(port=port)
    try:
        return await caller.ask(http_request(body, credential="none"))
    finally:
        caller.close()


@pytest.mark.parametrize("rate", [0, 1000])
async def test_every_stream_is_whole_at_full_speed_and_paced(port: int, rate: int) -> None:
    body = stream_question(events=20, rate=rate)
    answers = await asyncio.gather(*(_ask(port, body) for _ in range(30)))
    assert {answer.body for answer in answers} == {stream_answer(events=20)}


async def test_streams_at_full_speed_take_turns(port: int) -> None:
    body = stream_question(events=2_000, rate=0)
    first, second = await asyncio.gather(_ask(port, body), _ask(port, body))
    assert second.first_byte_at < first.ended_at
    assert first.first_byte_at < second.ended_at


@pytest.mark.parametrize("size", [0, 64 * 1024, 8 * 1024 * 1024])
async def test_a_large_request_is_answered_when_all_of_it_is_there(port: int, size: int) -> None:
    body = question(body_bytes=size)
    assert size - 100 <= len(body) <= size + 1000
    assert (await _ask(port, body)).body == ANSWER


async def test_a_head_in_parts_is_understood(port: int) -> None:
    request = http_request(question(body_bytes=0), credential="none")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in (request[:20], request[20:150], request[150:]):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
