"""What an event costs between the socket and its caller: calls of Python, and coroutines that it resumes."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any

from common.dialects.openai_chat_reader import ChatReader
from common.routing.routed_answer import RoutedAnswer
from common.upstream.http import HttpClient
from common.upstream.http_parser import AnswerParser, ParserProtocol
from common.upstream.sse import EventSplitter
from tests.common.python_calls import python_calls
from tests.common.raw_upstream import HEAD_STREAM, LAST_CHUNK, Request, chunk, serving
from tests.common.upstream.fake_client import FAKE_PROVIDER, FakeResponse
from tests.common.upstream.support import asked, timers

_EVENT = (
    b'data: {"id":"1","object":"chat.completion.chunk","model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
)


async def test_a_chunk_costs_no_call_of_python() -> None:
    def calls(chunks: int) -> int:
        parser = AnswerParser(ParserProtocol(loop), loop, bodyless=False)
        parser.feed(HEAD_STREAM)
        body = chunk(_EVENT) * chunks
        counted = python_calls(lambda: parser.feed(body))
        assert parser.take() == _EVENT * chunks
        return counted

    loop = asyncio.get_running_loop()
    assert calls(100) == calls(1)


async def test_a_parser_is_gone_with_its_last_user() -> None:
    loop = asyncio.get_running_loop()
    parser = AnswerParser(ParserProtocol(loop), loop, bodyless=False)
    parser.feed(HEAD_STREAM + chunk(_EVENT))
    parts = weakref.ref(parser.parts)
    del parser
    # At once, not when the garbage collector comes by: many leave in the middle of an answer.
    assert parts() is None


async def test_trailers_are_dropped_whatever_their_size() -> None:
    loop = asyncio.get_running_loop()
    parser = AnswerParser(ParserProtocol(loop), loop, bodyless=False)
    parser.feed(HEAD_STREAM + chunk(_EVENT) + b"0\r\n")
    for _ in range(10):
        parser.feed(b"x-trailer: " + b"t" * 100_000 + b"\r\n")
    parser.feed(b"\r\n")
    assert (parser.take(), parser.ended, parser.buffered) == (_EVENT, True, 0)


def test_an_event_is_looked_at_and_counted_in_four_calls() -> None:
    splitter = EventSplitter()
    splitter.feed(_EVENT)
    reader = ChatReader(prompt_length=lambda: 0)
    answer = RoutedAnswer(FakeResponse(()), provider=FAKE_PROVIDER, reader=reader)

    def take(events: int) -> int:
        return python_calls(lambda: answer.take(splitter.feed(_EVENT * events)))

    # To look at its line, to read it, to take its choice, to measure the text.
    assert take(102) - take(2) <= 4 * 100


async def test_an_event_resumes_two_coroutines_of_the_client() -> None:
    async def answer(request: Request) -> None:
        await request.connection.send(HEAD_STREAM)
        await may_end.wait()
        await request.connection.send(chunk(_EVENT) + LAST_CHUNK)

    may_end = asyncio.Event()
    async with serving(answer) as upstream, HttpClient(timers=timers()) as client, asked(client, upstream.url) as got:
        waiting = asyncio.ensure_future(got.events())
        await asyncio.sleep(0)
        resumed, coroutine = 0, waiting.get_coro()
        while isinstance(coroutine, Coroutine):
            resumed, coroutine = resumed + 1, _awaited(coroutine)
        assert resumed == 2
        may_end.set()
        assert await waiting == [_EVENT]


def _awaited(coroutine: Any) -> Any:
    return coroutine.cr_await
