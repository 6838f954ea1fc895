"""The script of one answer: what is to be sent, and in which pieces. The faults that change events are applied here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from services.sandbox.core import Usage
from services.sandbox.faults import Faults

Outcome: TypeAlias = Literal["completed", "cut", "client_gone", "error"]
Headers: TypeAlias = tuple[tuple[str, str], ...]

DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One write of a body, with the completion tokens that the client has when it has all of it.

    An answer that has an event with `failed` ends with the outcome error.
    """

    data: bytes
    tokens: int = 0
    reasoning: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole answer."""

    status: int
    headers: Headers
    events: Iterable[Event]
    streamed: bool = False
    usage: Usage = field(default_factory=Usage)


def json_script(body: object, *, faults: Faults, usage: Usage, error: object, headers: Headers = ()) -> Script:
    """Make a script of an answer in JSON; `error` is the body that `error_event` puts in its place."""
    failed = faults.error_event == 1
    data = msgspec.json.encode(error if failed else body)
    if faults.malformed_event == 1:
        data = data[: len(data) // 2]
    return Script(
        status=200,
        headers=(("content-type", "application/json"), ("content-length", str(len(data))), *headers),
        events=(Event(data=data, failed=failed),),
        usage=Usage() if failed else usage,
    )


def stream_script(
    events: Iterable[Event], *, faults: Faults, usage: Usage, error: object, headers: Headers = ()
) -> Script:
    """Make a script of a stream of server-sent events; `error` is what `error_event` puts in the place of an event."""
    return Script(
        status=200,
        headers=(("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"), *headers),
        events=_faulty(events, faults=faults, error=error),
        streamed=True,
        usage=usage,
    )


def error_script(body: object, *, status: int, faults: Faults, headers: Headers = ()) -> Script:
    """Make a script of an error answer in JSON, or in HTML when the faults give its body."""
    data = msgspec.json.encode(body) if faults.error_body is None else faults.error_body.encode()
    content_type = "application/json" if faults.error_body is None else "text/html; charset=utf-8"
    return Script(
        status=status,
        headers=(("content-type", content_type), ("content-length", str(len(data))), *_retry_headers(faults), *headers),
        events=(Event(data=data, failed=True),),
    )


def sse(payload: object) -> bytes:
    """Write a payload as one server-sent event."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def _faulty(events: Iterable[Event], *, faults: Faults, error: object) -> Iterator[Event]:
    for number, event in enumerate(events, start=1):
        if number == faults.error_event:
            yield Event(data=sse(error), failed=True)
            return
        if faults.no_done and event.data == DONE:
            return
        broken = number == faults.malformed_event
        yield Event(data=event.data[: len(event.data) // 2] + b"\n\n") if broken else event


def _retry_headers(faults: Faults) -> Iterator[tuple[str, str]]:
    if faults.retry_after is not None:
        yield "retry-after", str(faults.retry_after)
    if faults.retry_after_ms is not None:
        yield "retry-after-ms", str(faults.retry_after_ms)
    if faults.should_retry is not None:
        yield "x-should-retry", "true" if faults.should_retry else "false"
