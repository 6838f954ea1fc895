"""One request through a relay, and what it leaves: the answer as its caller got it, and the one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.dialects.dialect import Dialect
from common.metering.account import Meter, Outbox
from common.metering.record import UsageRecord
from common.metering.units import Unit
from common.relay import Relay, Spawn
from common.reply import Collected
from common.request import Call
from common.routing.early_keep_alive import KeepAliveFactory, NullKeepAlive
from common.routing.router import Router
from common.telemetry import Telemetry
from tests.common.builders import a_call
from tests.common.metering.fake_outbox import FakeOutbox
from tests.common.upstream.fake_client import FAKE_PROVIDER, FakeClient, FakeResponse, deployment


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
    """A relay around a provider that gives these answers; it needs no event loop unless ``spawn`` does."""

    def __init__(
        self,
        *responses: FakeResponse | BaseException,
        outbox: Outbox | None = None,
        spawn: Spawn = lambda stream: stream,
        keep_alive: KeepAliveFactory = NullKeepAlive,
        service: str = "chat",
    ) -> None:
        self.client = FakeClient(*responses)
        self.outbox = FakeOutbox()
        telemetry = Telemetry(service)
        self.relay = Relay(
            Router([deployment(self.client, FAKE_PROVIDER)], hint="set KEY"),
            meter=Meter(outbox or self.outbox, service=service, telemetry=telemetry),
            telemetry=telemetry,
            spawn=spawn,
            keep_alive=keep_alive,
        )

    async def send(self, body: bytes | memoryview, *, dialect: Dialect, call: Call | None = None) -> Got:
        """Send a request, and read all of the answer."""
        reply = Collected()
        last = await self.relay.answer(body, dialect=dialect, call=call or a_call(), reply=reply)
        head = reply.head
        return Got(head.status, head.content_type, head.headers, [*reply.pieces, *last])

    @property
    def record(self) -> UsageRecord:
        """The one record."""
        (only,) = self.outbox.events
        return only

    @property
    def outcome(self) -> tuple[str, int, str]:
        """How the one record says that the request ended."""
        only = self.record
        assert only.outcome is not None
        return only.outcome.name, only.status, only.error_code

    @property
    def counts(self) -> tuple[Any, ...]:
        """What the one record counts: its source, then the classes of tokens, then the total."""
        only = self.record
        assert only.usage_source is not None
        classes = (Unit.UNCACHED_INPUT, Unit.CACHE_READ, Unit.CACHE_WRITE, Unit.TEXT_OUTPUT, Unit.REASONING)
        return (only.usage_source.name, *(only.quantities.get(unit, 0) for unit in classes), only.total_tokens)
