"""The router: the only one who repeats a request, and what it lets through of an answer's head."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from common.metering.account import Account, Meter
from common.providers.provider import Answer, FakeAnswer, FakeProvider, NullProvider, Provider
from common.routing.router import Router, passed_on
from common.telemetry import Telemetry
from common.upstream.http import UnreachableError
from tests.common.builders import RefusingOutbox, a_call
from tests.common.metering.fake_outbox import FakeOutbox

_AWAY = UnreachableError("away", code="upstream_unreachable")


class Trial:
    """A router around a provider, with sleeps that are noted and not slept."""

    def __init__(self, provider: Provider) -> None:
        self.outbox = FakeOutbox()
        self.slept: list[float] = []
        telemetry = Telemetry("chat")
        self.meter = Meter(self.outbox, service="chat", telemetry=telemetry)
        self.router = Router(provider, telemetry=telemetry, sleep=self._sleep, jitter=lambda: 0.5)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def ask(self, *, account: Account | None = None, headers: dict[str, str] | None = None) -> bytes:
        call = a_call()

        async def answered(_: Provider, answer: Answer) -> bytes:
            return await answer.read()

        with account or self.meter.open(call, type="chat") as opened:
            return await self.router.chat(b"{}", call=call, account=opened, headers=headers or {}, answered=answered)

    @property
    def attempts(self) -> int:
        (event,) = self.outbox.events
        return len(event.attempts)


async def test_an_answer_is_given_and_closed() -> None:
    answer = FakeAnswer([b"{}"])
    trial = Trial(FakeProvider(answer))
    assert await trial.ask() == b"{}"
    assert answer.closed
    assert (trial.attempts, trial.slept) == (1, [])


async def test_a_provider_that_was_not_reached_is_asked_again_after_a_while() -> None:
    provider = FakeProvider(_AWAY, FakeAnswer([b"{}"]))
    trial = Trial(provider)
    assert await trial.ask() == b"{}"
    assert (trial.attempts, len(provider.asked)) == (2, 2)
    assert trial.slept == [0.125]
    assert len(trial.outbox.intents) == 1


async def test_a_provider_that_is_never_reached_is_not_asked_for_ever() -> None:
    provider = FakeProvider(*[_AWAY] * 10)
    trial = Trial(provider)
    with pytest.raises(UnreachableError):
        await trial.ask()
    assert (trial.attempts, len(provider.asked)) == (2, 2)
    (event,) = trial.outbox.events
    assert (event.status, event.error_code) == (502, "upstream_unreachable")


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
    provider = FakeProvider(error, FakeAnswer([b"{}"]))
    trial = Trial(provider)
    with pytest.raises(type(error)):
        await trial.ask()
    assert (trial.attempts, len(provider.asked), trial.slept) == (1, 1, [])


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_error_status_is_an_answer_and_not_repeated(status: int) -> None:
    provider = FakeProvider(FakeAnswer([b"{}"], status=status), FakeAnswer([b"other"]))
    assert await Trial(provider).ask() == b"{}"


async def test_an_answer_is_closed_when_its_reading_fails() -> None:
    answer = FakeAnswer([UpstreamFailed("cut", code="upstream_cut")])
    with pytest.raises(UpstreamFailed):
        await Trial(FakeProvider(answer)).ask()
    assert answer.closed


async def test_what_cannot_be_put_on_record_is_not_asked() -> None:
    provider = FakeProvider(FakeAnswer([b"{}"]))
    trial = Trial(provider)
    refusing = Meter(RefusingOutbox(Unavailable("full"), intents=True), service="chat", telemetry=Telemetry("chat"))
    with pytest.raises(Unavailable):
        await trial.ask(account=refusing.open(a_call(), type="chat"))
    assert provider.asked == []


async def test_without_a_provider_the_operator_is_told_what_to_set() -> None:
    with pytest.raises(Unavailable, match="OPENAI_API_KEY or OPENAI_BASE_URL") as raised:
        await Trial(NullProvider()).ask()
    assert raised.value.code == "no_provider"


async def test_the_provider_gets_the_request_id_and_the_given_headers() -> None:
    provider = FakeProvider(FakeAnswer([b"{}"]))
    await Trial(provider).ask(headers={"openai-beta": "x", "x-request-id": "the caller's"})
    ((body, headers),) = provider.asked
    assert body == b"{}"
    assert headers == {"openai-beta": "x", "x-request-id": "req-1"}


def test_rate_limits_and_retry_hints_are_passed_on_and_the_operators_names_are_not() -> None:
    given = {
        "Retry-After": "5",
        "retry-after-ms": "5000",
        "X-Should-Retry": "false",
        "X-RateLimit-Remaining-Tokens": "7",
        "anthropic-ratelimit-requests-limit": "9",
        "openai-processing-ms": "12",
        "OpenAI-Version": "2020-10-01",
        "x-request-id": "req_upstream",
        "openai-organization": "org-of-the-operator",
        "openai-project": "proj_1",
        "Set-Cookie": "a=b",
        "content-length": "5",
        "content-encoding": "gzip",
        "transfer-encoding": "chunked",
        "server": "cloudflare",
        "x-http-status": "418",
        "x-error-body": "{}",
        "grpc-status": "0",
        "x-ratelimit-odd": "ä",
        "x-ratelimit-worse": "a\nb",
    }
    assert passed_on(given) == {
        "retry-after": "5",
        "retry-after-ms": "5000",
        "x-should-retry": "false",
        "x-ratelimit-remaining-tokens": "7",
        "anthropic-ratelimit-requests-limit": "9",
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "x-upstream-request-id": "req_upstream",
    }
