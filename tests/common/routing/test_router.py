"""The router: where a request goes, and that it is the only one who repeats a request."""

from __future__ import annotations

import asyncio
from types import MappingProxyType

import pytest
from pydantic import SecretStr

from common.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from common.metering.account import Account, Meter
from common.providers.provider import Provider
from common.routing.deployment import Deployment
from common.routing.routed_answer import RoutedAnswer
from common.routing.router import Exchange, Router
from common.telemetry import Telemetry
from common.upstream.http import UnreachableError
from tests.common.builders import RefusingOutbox, a_call, ticks
from tests.common.dialects.conversation import ASK, ASK_STREAM, CHAT, DONE, EVENTS, completion, stream_answer
from tests.common.metering.fake_outbox import FakeOutbox
from tests.common.upstream.fake_client import FAKE_PROVIDER, FakeClient, FakeResponse, deployment

_AWAY = UnreachableError("away", code="upstream_unreachable")
_CUT = UpstreamFailed("cut", code="upstream_cut")


class Trial:
    """A router around a client, with sleeps that are noted and not slept."""

    def __init__(self, *deployments: Deployment) -> None:
        self.outbox = FakeOutbox()
        self.slept: list[float] = []
        self.meter = Meter(self.outbox, service="chat", telemetry=Telemetry("chat"))
        self.router = Router(deployments, hint="set KEY", sleep=self._sleep, jitter=lambda: 0.5, clock=ticks().__next__)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def begin(self, body: bytes = ASK, *, account: Account | None = None) -> RoutedAnswer:
        request = CHAT.read(body)
        exchange = Exchange(CHAT, request, {"x-request-id": "req-1"}, request.reader())
        with account or self.meter.open(a_call(), type="chat") as opened:
            return await self.router.begin(exchange, opened)


def trial_of(*responses: FakeResponse | BaseException) -> tuple[Trial, FakeClient]:
    client = FakeClient(*responses)
    return Trial(deployment(client)), client


async def test_an_answer_has_begun_when_it_is_read_and_its_caller_closes_it() -> None:
    response = FakeResponse([completion()])
    trial, client = trial_of(response)
    answer = await trial.begin()
    assert (answer.status, answer.is_stream, answer.body) == (200, False, completion())
    assert not response.closed
    assert client.urls == ["https://fake.test/v1/chat/completions"]
    assert client.bodies == [ASK]
    assert client.headers[0]["authorization"] == "Bearer hushed"
    assert client.headers[0]["x-request-id"] == "req-1"


async def test_a_stream_has_begun_with_its_first_content_and_no_sooner() -> None:
    trial, _ = trial_of(stream_answer(*EVENTS))
    answer = await trial.begin(ASK_STREAM)
    assert answer.is_stream
    assert answer.events == list(EVENTS[:2])


async def test_a_stream_that_brings_much_before_its_content_is_not_held_for_ever() -> None:
    comments = [b": processing\n\n"] * 100
    trial, _ = trial_of(stream_answer(*comments, *EVENTS))
    answer = await trial.begin(ASK_STREAM)
    assert answer.events == comments[: len(answer.events)]
    assert 64 < len(answer.events) < 100


async def test_a_provider_that_was_not_reached_is_asked_again_after_a_while() -> None:
    trial, client = trial_of(_AWAY, FakeResponse([completion()]))
    await trial.begin()
    assert len(client.bodies) == 2
    assert trial.slept == [0.125]
    assert len(trial.outbox.intents) == 1
    (record,) = trial.outbox.events
    assert [(each.status, each.may_be_billed, each.milliseconds) for each in record.attempts] == [
        (0, False, 250),
        (200, True, 250),
    ]


async def test_a_provider_that_is_never_reached_is_not_asked_for_ever() -> None:
    trial, client = trial_of(*[_AWAY] * 10)
    with pytest.raises(UnreachableError):
        await trial.begin()
    assert len(client.bodies) == 2
    (record,) = trial.outbox.events
    assert (record.status, record.error_code, len(record.attempts)) == (502, "upstream_unreachable", 2)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamFailed("cut", code="upstream_failed"),
        UpstreamTimeout("slow"),
        Unavailable("none"),
        RuntimeError("a bug"),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_may_have_reached_the_provider_is_never_repeated(error: BaseException) -> None:
    trial, client = trial_of(error, FakeResponse([completion()]))
    with pytest.raises(type(error)):
        await trial.begin()
    assert (len(client.bodies), trial.slept) == (1, [])
    (record,) = trial.outbox.events
    assert [each.may_be_billed for each in record.attempts] == [True]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_error_status_is_an_answer_and_not_repeated(status: int) -> None:
    trial, client = trial_of(FakeResponse([b'{"error":"hushed"}'], status=status), FakeResponse([b"other"]))
    answer = await trial.begin()
    assert (answer.refused, answer.status, answer.body) == (True, status, b'{"error":"***"}')
    assert len(client.bodies) == 1
    (record,) = trial.outbox.events
    assert [(each.status, each.may_be_billed) for each in record.attempts] == [(status, False)]


@pytest.mark.parametrize("body", [ASK, ASK_STREAM], ids=["whole", "stream"])
async def test_an_answer_is_closed_when_it_does_not_begin(body: bytes) -> None:
    for response in (
        FakeResponse([_CUT]),
        stream_answer(_CUT),
        stream_answer(EVENTS[0], _CUT),
        stream_answer(DONE),
        FakeResponse([b"<html>"]),
        FakeResponse([_CUT], status=500),
    ):
        trial, _ = trial_of(response)
        with pytest.raises(UpstreamFailed):
            await trial.begin(body)
        assert response.closed


async def test_what_cannot_be_put_on_record_is_not_asked() -> None:
    trial, client = trial_of(FakeResponse([completion()]))
    refusing = Meter(RefusingOutbox(Unavailable("full"), intents=True), service="chat", telemetry=Telemetry("chat"))
    with pytest.raises(Unavailable):
        await trial.begin(account=refusing.open(a_call(), type="chat"))
    assert client.bodies == []


async def test_without_a_provider_the_operator_is_told_what_to_set() -> None:
    with pytest.raises(Unavailable, match="set KEY") as raised:
        await Trial().begin()
    assert raised.value.code == "no_provider"


async def test_only_a_provider_that_speaks_the_dialect_is_asked() -> None:
    silent, client = FakeClient(), FakeClient(FakeResponse([completion()]))
    reads = Provider("reads", "https://reads.test", MappingProxyType({"mistral_ocr": "/ocr"}), SecretStr(""))
    await Trial(deployment(silent, reads), deployment(client)).begin()
    assert (len(silent.bodies), len(client.bodies)) == (0, 1)


async def test_a_deployment_gives_the_model_the_providers_name_and_leaves_the_rest() -> None:
    client = FakeClient(FakeResponse([completion()]))
    trial = Trial(Deployment(FAKE_PROVIDER, client, model="gpt-of-the-house"))
    await trial.begin(b'{"n": 1.50, "model": "gpt", "messages": [ ]}')
    assert client.bodies == [b'{"n":1.50,"model":"gpt-of-the-house","messages":[ ]}']
    (record,) = trial.outbox.events
    assert (record.model, record.attempts[0].model) == ("", "gpt-of-the-house")
