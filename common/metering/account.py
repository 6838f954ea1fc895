"""The account of a request: a state machine that ends in exactly one usage record, whatever ends the request.

    open -> streaming -> completed | client_gone | upstream_cut | timed_out | failed

The sixth end, crashed, is for requests whose process died: the outbox finds their intents when it is opened again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Protocol

import structlog

from common.errors import TurnpikeError, Unavailable, UpstreamFailed, UpstreamTimeout, row
from common.metering.prices import NO_PRICES, Prices
from common.metering.record import Attempt, Outcome, UsageRecord, UsageSource
from common.metering.units import MOST_OF_A_UNIT, Kind, Quantities, Unit, units_of
from common.metering.uuid7 import uuid7_bytes
from common.request import CLIENT_GONE_STATUS, Call
from common.telemetry import Telemetry

_log = structlog.get_logger(__name__)
_UINT32_MAX: Final = 2**32 - 1
# Callers and providers choose names: what goes into each event, and into spans, must not grow with them.
_NAME_CHARACTERS: Final = 256
_OTHER_MODELS: Final = "other"
_INPUT: Final = units_of(Kind.INPUT_TOKENS)
_OUTPUT: Final = units_of(Kind.OUTPUT_TOKENS)
_TOKENS: Final = frozenset((*_INPUT, *_OUTPUT))
# What zeros may not replace, each as a whole: classes of tokens are parts of one number of the provider's.
_GROUPS: Final = (_INPUT, _OUTPUT, *((unit,) for unit in units_of(Kind.OTHER)))


class Outbox(Protocol):
    """Where metering leaves intents and events."""

    def intend(self, record: UsageRecord) -> None:
        """Remember that a request is about to reach a provider; raises Unavailable when it cannot be remembered.

        A second intent of the same request takes the place of the first.
        """

    def settle(self, record: UsageRecord) -> None:
        """Remember how a request ended; raises Unavailable when it cannot be remembered."""


class NullOutbox:
    """Forgets everything."""

    def intend(self, record: UsageRecord) -> None:
        """Do nothing."""

    def settle(self, record: UsageRecord) -> None:
        """Do nothing."""


class Meter:
    """Opens the accounts of one service.

    Metrics have the names of ``models`` and of those that have a price; every other model is "other" there, because
    callers make names up. ``now_ns`` is the time in nanoseconds since 1970, for event ids.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        service: str,
        telemetry: Telemetry,
        prices: Prices = NO_PRICES,
        models: Iterable[str] = (),
        now_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.outbox = outbox
        self.service = service
        self.telemetry = telemetry
        self.prices = prices
        self._models = frozenset(models)
        self.now_ns = now_ns
        self.clock = clock

    def open(self, call: Call, *, type: str) -> Account:  # noqa: A002 - the field's name in the event
        """Open the account of a call, to be used as a context manager around all that the call does."""
        return Account(self, call, type)

    def label_of(self, model: str) -> str:
        """Return the name of a model in metrics."""
        return model if not model or model in self._models or model in self.prices.models else _OTHER_MODELS


class Account:
    """One request's account; leaving the ``with`` block settles it if nothing did before.

    A CancelledError or GeneratorExit that leaves the block is a client that has gone.
    """

    def __init__(self, meter: Meter, call: Call, type: str) -> None:  # noqa: A002 - the field's name in the event
        self._meter = meter
        self._call = call
        self._settled = False
        self._first_byte_at: float | None = None
        principal = call.principal
        self.record = UsageRecord(
            event_id=uuid7_bytes(meter.now_ns()),
            request_id=call.request_id,
            user_id=principal.user_id,
            token_id=principal.token_id,
            service=meter.service,
            type=type,
            method=call.method,
            path=_bounded(call.path),
        )

    def received(self, byte_count: int) -> None:
        """Note the size of the request's body."""
        self.record.bytes_in = byte_count

    def describe(
        self,
        *,
        model: str,
        stream: bool,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> None:
        """Note what the request asks for; None is what the caller did not say."""
        record = self.record
        record.model = _bounded(model)
        record.stream = stream
        if max_tokens is not None and 0 <= max_tokens <= _UINT32_MAX:
            record.max_tokens = max_tokens
        record.temperature = temperature
        record.top_p = top_p

    def attempt(self, provider: str, model: str = "") -> Attempt:
        """Note that ``provider`` is about to be asked, and return the attempt, whose result its owner fills in.

        ``model`` is the name by which the provider knows the model, "" where it is the caller's. Raises Unavailable
        when the attempt cannot be put on record.
        """
        record = self.record
        last = record.attempts[-1] if record.attempts else None
        attempt = Attempt(provider, _bounded(model))
        before = record.provider, record.fallback_from
        # The intent has the attempt, too: after a crash it is all that is known of the request.
        record.attempts.append(attempt)
        if last is not None and last.provider != provider:
            record.fallback_from = last.provider
        record.provider = provider
        if last is None or (last.provider, last.model) != (attempt.provider, attempt.model):
            try:
                self._meter.outbox.intend(record)
            except Unavailable:
                # Nobody is asked, so the event must not say so.
                record.attempts.pop()
                record.provider, record.fallback_from = before
                raise
        return attempt

    def first_byte(self) -> None:
        """Note that the answer has begun."""
        if self._first_byte_at is None:
            self._first_byte_at = self._meter.clock()

    def sent(self, byte_count: int) -> None:
        """Note that so many bytes of the answer's body go out."""
        self.record.bytes_out += byte_count

    def count(self, quantities: Quantities, *, source: UsageSource, total: int = 0, upstream_model: str = "") -> bool:
        """Note what was used, and say whether it can be true; a later call replaces an earlier one.

        Counts that cannot be true (not whole, negative, over 10^9) are not noted: what was counted before stays, and
        their caller may estimate. Zeros replace nothing. ``total`` is the provider's total of tokens; without one it is
        the sum of the classes.
        """
        record = self.record
        if upstream_model:
            record.upstream_model = _bounded(upstream_model)
        if not _are_possible(quantities, total):
            _log.warning("a provider's counts cannot be true", request_id=record.request_id, provider=record.provider)
            return False
        used = {unit: count for unit, count in quantities.items() if count}
        tokens = sum(count for unit, count in used.items() if unit in _TOKENS)
        if source is record.usage_source and record.quantities:
            kept = _kept(record.quantities, used)
            used = kept | used
            kept_tokens = sum(count for unit, count in kept.items() if unit in _TOKENS)
            tokens += kept_tokens
            total = total and total + kept_tokens
        if used or record.usage_source is None:
            record.quantities = used
            record.total_tokens = total or tokens
            record.usage_source = source
        return True

    def settle(self, outcome: Outcome, *, status: int, error_code: str = "") -> None:
        """End the account; every later call is without effect. Raises Unavailable when the disk refuses the event."""
        if self._settled:
            return
        self._settled = True
        record = self.record
        now = self._meter.clock()
        record.outcome = outcome
        record.status = status
        record.error_code = error_code
        if record.usage_source is None:
            record.usage_source = UsageSource.NONE
        record.latency_ms = _milliseconds(now - self._call.started)
        first_byte_seconds = None
        if self._first_byte_at is not None:
            first_byte_seconds = self._first_byte_at - self._call.started
            record.first_byte_ms = max(1, _milliseconds(first_byte_seconds))
        self._meter.prices.charge(record)
        self._meter.outbox.settle(record)
        if not self._meter.telemetry.enabled:
            return
        self._meter.telemetry.request(
            operation=record.type,
            provider=record.provider,
            model=self._meter.label_of(record.model),
            outcome=outcome.label,
            seconds=now - self._call.started,
            first_byte_seconds=first_byte_seconds,
            input_tokens=record.sum_of(*_INPUT),
            output_tokens=record.sum_of(*_OUTPUT),
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


def _are_possible(quantities: Quantities, total: int) -> bool:
    for count in (*quantities.values(), total):
        if type(count) is not int or not 0 <= count <= MOST_OF_A_UNIT:
            return False
    return True


def _kept(before: Quantities, now: Quantities) -> dict[Unit, int]:
    """Return the counts of the groups of which nothing is counted now."""
    gone = [group for group in _GROUPS if not any(unit in now for unit in group)]
    return {unit: before[unit] for group in gone for unit in group if unit in before}


def _bounded(name: str) -> str:
    # Half a surrogate pair fits no protobuf; JSON of providers may have one.
    name = name[:_NAME_CHARACTERS]
    return name if name.isascii() else name.encode("utf-8", "replace").decode()


def _milliseconds(seconds: float) -> int:
    return min(max(0, round(seconds * 1000)), _UINT32_MAX)
