"""An answer that has begun: read as far as the point from which no other deployment can answer instead.

That point is the first event with content of a stream, and the end of any other answer. Until then a failure has cost
the caller nothing but time.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from common.dialects.dialect import InferenceRequest, Progress, Reader
from common.dialects.upstream_errors import status_of
from common.errors import UpstreamFailed, UpstreamMalformed
from common.providers.provider import Provider
from common.routing.deployment import Response
from common.upstream.sse import KEEP_ALIVE, data_of, read_event

# What comes before the content is small: a role, filter results, comments.
_HELD_EVENTS: Final = 64
_HELD_BYTES: Final = 256 * 1024
# An error is a message to a person; what is longer is cut, and gets an envelope because it is no JSON any more.
_ERROR_BYTES: Final = 1024 * 1024
_LAST_STATUS: Final = 599
# Names of the module, because an enum's members are looked up in its class for each event.
_NONE: Final = Progress.NONE
_CONTENT: Final = Progress.CONTENT
_ERROR: Final = Progress.ERROR
_WITHOUT_ANSWER: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT)


class RoutedAnswer:
    """An answer of ``provider``, read by ``reader``. ``body`` is a whole answer; a stream has ``events`` so far.

    ``status`` is what the caller gets: the response's own, or 502 for an error under a success's status.
    """

    def __init__(self, response: Response, *, provider: Provider, reader: Reader) -> None:
        self.response = response
        self.provider = provider
        self.reader = reader
        self.status = response.status
        self.is_stream = False
        self.body = b""
        self.events: list[bytes] = []
        self.progress = Progress.NONE
        self._has_content = False

    @property
    def refused(self) -> bool:
        """Say whether the provider answered with an error, which is ``body``."""
        return self.status >= HTTPStatus.BAD_REQUEST

    def take(self, events: Sequence[bytes]) -> tuple[list[bytes], Progress]:
        """Read events and return those to pass on, up to the last, and what they bring."""
        passed: list[bytes] = []
        progress = _NONE
        feed = self.reader.feed
        for raw in events:
            event, data = read_event(raw)
            if not event:
                continue
            found = feed(data) if data else _NONE
            if found is _CONTENT:
                self._has_content = True
            elif found is _ERROR:
                event = self.provider.scrub(event)
            passed.append(event)
            if found is _NONE:
                continue
            progress = found
            if found is not _CONTENT:
                break
        return passed, progress

    async def begin(self, request: InferenceRequest) -> None:
        """Read up to the commit point.

        Raises UpstreamFailed for what is no answer: a redirect, an empty body, HTML, an empty stream; UpstreamTimeout.
        """
        if self.status > _LAST_STATUS:
            raise UpstreamMalformed(f"The provider answered {self.status}, which is no status of HTTP.")
        if self.refused:
            self.body = self.provider.scrub(await self.response.read(cut_at=_ERROR_BYTES))
            return
        if not HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES or self.status in _WITHOUT_ANSWER:
            raise UpstreamMalformed(f"The provider answered {self.status}, which is no answer to this request.")
        self.is_stream = await self._is_stream(request)
        await (self._begin_stream() if self.is_stream else self._read_body(request))

    async def _is_stream(self, request: InferenceRequest) -> bool:
        # Some servers forget to say text/event-stream, and some call a stream JSON.
        if self.response.is_event_stream and not request.is_stream:
            raise UpstreamMalformed("The provider answered with a stream, which nobody asked for.")
        if self.response.is_event_stream or not request.is_stream:
            return self.response.is_event_stream
        begin = (await self.response.peek()).removeprefix(b"\xef\xbb\xbf").lstrip()
        return bool(begin) and begin[:1] not in b"{[<"

    async def _read_body(self, request: InferenceRequest) -> None:
        self.body = await self.response.read()
        self.progress = self.reader.read_body(self.body)
        if self.progress is Progress.ERROR:
            self._refuse(self.body)
        elif self.progress is Progress.NONE:
            raise UpstreamMalformed("The provider's answer is no answer to this request.")
        elif request.is_stream:
            # SDKs would read it as a stream without events, and say nothing.
            raise UpstreamMalformed("The provider did not answer with a stream.")

    async def _begin_stream(self) -> None:
        while events := await self.response.events():
            passed, self.progress = self.take(events)
            # Comments fill a silence that is over when these events leave.
            self.events += [event for event in passed if event != KEEP_ALIVE]
            if self.progress is Progress.ERROR and not self._has_content:
                self._refuse(data_of(self.events[-1]))
                return
            if self.progress is Progress.END and not self._has_content:
                raise UpstreamFailed("The provider's stream has no content.", code="upstream_empty")
            if self.progress is not Progress.NONE or self._holds_too_much():
                return
        raise UpstreamFailed("The provider's stream ended before it was complete.", code="upstream_cut")

    def _holds_too_much(self) -> bool:
        return len(self.events) > _HELD_EVENTS or sum(map(len, self.events)) > _HELD_BYTES

    def _refuse(self, error: bytes) -> None:
        self.is_stream = False
        self.status = status_of(error)
        self.body = self.provider.scrub(error)
