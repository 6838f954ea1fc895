"""A provider's answers without a network: what comes, in which pieces, and what was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import SecretStr

from common.providers.provider import Provider
from common.routing.deployment import Deployment
from common.upstream.http import Body
from common.upstream.sse import EventSplitter

SECRET: Final = "hushed"
FAKE_PROVIDER: Final = Provider(
    "fake",
    "https://fake.test/v1",
    {"openai_chat": "/chat/completions", "mistral_ocr": "/ocr"},
    SecretStr(SECRET),
)


class FakeResponse:
    """An answer made of given pieces; a piece that is an exception is raised in its place."""

    def __init__(
        self,
        pieces: Sequence[bytes | BaseException],
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.pieces = pieces
        self.status = status
        self.content_type = content_type
        self.headers = headers or {}
        self.closed = False
        self.taken = 0
        self._splitter = EventSplitter()

    @property
    def is_event_stream(self) -> bool:
        """Say whether the content type is that of server-sent events."""
        return self.content_type.startswith("text/event-stream")

    async def peek(self) -> bytes:
        """Return the next piece and leave it there."""
        first = next(iter(self.pieces[self.taken :]), b"")
        if isinstance(first, BaseException):
            raise first
        return first

    async def read(self, *, cut_at: int | None = None) -> bytes:
        """Return all pieces, or those up to ``cut_at`` bytes."""
        body = b""
        while (piece := await self._next()) is not None:
            body += piece
            if cut_at is not None and len(body) > cut_at:
                return body[:cut_at]
        return body

    async def events(self) -> Sequence[bytes]:
        """Return the events that the next pieces make up."""
        while (piece := await self._next()) is not None:
            events = self._splitter.feed(piece)
            if events:
                return events
        return self._splitter.end()

    @property
    def complete(self) -> bool:
        """Say whether all pieces were taken."""
        return self.taken == len(self.pieces)

    async def finish(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Note that the answer was closed."""
        self.closed = True

    async def _next(self) -> bytes | None:
        if self.complete:
            return None
        piece = self.pieces[self.taken]
        self.taken += 1
        if isinstance(piece, BaseException):
            raise piece
        return piece


class FakeClient:
    """Gives the answers that it was given, in order, and keeps what was sent, and where."""

    def __init__(self, *responses: FakeResponse | BaseException) -> None:
        self.responses = list(responses)
        self.urls: list[str] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    async def post(self, url: str, *, body: Body, headers: Mapping[str, str]) -> FakeResponse:
        """Return the next answer, or raise it."""
        self.urls.append(url)
        self.bodies.append(
            b"".join(body) if isinstance(body, tuple) else body if isinstance(body, bytes) else bytes(body)
        )
        self.headers.append(dict(headers))
        response = self.responses.pop(0)
        if isinstance(response, BaseException):
            raise response
        return response


def deployment(client: FakeClient, provider: Provider = FAKE_PROVIDER) -> Deployment:
    """Return where the client's answers come from."""
    return Deployment(provider, client)
