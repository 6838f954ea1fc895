"""The account of a request: one event, whatever ends it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from common.errors import (
    ERRORS,
    Internal,
    InvalidRequest,
    TurnpikeError,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from common.metering.account import Account, Measured, Meter, Outcome, TokenCounts, UsageSource, outcome_of, uuid7_bytes
from common.metering.outbox import FakeOutbox, Outbox
from common.telemetry import Telemetry
from common.upstream.http import UnreachableError
from tests.common.builders import RefusingOutbox, a_call, ticks
from turnpike.usage.v1 import ingest_pb2

_NOW_NS = 1_700_000_000_123_456_789


def meter(outbox: Outbox) -> Meter:
    seconds = ticks()
    return Meter(
        outbox, service="chat", telemetry=Telemetry("chat"), now_ns=lambda: _NOW_NS, clock=lambda: next(seconds)
    )


def an_account(outbox: Outbox) -> Account:
    return meter(outbox).open(a_call(), type="chat")


def the_event(outbox: FakeOutbox) -> ingest_pb2.UsageEvent:
    (event,) = outbox.events
    return event


def test_an_event_says_who_asked_for_what_and_how() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.describe(
            Measured(model="gpt", stream=True, bytes_in=10, max_tokens=5, temperature=0.0, top_p=1.0),
        )
        account.attempt("openai")
        account.first_byte()
        account.sent(3)
        account.sent(4)
        account.settle(Outcome.COMPLETED, status=200)
    event = the_event(outbox)
    assert (event.user_id, event.token_id, event.request_id) == ("alice", "tok_1", "req-1")
    assert (event.service, event.type, event.method, event.path) == ("chat", "chat", "POST", "/v1/chat/completions")
    assert (event.model, event.stream, event.bytes_in, event.bytes_out) == ("gpt", True, 10, 7)
    assert (event.max_tokens, event.temperature, event.top_p) == (5, 0.0, 1.0)
    assert event.HasField("temperature")
    assert (event.provider, event.attempts, event.status, event.error_code) == ("openai", 1, 200, "")
    assert (event.outcome, event.usage_source) == (ingest_pb2.OUTCOME_COMPLETED, ingest_pb2.USAGE_SOURCE_NONE)
    assert (event.first_byte_ms, event.latency_ms) == (250, 500)


def test_what_the_caller_did_not_say_is_unset() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.describe(Measured(model="gpt", stream=False, bytes_in=1, max_tokens=-1))
    event = the_event(outbox)
    assert {field.name for field, _ in event.ListFields()} & {"max_tokens", "temperature", "top_p"} == set()
    assert event.first_byte_ms == 0


def test_the_intent_is_on_record_before_the_first_attempt_and_only_once() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        assert outbox.intents == []
        account.attempt("first")
        (intent,) = outbox.intents
        assert (intent.provider, intent.attempts, intent.outcome) == ("first", 1, ingest_pb2.OUTCOME_UNSPECIFIED)
        account.attempt("second")
    assert len(outbox.intents) == 1
    assert (the_event(outbox).attempts, the_event(outbox).provider) == (2, "second")
    assert the_event(outbox).event_id == outbox.intents[0].event_id


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_reaches_the_event_under_its_own_name(outcome: Outcome) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.settle(outcome, status=200)
    assert ingest_pb2.Outcome.Name(the_event(outbox).outcome) == f"OUTCOME_{outcome.name}"


@pytest.mark.parametrize("source", UsageSource)
def test_each_source_reaches_the_event_under_its_own_name(source: UsageSource) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.count(TokenCounts(), source=source)
    assert ingest_pb2.UsageSource.Name(the_event(outbox).usage_source) == f"USAGE_SOURCE_{source.name}"


@pytest.mark.parametrize(
    ("error", "outcome", "status", "code"),
    [
        (None, Outcome.FAILED, 500, "internal_error"),
        (asyncio.CancelledError(), Outcome.CLIENT_GONE, 499, "client_gone"),
        (GeneratorExit(), Outcome.CLIENT_GONE, 499, "client_gone"),
        (RuntimeError("a bug"), Outcome.FAILED, 500, "internal_error"),
        (KeyboardInterrupt(), Outcome.FAILED, 500, "internal_error"),
        (InvalidRequest("no"), Outcome.FAILED, 400, "invalid_request"),
        (InvalidRequest("no", code="empty_body"), Outcome.FAILED, 400, "empty_body"),
        (UpstreamTimeout("slow"), Outcome.TIMED_OUT, 504, "upstream_timeout"),
        (UpstreamFailed("cut", code="upstream_cut"), Outcome.UPSTREAM_CUT, 502, "upstream_cut"),
        (UpstreamFailed("odd", code="upstream_malformed"), Outcome.FAILED, 502, "upstream_malformed"),
        (UnreachableError("away", code="upstream_unreachable"), Outcome.FAILED, 502, "upstream_unreachable"),
        (UpstreamRefused("teapot", status=418), Outcome.FAILED, 418, "upstream_refused"),
        (Unavailable("later", code="usage_backlog"), Outcome.FAILED, 503, "usage_backlog"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_leaves_the_block_decides_the_one_event(
    error: BaseException | None, outcome: Outcome, status: int, code: str
) -> None:
    outbox = FakeOutbox()

    def serve() -> None:
        with an_account(outbox) as account:
            account.attempt("openai")
            if error is not None:
                raise error

    if error is None:
        serve()
    else:
        with pytest.raises(type(error)) as raised:
            serve()
        assert raised.value is error
    event = the_event(outbox)
    assert ingest_pb2.Outcome.Name(event.outcome) == f"OUTCOME_{outcome.name}"
    assert (event.status, event.error_code) == (status, code)


@pytest.mark.parametrize("kind", [*ERRORS, UnreachableError, TurnpikeError])
def test_every_error_has_an_outcome(kind: type[TurnpikeError]) -> None:
    outcome, status, code = outcome_of(kind("message"))
    assert outcome in Outcome
    assert 400 <= status < 600
    assert code


@pytest.mark.parametrize(
    "ending",
    [None, asyncio.CancelledError(), GeneratorExit(), Internal("a bug")],
    ids=["normally", "cancelled", "closed", "failed"],
)
def test_what_happens_after_the_settlement_changes_nothing(ending: BaseException | None) -> None:
    outbox = FakeOutbox()

    def serve() -> None:
        with an_account(outbox) as account:
            account.settle(Outcome.COMPLETED, status=200)
            assert account.settled
            account.settle(Outcome.FAILED, status=500, error_code="late")
            if ending is not None:
                raise ending

    if ending is None:
        serve()
    else:
        with pytest.raises(type(ending)):
            serve()
    assert (the_event(outbox).outcome, the_event(outbox).status) == (ingest_pb2.OUTCOME_COMPLETED, 200)


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Suspend whoever awaits it, without an event loop."""
    yield


async def served(outbox: Outbox) -> None:
    await pause()
    with an_account(outbox) as account:
        await pause()
        account.attempt("openai")
        await pause()
        account.first_byte()
        await pause()
        account.settle(Outcome.COMPLETED, status=200)
        await pause()
    await pause()


@pytest.mark.parametrize("end", ["cancelled", "closed"])
@pytest.mark.parametrize("point", range(1, 7))
def test_an_end_at_any_await_leaves_exactly_one_event(point: int, end: str) -> None:
    outbox = FakeOutbox()
    serving = served(outbox)
    for _ in range(point):
        serving.send(None)
    if end == "cancelled":
        with pytest.raises(asyncio.CancelledError):
            serving.throw(asyncio.CancelledError())
    else:
        serving.close()
    outcomes = [event.outcome for event in outbox.events]
    if point == 1:
        assert outcomes == []
    else:
        assert outcomes == [ingest_pb2.OUTCOME_CLIENT_GONE if point <= 4 else ingest_pb2.OUTCOME_COMPLETED]


def test_an_outbox_that_refuses_the_intent_stops_the_attempt_and_counts_the_failure() -> None:
    refused = Unavailable("full", code="usage_backlog")
    outbox = RefusingOutbox(refused, intents=True)
    with an_account(outbox) as account:
        with pytest.raises(Unavailable) as raised:
            account.attempt("openai")
        assert raised.value is refused


def test_an_outbox_that_refuses_the_event_does_not_hide_the_callers_error() -> None:
    outbox = RefusingOutbox(Unavailable("full"), events=True)
    with capture_logs() as logs, pytest.raises(InvalidRequest), an_account(outbox):
        raise InvalidRequest("no")
    assert [line["event"] for line in logs] == ["an event could not be written"]


def test_an_outbox_that_refuses_the_event_stops_an_answer_that_was_not_sent_yet() -> None:
    outbox = RefusingOutbox(Unavailable("full"), events=True)
    with pytest.raises(Unavailable), an_account(outbox) as account:
        account.settle(Outcome.COMPLETED, status=200)


def test_a_later_count_replaces_an_earlier_one() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.count(TokenCounts(1, 2, 3, 4, 5, 15), source=UsageSource.ESTIMATED)
        account.count(TokenCounts(10, 0, 0, 7, 0, 17), source=UsageSource.PROVIDER, upstream_model="gpt-5-2026")
    event = the_event(outbox)
    assert (
        event.uncached_input_tokens,
        event.cache_read_tokens,
        event.cache_write_tokens,
        event.text_output_tokens,
        event.reasoning_tokens,
        event.total_tokens,
    ) == (10, 0, 0, 7, 0, 17)
    assert event.upstream_model == "gpt-5-2026"


def test_each_token_class_has_its_own_field() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.count(TokenCounts(1, 2, 3, 4, 5, 15), source=UsageSource.PROVIDER)
    event = the_event(outbox)
    assert (event.uncached_input_tokens, event.cache_read_tokens, event.cache_write_tokens) == (1, 2, 3)
    assert (event.text_output_tokens, event.reasoning_tokens, event.total_tokens) == (4, 5, 15)


@given(st.builds(TokenCounts, *[st.integers(0, 2**70)] * 6), st.text(), st.integers())
def test_no_number_or_name_is_too_large_for_an_event(counts: TokenCounts, name: str, max_tokens: int) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.describe(Measured(model=name * 1000, stream=False, bytes_in=1, max_tokens=max_tokens))
        account.count(counts, source=UsageSource.PROVIDER, upstream_model=name * 1000)
    assert the_event(outbox).ByteSize() < 4096


@given(st.integers(0, 2**48 - 1), st.integers(0, 999_999))
def test_an_event_id_is_a_uuid7_of_its_time(milliseconds: int, nanoseconds: int) -> None:
    made = uuid7_bytes(milliseconds * 1_000_000 + nanoseconds)
    number = int.from_bytes(made, "big")
    assert len(made) == 16
    assert number >> 80 == milliseconds
    assert number >> 76 & 0xF == 7
    assert number >> 62 & 0b11 == 0b10


def test_event_ids_of_one_moment_differ() -> None:
    assert len({uuid7_bytes(_NOW_NS) for _ in range(10_000)}) == 10_000


def test_an_accounts_id_has_the_meters_time() -> None:
    assert int.from_bytes(an_account(FakeOutbox()).event.event_id[:6], "big") == _NOW_NS // 1_000_000


@pytest.mark.parametrize("clock", [lambda: -5.0, lambda: 1e12], ids=["a clock that ran backwards", "an endless call"])
def test_a_latency_always_fits(clock: Callable[[], float]) -> None:
    outbox = FakeOutbox()
    numbers = count()
    odd = Meter(outbox, service="chat", telemetry=Telemetry("chat"), now_ns=lambda: next(numbers), clock=clock)
    with odd.open(a_call(), type="chat") as account:
        account.first_byte()
    assert 0 <= the_event(outbox).latency_ms < 2**32
    assert 1 <= the_event(outbox).first_byte_ms < 2**32
