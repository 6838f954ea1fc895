"""A dialect and a provider that the house does not know: each is a few lines, and nothing else changes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import msgspec
from pydantic import SecretStr

from common.dialects.dialect import Progress, Usage
from common.errors import InvalidRequest, TurnpikeError
from common.metering.account import Meter
from common.metering.record import Outcome, UsageSource
from common.metering.units import Unit
from common.providers.provider import Provider
from common.relay import Relay
from common.reply import Collected
from common.routing.deployment import Deployment
from common.routing.router import Router
from common.telemetry import Telemetry
from common.upstream.http import Body
from tests.architecture.source import modules
from tests.common.builders import a_call
from tests.common.metering.fake_outbox import FakeOutbox
from tests.common.upstream.fake_client import FakeClient, FakeResponse


class EchoReader:
    """Counts a word for each event, until one says bye."""

    def __init__(self, words: int) -> None:
        self._words = words
        self._echoed = 0
        self.finished = False

    def feed(self, data: bytes) -> Progress:
        self._echoed += 1
        self.finished = data == b"bye"
        return Progress.END if self.finished else Progress.CONTENT

    def read_body(self, body: bytes) -> Progress:
        self._echoed = len(body.split())
        return Progress.CONTENT if body else Progress.NONE

    def usage(self) -> Usage:
        counts = {Unit.UNCACHED_INPUT: self._words, Unit.TEXT_OUTPUT: self._echoed}
        return Usage(counts, UsageSource.PROVIDER, self._words + self._echoed, "echo-1")


class EchoRequest(msgspec.Struct):
    model: str
    say: str
    is_stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None

    def body(self, *, model: str, ask_usage: bool) -> Body:
        return f"{model} {self.say}".encode()

    def reader(self) -> EchoReader:
        return EchoReader(len(self.say.split()))


class Echo:
    name = "echo"
    operation = "echo"
    request_headers: Sequence[str] = ()

    def read(self, body: bytes | memoryview) -> EchoRequest:
        try:
            return msgspec.json.decode(body, type=EchoRequest)
        except ValueError:
            raise InvalidRequest("Say something.") from None

    def error_event(self, error: TurnpikeError) -> bytes:
        return b"data: sorry\n\n"


def parrot(*, api_key: SecretStr) -> Provider:
    """Return a provider that speaks a dialect of its own."""
    return Provider("parrot", "https://parrot.test", {"echo": "/say"}, api_key)


async def _answered(body: bytes, *pieces: bytes, content_type: str) -> tuple[bytes, FakeClient, FakeOutbox]:
    client, outbox, telemetry = (
        FakeClient(FakeResponse(pieces, content_type=content_type)),
        FakeOutbox(),
        Telemetry("x"),
    )
    relay = Relay(
        Router([Deployment(parrot(api_key=SecretStr("key")), client)]),
        meter=Meter(outbox, service="x", telemetry=telemetry),
        telemetry=telemetry,
    )
    reply = Collected()
    last = await relay.answer(body, dialect=Echo(), call=a_call(), reply=reply)
    return reply.body(last), client, outbox


async def test_a_made_up_dialect_is_answered_and_metered() -> None:
    body, client, outbox = await _answered(b'{"model":"p","say":"a b c"}', b"a b c d", content_type="text/plain")
    (record,) = outbox.events
    assert (body, client.urls, client.bodies) == (b"a b c d", ["https://parrot.test/say"], [b"p a b c"])
    assert (record.type, record.outcome, record.total_tokens) == ("echo", Outcome.COMPLETED, 7)


async def test_a_stream_of_it_ends_where_it_says_so() -> None:
    events = [b"data: hi\n\n", b"data: bye\n\n"]
    asked = b'{"model":"p","say":"a","is_stream":true}'
    body, _, outbox = await _answered(asked, *events, b"data: more\n\n", content_type="text/event-stream")
    (record,) = outbox.events
    assert (body, record.outcome, record.total_tokens) == (b"".join(events), Outcome.COMPLETED, 3)


def test_they_take_fewer_than_60_lines_and_nobody_else_knows_them() -> None:
    dialect = sum(len(inspect.getsource(each).splitlines()) for each in (EchoReader, EchoRequest, Echo))
    assert dialect < 60
    assert len(inspect.getsource(parrot).splitlines()) < 60
    product = modules("common", "services")
    assert [str(each) for each in product if "parrot" in each.text or '"echo"' in each.text] == []
