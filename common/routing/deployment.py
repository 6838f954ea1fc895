"""A deployment: a provider, how it is reached, and the model to ask it for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.providers.provider import Provider
from common.upstream.http import Body


class Response(Protocol):
    """A provider's answer whose head has arrived; common.upstream.http.HttpAnswer is the real one."""

    status: int
    headers: Mapping[str, str]
    content_type: str

    @property
    def is_event_stream(self) -> bool:
        """Say whether the content type is that of server-sent events."""

    async def peek(self) -> bytes:
        """Return the first bytes of the body without taking them, none at its end; raises as ``read``."""

    async def read(self, *, cut_at: int | None = None) -> bytes:
        """Return the whole body; raises UpstreamFailed when it breaks off, UpstreamTimeout when a timer runs out.

        Of a body of more than ``cut_at`` bytes, only so many are returned, and no more are read.
        """

    async def events(self) -> Sequence[bytes]:
        """Wait for events and return all that are there, none at the end of the body; raises as ``read``."""

    @property
    def complete(self) -> bool:
        """Say whether the body's end has come, too."""

    async def finish(self) -> None:
        """Wait briefly for the end of a body whose content is complete."""

    def close(self) -> None:
        """Let go of the connection; the provider stops when the body was not read to its end."""


class Client(Protocol):
    """Sends requests to providers; common.upstream.http.HttpClient is the real one."""

    async def post(self, url: str, *, body: Body, headers: Mapping[str, str]) -> Response:
        """Return the answer when its head is there; raises UnreachableError, UpstreamFailed or UpstreamTimeout."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a request can go; ``model`` is the provider's name for the model, "" for the one that the caller named."""

    provider: Provider
    client: Client
    model: str = ""
