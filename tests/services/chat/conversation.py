"""Answers of a provider, and a chat service around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.metering.account import Meter, Outbox
from common.metering.record import UsageRecord
from common.metering.units import Unit
from common.providers.provider import FakeAnswer, FakeProvider
from common.reply import Collected
from common.routing.router import Router
from common.telemetry import Telemetry
from services.chat.core import Chat, Spawn
from tests.common.builders import a_call
from tests.common.metering.fake_outbox import FakeOutbox

ASK: Final = b'{"model":"gpt","messages":[{"role":"user","content":"12345678"}]}'
ASK_STREAM: Final = b'{"model":"gpt","messages":[{"role":"user","content":"12345678"}],"stream":true}'
USAGE: Final = {
    "prompt_tokens": 10,
    "completion_tokens": 6,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
DONE: Final = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Return the value as a server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chunk(*, usage: Any = None, finish: str | None = None, **delta: Any) -> bytes:
    """Return a chunk with a delta, or one with a usage and no choices."""
    value: dict[str, Any] = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-1"}
    value["choices"] = [] if usage is not None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    if usage is not None:
        value["usage"] = usage
    return event(value)


EVENTS: Final = (
    chunk(role="assistant", content=""),
    chunk(content="Hel"),
    chunk(content="lo ä🎉"),
    chunk(finish="stop"),
    chunk(usage=USAGE),
    DONE,
)


def completion(*, usage: Any = USAGE, message: Mapping[str, Any] | None = None, finish: str = "stop") -> bytes:
    """Return a whole answer, spelled in a way that no encoder would choose."""
    value = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 7,
        "model": "gpt-1",
        "choices": [
            {"index": 0, "message": message or {"role": "assistant", "content": "Hello"}, "finish_reason": finish}
        ],
        "x": 1.50,
    }
    if usage is not None:
        value["usage"] = usage
    return json.dumps(value, indent=3).encode()


def stream_answer(*pieces: bytes | BaseException, content_type: str = "text/event-stream; charset=utf-8") -> FakeAnswer:
    """Return a streamed answer."""
    return FakeAnswer(pieces, content_type=content_type)


@dataclass(frozen=True)
class Got:
    """An answer as the caller got it."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        """All pieces."""
        return b"".join(self.pieces)


class Trial:
    """The chat service around a provider that gives these answers; it needs no event loop unless ``spawn`` does."""

    def __init__(
        self, *answers: FakeAnswer | BaseException, outbox: Outbox | None = None, spawn: Spawn = lambda stream: stream
    ) -> None:
        self.provider = FakeProvider(*answers)
        self.outbox = FakeOutbox()
        telemetry = Telemetry("chat")
        self.chat = Chat(
            Router(self.provider, telemetry=telemetry),
            meter=Meter(outbox or self.outbox, service="chat", telemetry=telemetry),
            spawn=spawn,
        )

    async def ask(self, body: bytes = ASK, *, metadata: Mapping[str, str] | None = None) -> Got:
        """Ask, and read the whole answer."""
        reply = Collected()
        last = await self.chat.answer(body, call=a_call(metadata=metadata or {}), reply=reply)
        head = reply.head
        return Got(head.status, head.content_type, head.headers, [*reply.pieces, *([last] if last else [])])

    @property
    def event(self) -> UsageRecord:
        """The one event."""
        (only,) = self.outbox.events
        return only

    @property
    def outcome(self) -> tuple[str, int, str]:
        """How the one event says that the request ended."""
        only = self.event
        return only.outcome.name if only.outcome else "", only.status, only.error_code

    @property
    def counts(self) -> tuple[str, int, int, int, int, int, int]:
        """What the one event counts: its source, then the classes, then the total."""
        only = self.event
        return (
            only.usage_source.name if only.usage_source else "",
            only.sum_of(Unit.UNCACHED_INPUT),
            only.sum_of(Unit.CACHE_READ),
            only.sum_of(Unit.CACHE_WRITE),
            only.sum_of(Unit.TEXT_OUTPUT),
            only.sum_of(Unit.REASONING),
            only.total_tokens,
        )


COUNTED: Final = ("PROVIDER", 6, 4, 0, 5, 1, 16)
"""The counts that USAGE stands for."""
