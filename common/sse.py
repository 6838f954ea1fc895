"""Cuts a stream of bytes into server-sent events, whole and unchanged.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from typing import Final

from common.errors import UpstreamFailed

KEEP_ALIVE: Final = b": ping\n\n"
"""A comment: every client ignores it, and nothing between the two closes an idle connection."""

_MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE: Final = re.compile(rb"\r\n|\n|\r")


class EventSplitter:
    """Collects bytes and gives back whole events, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that ``data`` completes; raises UpstreamFailed for an event over 32 MiB."""
        rest = self._rest + data if self._rest else data
        if b"\r" not in rest:
            *events, self._rest = rest.split(b"\n\n")
            self._check()
            return [event + b"\n\n" for event in events if event.strip(b"\n")]
        return self._feed_with_returns(rest)

    @property
    def rest(self) -> bytes:
        """What was fed and belongs to no whole event yet."""
        return self._rest

    def _feed_with_returns(self, rest: bytes) -> list[bytes]:
        events: list[bytes] = []
        start = 0
        for match in _END.finditer(rest):
            # A return at the very end may be one half of a line end that is still on its way.
            if match.end() == len(rest) and rest.endswith(b"\r"):
                break
            event = rest[start : match.end()]
            if event.strip(b"\r\n"):
                events.append(event)
            start = match.end()
        self._rest = rest[start:]
        self._check()
        return events

    def _check(self) -> None:
        if len(self._rest) > _MAX_EVENT_BYTES:
            raise UpstreamFailed("The provider sent an event that is too large.", code="upstream_event_too_large")


def data_of(event: bytes) -> bytes:
    """Return an event's data, without the field name; empty for comments and for events without data."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines)


def cleaned(event: bytes) -> bytes:
    """Return the event without what makes OpenAI's SDKs fail: ``id`` and ``retry`` fields, and data that is empty.

    An event of which nothing is left comes back empty. The common case, one data line, comes back as it is.
    """
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and len(event) > 8:
        return event
    lines = [line for line in _LINE.split(event) if line and not line.startswith((b"id", b"retry"))]
    if not any(line.startswith(b":") for line in lines) and not data_of(event).strip():
        return b""
    return b"\n".join(lines) + b"\n\n"
