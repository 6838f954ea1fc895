"""Cuts a stream of bytes into server-sent events, whole and unchanged.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import json
import re
from typing import Final

from common.errors import UpstreamFailed

KEEP_ALIVE: Final = b": ping\n\n"
"""A comment: every client ignores it, and nothing between the two closes an idle connection."""

_MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
# Each alternative begins with a character, so that the search skips what is neither: ten times as fast.
_LINE: Final = re.compile(rb"\r\n?|\n")
_END: Final = re.compile(rb"\r\n(?:\r\n?|\n)|\n(?:\r\n?|\n)|\r\r\n?")
# A number, which is found in a fifth of the time that bytes of length one take.
_CARRIAGE_RETURN: Final = 0x0D
_MARK: Final = b"\xef\xbb\xbf"
_NOT_FOR_SDKS: Final = (b"id", b"retry")


class EventSplitter:
    """Collects bytes and gives back whole events, each with the blank line that ends it.

    The work is linear in the bytes, however they come; a byte order mark at the beginning is dropped.
    """

    def __init__(self) -> None:
        self._start: bytes | None = b""
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that ``data`` completes; raises UpstreamFailed for an event over 32 MiB."""
        if self._start is not None:
            data = self._without_mark(self._start + data)
        rest = self._rest
        if not rest and _is_one_event(data):
            return [data]
        # What was there before holds no whole end but perhaps the begin of one: at most "\r\n\r".
        look_from = max(0, len(rest) - 3)
        window = bytes(rest[look_from:]) + data if rest else data
        events: list[bytes] = []
        if b"\n\n" in window or (b"\r" in window and _END.search(window)):
            data = bytes(rest) + data if rest else data
            rest.clear()
            events = self._cut(data, look_from=look_from)
        else:
            rest += data
        if len(rest) > _MAX_EVENT_BYTES:
            raise UpstreamFailed("The provider sent an event that is too large.", code="upstream_event_too_large")
        return events

    @property
    def pending(self) -> bool:
        """Say whether a part of an event waits for its rest."""
        return bool(self._rest)

    def end(self) -> list[bytes]:
        """Return the last event of a body that has ended well, when it is whole but for the blank line after it.

        The body's end also ends its last line, if the data is JSON or [DONE]: anything else may be half an event.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        if not rest.strip(b"\r\n"):
            return []
        if _END.search(rest):
            # It only waited for the second half of its line end.
            return [rest]
        data = data_of(rest)
        if not data or not (rest.endswith((b"\n", b"\r")) or _is_value(data)):
            return []
        return [rest + (b"\n" if rest.endswith(b"\n") else b"\n\n")]

    def _without_mark(self, start: bytes) -> bytes:
        if len(start) < len(_MARK) and _MARK.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_MARK)

    def _cut(self, data: bytes, *, look_from: int) -> list[bytes]:
        """Return the events in ``data`` and keep the rest; no event ends before ``look_from``."""
        if _CARRIAGE_RETURN not in data:
            *events, rest = data.split(b"\n\n")
            self._rest += rest
            return [event + b"\n\n" for event in events if event.strip(b"\n")]
        events = []
        start = 0
        for match in _END.finditer(data, look_from):
            # A return at the very end may be one half of a line end that is still on its way.
            if match.end() == len(data) and data.endswith(b"\r"):
                break
            event = data[start : match.end()]
            if event.strip(b"\r\n"):
                events.append(event)
            start = match.end()
        self._rest += data[start:]
        return events


def _is_value(data: bytes) -> bool:
    """Say whether an event's data is whole by itself."""
    if data.strip() == b"[DONE]":
        return True
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _is_one_event(data: bytes) -> bool:
    """Recognize what providers send most: one whole event of one line, which needs no copy."""
    return (
        data[:5] == b"data:"
        and data.find(b"\n") == len(data) - 2
        and data[-1:] == b"\n"
        and _CARRIAGE_RETURN not in data
    )


def read_event(event: bytes) -> tuple[bytes, bytes]:
    """Return the event as it is passed on, empty when nothing of it is, and its data: see ``cleaned`` and ``data_of``.

    The common case, one data line, is looked at once: this is on the path of every event.
    """
    if (
        event[:6] == b"data: "
        # Not a blank of any kind.
        and event[6:7] > b" "
        and event.find(b"\n") == len(event) - 2
        and _CARRIAGE_RETURN not in event
    ):
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
