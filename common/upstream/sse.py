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
_LINE: Final = re.compile(rb"\r\n|\n|\r(?!\n)")
_END: Final = re.compile(rb"(?:%b){2}" % _LINE.pattern)
_NOT_FOR_SDKS: Final = (b"id", b"retry")


class EventSplitter:
    """Collects bytes and gives back whole events, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that ``data`` completes; raises UpstreamFailed for an event over 32 MiB."""
        if not self._rest and _is_one_event(data):
            return [data]
        rest = self._rest + data if self._rest else data
        if b"\r" not in rest:
            *events, self._rest = rest.split(b"\n\n")
            self._check()
            return [event + b"\n\n" for event in events if event.strip(b"\n")]
        # What was there before holds no whole end but perhaps the begin of one: at most "\r\n\r".
        return self._feed_with_returns(rest, look_from=max(0, len(self._rest) - 3))

    @property
    def pending(self) -> bool:
        """Say whether a part of an event waits for its rest."""
        return bool(self._rest)

    def end(self) -> list[bytes]:
        """Return the event that only waited for the second half of its line end; half an event is dropped."""
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip(b"\r\n") and _END.search(rest) else []

    def _feed_with_returns(self, rest: bytes, *, look_from: int) -> list[bytes]:
        events: list[bytes] = []
        start = 0
        for match in _END.finditer(rest, look_from):
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


def _is_one_event(data: bytes) -> bool:
    """Recognize what providers send most: one whole event by itself, which needs no copy."""
    return (
        data.startswith(b"data:")
        and data.endswith(b"\n\n")
        and data.find(b"\n\n") == len(data) - 2
        and b"\r" not in data
    )


def read_event(event: bytes) -> tuple[bytes, bytes]:
    """Return the event as it is passed on, empty when nothing of it is, and its data: see ``cleaned`` and ``data_of``.

    The common case, one data line, is looked at once: this is on the path of every event.
    """
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and b"\r" not in event and not event[6:7].isspace():
        return event, event[6:-2]
    passed = cleaned(event)
    return passed, data_of(passed)


def data_of(event: bytes) -> bytes:
    """Return an event's data, without the field name; empty for comments and for events without data."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line for line in _LINE.split(event) if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def cleaned(event: bytes) -> bytes:
    """Return the event without what makes OpenAI's SDKs fail: ``id`` and ``retry`` fields, and data that is empty.

    Without data only comments are left, and where there are none nothing.
    """
    lines = [line for line in _LINE.split(event) if line and line.partition(b":")[0] not in _NOT_FOR_SDKS]
    if not data_of(event).strip():
        lines = [line for line in lines if line.startswith(b":")]
    return b"\n".join(lines) + b"\n\n" if lines else b""
