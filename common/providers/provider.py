"""What every provider offers, and the two implementations that need no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from common.errors import Unavailable
from common.upstream.http import Body
from common.upstream.sse import EventSplitter


class Answer(Protocol):
    """A provider's answer whose head has arrived; common.upstream.http.HttpAnswer is the real one."""

    status: int
    headers: Mapping[str, str]
    content_type: str

    @property
    def is_event_stream(self) -> bool:
        """Say whether the body is a stream of server-sent events."""

    async def read(self) -> bytes:
        """Return the whole body."""

    async def events(self) -> Sequence[bytes]:
        """Wait for events and return those that are whole, none at the end."""

    @property
    def complete(self) -> bool:
        """Say whether the body's end has come, too."""

    async def finish(self) -> None:
        """Wait briefly for the end of a body whose content is complete."""

    def close(self) -> None:
        """Let go of the connection."""


class Upstream(Protocol):
    """What every provider has, whatever it can be asked for."""

    name: str

    def without_secrets(self, body: bytes) -> bytes:
        """Return an error's body without anything that the operator keeps secret."""


class Provider(Upstream, Protocol):
    """A provider of models that speaks OpenAI's chat."""

    async def chat(self, body: Body, *, headers: Mapping[str, str]) -> Answer:
        """Ask for a completion; raises UnreachableError, UpstreamFailed or UpstreamTimeout."""


class OcrProvider(Upstream, Protocol):
    """A provider that reads documents and speaks Mistral's OCR."""

    async def ocr(self, body: Body, *, headers: Mapping[str, str]) -> Answer:
        """Ask for a document's pages; raises UnreachableError, UpstreamFailed or UpstreamTimeout."""


class NullProvider:
    """Stands where no provider is configured."""

    name = "none"

    async def chat(self, body: Body, *, headers: Mapping[str, str]) -> Answer:
        """Raise Unavailable."""
        raise Unavailable("No provider is configured: set OPENAI_API_KEY or OPENAI_BASE_URL.", code="no_provider")

    async def ocr(self, body: Body, *, headers: Mapping[str, str]) -> Answer:
        """Raise Unavailable."""
        raise Unavailable(
            "No provider of OCR is configured: set MISTRAL_API_KEY or MISTRAL_BASE_URL.", code="no_provider"
        )

    def without_secrets(self, body: bytes) -> bytes:
        """Return the body: there is no secret."""
        return body


class FakeAnswer:
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
        self._taken = 0
        self._splitter = EventSplitter()

    @property
    def is_event_stream(self) -> bool:
        """Say whether the content type is that of server-sent events."""
        return self.content_type.startswith("text/event-stream")

    async def read(self) -> bytes:
        """Return all pieces."""
        parts = []
        while (piece := await self._next()) is not None:
            parts.append(piece)
        return b"".join(parts)

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
        return self._taken == len(self.pieces)

    async def finish(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Note that the answer was closed."""
        self.closed = True

    async def _next(self) -> bytes | None:
        if self.complete:
            return None
        piece = self.pieces[self._taken]
        self._taken += 1
        if isinstance(piece, BaseException):
            raise piece
        return piece


class FakeProvider:
    """Gives the answers that it was given, in order, and keeps what it was asked; for tests."""

    name = "fake"

    def __init__(self, *answers: FakeAnswer | BaseException) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[bytes, dict[str, str]]] = []

    async def chat(self, body: Body, *, headers: Mapping[str, str]) -> Answer:
        """Return the next answer, or raise it."""
        return self._answer(body, headers)

    async def ocr(self, body: Body, *, headers: Mapping[str, str]) -> Answer:
        """Return the next answer, or raise it."""
        return self._answer(body, headers)

    def without_secrets(self, body: bytes) -> bytes:
        """Hide the word that tests use for a secret."""
        return body.replace(b"hush", b"***")

    def _answer(self, body: Body, headers: Mapping[str, str]) -> Answer:
        self.asked.append((b"".join(body) if isinstance(body, tuple) else bytes(body), dict(headers)))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer
