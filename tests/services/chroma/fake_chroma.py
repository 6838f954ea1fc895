"""Stands in for Chroma where a test must see what it gets, or make it misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from services.chroma.request_line import Query, query_string
from services.chroma.store import StoreAnswer

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Received:
    """What came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def web_answer(status: int, body: bytes, *, content_type: str = "application/json", **headers: str) -> Handler:
    """Return a handler that always answers this."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type=content_type, headers=headers)

    return answer


@asynccontextmanager
async def fake_server(answer: Handler) -> AsyncIterator[tuple[str, list[Received]]]:
    """Run an HTTP server; yields its URL, and what it receives."""
    received: list[Received] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received.append(Received(request.method, request.raw_path, headers, await request.content.read()))
        return await answer(request)

    runner = web.ServerRunner(web.Server(handle), handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", received
    finally:
        await runner.cleanup()


@dataclass
class FakeStore:
    """Answers from a function, and keeps the requests as ``METHOD path?query``."""

    answer: Callable[[str, str], StoreAnswer] = lambda method, path: StoreAnswer(200, b"{}")
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def request(
        self, method: str, path: str, *, query: Query = (), body: bytes = b"", in_parts: bool = False
    ) -> StoreAnswer:
        """Answer."""
        target = f"{path}?{query_string(query)}" if query else path
        self.requests.append(f"{method} {target}")
        self.bodies.append(body)
        return self.answer(method, target)
