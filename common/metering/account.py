"""The account of a request: a state machine that ends in exactly one usage event, whatever ends the request.

    open -> streaming -> completed | client_gone | upstream_cut | timed_out | failed

The sixth end, crashed, is for requests whose process died: the outbox finds their intents when it is opened again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import Final

import msgspec
import structlog

from common.errors import TurnpikeError, Unavailable, UpstreamFailed, UpstreamTimeout, row
from common.metering.outbox import Outbox
from common.metering.prices import NO_PRICES, Prices
from common.request import CLIENT_GONE_STATUS, Call
from common.telemetry import Telemetry
from turnpike.usage.v1 import ingest_pb2
from turnpike.usage.v1.ingest_pb2 import UsageEvent

_log = structlog.get_logger(__name__)
_UINT32_MAX: Final = 2**32 - 1
# Callers and providers choose names: what goes into each event, and into spans, must not grow with them.
_NAME_CHARACTERS: Final = 256


class Outcome(Enum):
    """How a request ended; the values name it in metrics."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    UPSTREAM_CUT = "upstream_cut"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


class UsageSource(Enum):
    """Where an event's token counts come from; an event without counts says so by itself."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"


_OUTCOMES: Final = MappingProxyType(
    {
        Outcome.COMPLETED: ingest_pb2.OUTCOME_COMPLETED,
        Outcome.CLIENT_GONE: ingest_pb2.OUTCOME_CLIENT_GONE,
        Outcome.UPSTREAM_CUT: ingest_pb2.OUTCOME_UPSTREAM_CUT,
        Outcome.TIMED_OUT: ingest_pb2.OUTCOME_TIMED_OUT,
        Outcome.FAILED: ingest_pb2.OUTCOME_FAILED,
    }
)
_SOURCES: Final = MappingProxyType(
    {
        UsageSource.PROVIDER: ingest_pb2.USAGE_SOURCE_PROVIDER,
        UsageSource.ESTIMATED: ingest_pb2.USAGE_SOURCE_ESTIMATED,
    }
)


class TokenCounts(msgspec.Struct, frozen=True):
    """Disjoint classes of tokens, which add up to ``total`` unless the provider counts differently."""

    uncached_input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    text_output: int = 0
    reasoning: int = 0
    total: int = 0


class Measured(msgspec.Struct, frozen=True):
    """What a request asked for, as far as its event shows it; None where the caller did not say."""

    model: str
    stream: bool
    bytes_in: int
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None


def uuid7_bytes(now_ns: int) -> bytes:
    """Return the 16 bytes of a UUIDv7 for a time in nanoseconds since 1970; source: RFC 9562, section 5.7."""
    random = os.urandom(10)
    milliseconds = now_ns // 1_000_000
    return (
        milliseconds.to_bytes(6, "big")
        + bytes((0x70 | random[0] & 0x0F, random[1], 0x80 | random[2] & 0x3F))
        + random[3:]
    )


class Meter:
    """Opens the accounts of one service; ``now_ns`` is the time in nanoseconds since 1970, for event ids."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        service: str,
        telemetry: Telemetry,
        prices: Prices = NO_PRICES,
        now_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.outbox = outbox
        self.service = service
        self.telemetry = telemetry
        self.prices = prices
        self.now_ns = now_ns
        self.clock = clock

    def open(self, call: Call, *, type: str) -> Account:  # noqa: A002 - the field's name in the event
        """Open the account of a call, to be used as a context manager around all that the call does."""
        return Account(self, call, type)


class Account:
    """One request's account; leaving the ``with`` block settles it if nothing did before.

    A CancelledError or GeneratorExit that leaves the block is a client that has gone.
    """

    def __init__(self, meter: Meter, call: Call, type: str) -> None:  # noqa: A002 - the field's name in the event
        self._meter = meter
        self._call = call
        self._settled = False
        self._intended = False
        self._bytes_out = 0
        self._first_byte_at: float | None = None
        principal = call.principal
        self.event = UsageEvent(
            event_id=uuid7_bytes(meter.now_ns()),
            request_id=call.request_id,
            user_id=principal.user_id,
            token_id=principal.token_id,
            service=meter.service,
            type=type,
            method=call.method,
            path=call.path,
        )

    def describe(self, measured: Measured) -> None:
        """Note what the request asks for."""
        event = self.event
        event.model = measured.model[:_NAME_CHARACTERS]
        event.stream = measured.stream
        event.bytes_in = measured.bytes_in
        if measured.max_tokens is not None and 0 <= measured.max_tokens <= _UINT32_MAX:
            event.max_tokens = measured.max_tokens
        if measured.temperature is not None:
            event.temperature = measured.temperature
        if measured.top_p is not None:
            event.top_p = measured.top_p

    def attempt(self, provider: str) -> None:
        """Note that ``provider`` is about to be asked; raises Unavailable when that cannot be put on record."""
        event = self.event
        event.provider = provider
        event.attempts += 1
        if not self._intended:
            self._meter.outbox.intend(event)
            self._intended = True

    def first_byte(self) -> None:
        """Note that the answer has begun."""
        if self._first_byte_at is None:
            self._first_byte_at = self._meter.clock()

    def sent(self, count: int) -> None:
        """Note that ``count`` bytes of the answer's body go out."""
        self._bytes_out += count

    def count(self, counts: TokenCounts, *, source: UsageSource, upstream_model: str = "") -> None:
        """Note the tokens; a later call replaces an earlier one, as providers' later counts do."""
        event = self.event
        event.uncached_input_tokens = min(counts.uncached_input, _UINT32_MAX)
        event.cache_read_tokens = min(counts.cache_read, _UINT32_MAX)
        event.cache_write_tokens = min(counts.cache_write, _UINT32_MAX)
        event.text_output_tokens = min(counts.text_output, _UINT32_MAX)
        event.reasoning_tokens = min(counts.reasoning, _UINT32_MAX)
        event.total_tokens = min(counts.total, _UINT32_MAX)
        event.usage_source = _SOURCES[source]
        if upstream_model:
            event.upstream_model = upstream_model[:_NAME_CHARACTERS]

    def pages(self, count: int, *, upstream_model: str = "") -> None:
        """Note the pages that the provider says it read; unknown ones are not noted, and the event says so."""
        self.event.ocr_pages = min(max(0, count), _UINT32_MAX)
        self.event.usage_source = _SOURCES[UsageSource.PROVIDER]
        if upstream_model:
            self.event.upstream_model = upstream_model[:_NAME_CHARACTERS]

    def settle(self, outcome: Outcome, *, status: int, error_code: str = "") -> None:
        """End the account; every later call is without effect. Raises Unavailable when the disk refuses the event."""
        if self._settled:
            return
        self._settled = True
        event = self.event
        now = self._meter.clock()
        event.outcome = _OUTCOMES[outcome]
        event.status = status
        event.bytes_out = self._bytes_out
        event.error_code = error_code
        if event.usage_source == ingest_pb2.USAGE_SOURCE_UNSPECIFIED:
            event.usage_source = ingest_pb2.USAGE_SOURCE_NONE
        event.latency_ms = _milliseconds(now - self._call.started)
        first_byte_seconds = None
        if self._first_byte_at is not None:
            first_byte_seconds = self._first_byte_at - self._call.started
            event.first_byte_ms = max(1, _milliseconds(first_byte_seconds))
        self._meter.prices.charge(event)
        self._meter.outbox.settle(event)
        if not self._meter.telemetry.enabled:
            return
        self._meter.telemetry.request(
            operation=event.type,
            provider=event.provider,
            model=event.model,
            outcome=outcome.value,
            seconds=now - self._call.started,
            first_byte_seconds=first_byte_seconds,
            input_tokens=event.uncached_input_tokens + event.cache_read_tokens + event.cache_write_tokens,
            output_tokens=event.text_output_tokens + event.reasoning_tokens,
        )

    @property
    def settled(self) -> bool:
        """Say whether the account has ended."""
        return self._settled

    def __enter__(self) -> Account:
        """Return the account."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Settle the account by the exception that leaves the block."""
        if self._settled:
            return
        outcome, status, code = outcome_of(error)
        try:
            self.settle(outcome, status=status, error_code=code)
        except Unavailable:
            # The intent is on disk: the next start makes a crashed event of it. The caller's error matters more now.
            _log.error("an event could not be written", request_id=self._call.request_id)


def outcome_of(error: BaseException | None) -> tuple[Outcome, int, str]:
    """Return how a request ends that ``error`` ended: its outcome, HTTP status and error code."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return Outcome.CLIENT_GONE, CLIENT_GONE_STATUS, "client_gone"
    if isinstance(error, TurnpikeError):
        entry = row(error)
        outcome = Outcome.FAILED
        if isinstance(error, UpstreamTimeout):
            outcome = Outcome.TIMED_OUT
        elif isinstance(error, UpstreamFailed) and error.code == "upstream_cut":
            outcome = Outcome.UPSTREAM_CUT
        return outcome, entry.http_status, error.code or entry.code
    return Outcome.FAILED, 500, "internal_error"


def _milliseconds(seconds: float) -> int:
    return min(max(0, round(seconds * 1000)), _UINT32_MAX)
