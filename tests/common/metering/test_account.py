"""The account of a request: one event, whatever ends it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from itertools import count
from typing import Any

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
from common.metering.account import Account, Meter, Outbox, outcome_of
from common.metering.event_proto import encode
from common.metering.record import Attempt, Outcome, UsageRecord, UsageSource
from common.metering.units import Quantities, Unit
from common.metering.uuid7 import uuid7_bytes
from common.telemetry import Telemetry
from common.upstream.http import UnreachableError
from tests.common.builders import RefusingOutbox, a_call, ticks
from tests.common.metering.fake_outbox import FakeOutbox

_NOW_NS = 1_700_000_000_123_456_789


def meter(outbox: Outbox) -> Meter:
    seconds = ticks()
    return Meter(
        outbox, service="chat", telemetry=Telemetry("chat"), now_ns=lambda: _NOW_NS, clock=lambda: next(seconds)
    )


def an_account(outbox: Outbox) -> Account:
    return meter(outbox).open(a_call(), type="chat")


def used(*counts: int) -> dict[Unit, int]:
    return dict(zip(Unit, counts, strict=False))


def the_event(outbox: FakeOutbox) -> UsageRecord:
    (event,) = outbox.events
    return event


def test_an_event_says_who_asked_for_what_and_how() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.received(10)
        account.describe(model="gpt", stream=True, max_tokens=5, temperature=0.0, top_p=1.0)
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
    assert (event.provider, len(event.attempts), event.status, event.error_code) == ("openai", 1, 200, "")
    assert (event.outcome, event.usage_source) == (Outcome.COMPLETED, UsageSource.NONE)
    assert (event.first_byte_ms, event.latency_ms) == (250, 500)


def test_what_the_caller_did_not_say_is_unset() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.describe(model="gpt", stream=False, max_tokens=-1)
    event = the_event(outbox)
    assert (event.max_tokens, event.temperature, event.top_p) == (None, None, None)
    assert event.first_byte_ms == 0


def test_the_intent_is_on_record_before_the_first_attempt_and_only_once() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        assert outbox.intents == []
        account.attempt("first")
        (intent,) = outbox.intents
        assert (intent.provider, len(intent.attempts), intent.outcome) == ("first", 1, None)
        account.attempt("first")
    assert len(outbox.intents) == 1
    assert (len(the_event(outbox).attempts), the_event(outbox).provider) == (2, "first")
    assert the_event(outbox).event_id == outbox.intents[0].event_id


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_reaches_the_event_under_its_own_name(outcome: Outcome) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.settle(outcome, status=200)
    assert the_event(outbox).outcome is outcome


@pytest.mark.parametrize("source", UsageSource)
def test_each_source_reaches_the_event_under_its_own_name(source: UsageSource) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.count({}, source=source)
    assert the_event(outbox).usage_source is source


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
    assert event.outcome is outcome
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
    assert (the_event(outbox).outcome, the_event(outbox).status) == (Outcome.COMPLETED, 200)


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
        assert outcomes == [Outcome.CLIENT_GONE if point <= 4 else Outcome.COMPLETED]


def test_an_outbox_that_refuses_the_intent_stops_the_attempt_and_counts_the_failure() -> None:
    refused = Unavailable("full", code="usage_backlog")
    outbox = RefusingOutbox(refused, intents=True)
    with an_account(outbox) as account:
        with pytest.raises(Unavailable) as raised:
            account.attempt("openai")
        assert raised.value is refused
        # Nobody was asked, and the event says so.
        assert (account.record.attempts, account.record.provider) == ([], "")


def test_an_attempt_whose_intent_is_refused_leaves_those_before_it() -> None:
    refusing = RefusingOutbox(Unavailable("full"), intents=True)
    with an_account(refusing) as account:
        first = Attempt("openai", "a")
        account.record.attempts, account.record.provider = [first], "openai"
        with pytest.raises(Unavailable):
            account.attempt("mistral")
        assert account.record.attempts == [first]
        assert (account.record.provider, account.record.fallback_from) == ("openai", "")


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
        account.count(used(1, 2, 3, 4, 5), source=UsageSource.ESTIMATED)
        account.count(used(10, 0, 0, 7, 0), source=UsageSource.PROVIDER, upstream_model="gpt-5-2026")
    event = the_event(outbox)
    assert event.quantities == {Unit.UNCACHED_INPUT: 10, Unit.TEXT_OUTPUT: 7}
    assert event.total_tokens == 17
    assert event.upstream_model == "gpt-5-2026"


@pytest.mark.parametrize("wrong", [10**9 + 1, 2**70, -1, 0.5, True, "7"])
@pytest.mark.parametrize("place", ["class", "total"])
def test_counts_that_cannot_be_true_are_not_noted_and_leave_room_for_an_estimate(wrong: Any, place: str) -> None:
    outbox = FakeOutbox()
    counts, total = ({Unit.TEXT_OUTPUT: wrong}, 0) if place == "class" else ({Unit.TEXT_OUTPUT: 3}, wrong)
    with capture_logs() as logs, an_account(outbox) as account:
        assert not account.count(counts, source=UsageSource.PROVIDER, total=total)
    with an_account(outbox) as account:
        assert not account.count(counts, source=UsageSource.PROVIDER, total=total)
        assert account.count({Unit.TEXT_OUTPUT: 4}, source=UsageSource.ESTIMATED)
    unknown, estimated = outbox.events
    assert (unknown.usage_source, unknown.quantities, unknown.total_tokens) == (UsageSource.NONE, {}, 0)
    assert (estimated.usage_source, estimated.quantities) == (UsageSource.ESTIMATED, {Unit.TEXT_OUTPUT: 4})
    assert [line["event"] for line in logs] == ["a provider's counts cannot be true"]


def test_the_largest_count_is_noted() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        assert account.count({Unit.PAGES: 10**9}, source=UsageSource.PROVIDER)
    assert the_event(outbox).quantities == {Unit.PAGES: 10**9}


@pytest.mark.parametrize(
    ("later", "total", "quantities", "wanted_total"),
    [
        (used(), 0, used(6, 4, 0, 2, 1), 13),
        (used(0, 0, 0, 0, 0), 0, used(6, 4, 0, 2, 1), 13),
        # A last event that repeats the output only: what was said of the input stays.
        (used(0, 0, 0, 57, 0), 57, used(6, 4, 0, 57), 67),
        (used(0, 0, 0, 57, 0), 0, used(6, 4, 0, 57), 67),
        # All of the input was cached after all: the classes are parts of one number.
        (used(0, 10, 0, 0, 0), 0, used(0, 10, 0, 2, 1), 13),
        (used(1, 0, 0, 5, 0), 9, used(1, 0, 0, 5), 9),
    ],
)
def test_zeros_do_not_replace_what_the_provider_counted_before(
    later: dict[Unit, int], total: int, quantities: dict[Unit, int], wanted_total: int
) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.count(used(6, 4, 0, 2, 1), source=UsageSource.PROVIDER, total=13)
        account.count(later, source=UsageSource.PROVIDER, total=total)
    event = the_event(outbox)
    assert event.quantities == {unit: count for unit, count in quantities.items() if count}
    assert (event.total_tokens, event.usage_source) == (wanted_total, UsageSource.PROVIDER)


def test_zeros_alone_are_a_count() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.count(used(0, 0), source=UsageSource.PROVIDER)
    assert (the_event(outbox).usage_source, the_event(outbox).quantities) == (UsageSource.PROVIDER, {})


@given(st.dictionaries(st.sampled_from(Unit), st.integers(0, 10**9)), st.text(), st.integers())
def test_no_number_or_name_is_too_large_for_an_event(counts: Quantities, name: str, max_tokens: int) -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.describe(model=name * 1000, stream=False, max_tokens=max_tokens)
        account.count(counts, source=UsageSource.PROVIDER, upstream_model=name * 1000)
    assert len(encode(the_event(outbox))) < 4096


def test_an_intent_follows_a_change_of_the_provider_or_the_model() -> None:
    outbox = FakeOutbox()
    with an_account(outbox) as account:
        account.attempt("first")
        account.attempt("first", "small")
        attempt = account.attempt("second", "small")
        attempt.status, attempt.milliseconds, attempt.may_be_billed = 200, 7, True
    assert [(intent.provider, len(intent.attempts)) for intent in outbox.intents] == [
        ("first", 1),
        ("first", 2),
        ("second", 3),
    ]
    assert len({intent.event_id for intent in outbox.intents}) == 1
    event = the_event(outbox)
    assert (event.provider, event.fallback_from) == ("second", "first")
    assert event.attempts[2] == Attempt("second", "small", 200, 7, may_be_billed=True)


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
    assert int.from_bytes(an_account(FakeOutbox()).record.event_id[:6], "big") == _NOW_NS // 1_000_000


@pytest.mark.parametrize("clock", [lambda: -5.0, lambda: 1e12], ids=["a clock that ran backwards", "an endless call"])
def test_a_latency_always_fits(clock: Callable[[], float]) -> None:
    outbox = FakeOutbox()
    numbers = count()
    odd = Meter(outbox, service="chat", telemetry=Telemetry("chat"), now_ns=lambda: next(numbers), clock=clock)
    with odd.open(a_call(), type="chat") as account:
        account.first_byte()
    assert 0 <= the_event(outbox).latency_ms < 2**32
    assert 1 <= the_event(outbox).first_byte_ms < 2**32


def test_a_path_is_cut_like_a_name() -> None:
    call = a_call()
    call.path = "/v1/" + "x" * 10_000
    outbox = FakeOutbox()
    with meter(outbox).open(call, type="chat"):
        pass
    assert len(the_event(outbox).path) == 256
