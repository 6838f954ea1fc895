"""Turns records into the bytes of turnpike.usage.v1.UsageEvent and back: nothing else in common knows the message."""

from __future__ import annotations

from operator import attrgetter
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from common.metering.record import Attempt, Outcome, UsageRecord, UsageSource
from common.metering.units import Cost, Unit
from turnpike.usage.v1.ingest_pb2 import UsageEvent

_UINT32_MAX: Final = 2**32 - 1
_UNITS: Final = MappingProxyType({unit.value: unit for unit in Unit})
_PLAIN: Final = (
    "event_id",
    "request_id",
    "user_id",
    "token_id",
    "service",
    "type",
    "method",
    "path",
    "provider",
    "model",
    "upstream_model",
    "status",
    "stream",
    "outcome",
    "usage_source",
    "priced",
    "price_version",
    "fallback_from",
    "error_code",
    "bytes_out",
)
_NUMBERS: Final = ("total_tokens", "bytes_in", "latency_ms", "first_byte_ms")
_OPTIONAL: Final = ("max_tokens", "temperature", "top_p")
_ALWAYS: Final = tuple(name for name in (*_PLAIN, *_NUMBERS) if name not in ("outcome", "usage_source"))
_values: Final = attrgetter(*_ALWAYS)
_plain: Final = attrgetter(*_PLAIN)
_numbers: Final = attrgetter(*_NUMBERS)
# The fields in which versions before the map of quantities counted.
_DEPRECATED_COUNTS: Final = tuple(unit for unit in Unit if unit.value in UsageEvent.DESCRIPTOR.fields_by_name)
# An older version kept the number of attempts only; what it says is not believed beyond this.
_UNNAMED_ATTEMPTS_AT_MOST: Final = 100


def encode(record: UsageRecord) -> bytes:
    """Return the record's bytes. Numbers are cut to what their fields hold."""
    event = UsageEvent()
    # Field by field, read all at once: half the time of the constructor, and each request pays it.
    for name, value in zip(_PLAIN, _plain(record), strict=True):
        if value:
            setattr(event, name, value)
    for name, number in zip(_NUMBERS, _numbers(record), strict=True):
        if number:
            setattr(event, name, _uint32(number))
    for name in _OPTIONAL:
        value = getattr(record, name)
        if value is not None:
            setattr(event, name, value)
    if record.quantities:
        quantities = event.quantities
        for unit, count in record.quantities.items():
            quantities[unit] = count
    for cost, amount in record.costs.items():
        setattr(event, cost, amount)
    for attempt in record.attempts:
        _add(event, attempt)
    return event.SerializeToString()


def decode(data: bytes) -> UsageRecord:
    """Return the record that these bytes stand for; raises ValueError when they stand for none."""
    try:
        return from_message(UsageEvent.FromString(data))
    except DecodeError as error:
        raise ValueError(f"not a usage event: {error}") from error


def event_id_of(data: bytes) -> bytes:
    """Return the id of the event with these bytes; raises ValueError when they are none."""
    try:
        event_id: bytes = UsageEvent.FromString(data).event_id
    except DecodeError as error:
        raise ValueError(f"not a usage event: {error}") from error
    return event_id


def from_message(event: UsageEvent) -> UsageRecord:
    """Return the record of a message; raises ValueError for an outcome, a source or a unit that is not known."""
    record = UsageRecord(**dict(zip(_ALWAYS, _values(event), strict=True)))
    record.outcome = Outcome(event.outcome) if event.outcome else None
    record.usage_source = UsageSource(event.usage_source) if event.usage_source else None
    record.quantities = _quantities(event)
    record.costs = {cost: amount for cost in Cost if (amount := getattr(event, cost.value))}
    record.attempts = _attempts(event)
    for name in _OPTIONAL:
        if event.HasField(name):
            setattr(record, name, getattr(event, name))
    return record


def _quantities(event: UsageEvent) -> dict[Unit, int]:
    counts = dict(event.quantities)
    if not counts:
        return {unit: count for unit in _DEPRECATED_COUNTS if (count := getattr(event, unit))}
    try:
        return {_UNITS[name]: count for name, count in counts.items()}
    except KeyError as unknown:
        raise ValueError(f"{str(unknown.args[0])[:100]} is not a unit") from None


def _attempts(event: UsageEvent) -> list[Attempt]:
    if event.attempts:
        return [
            Attempt(each.provider, each.model, each.status, each.milliseconds, each.may_be_billed)
            for each in event.attempts
        ]
    return [Attempt(event.provider) for _ in range(min(event.attempt_count, _UNNAMED_ATTEMPTS_AT_MOST))]


def _add(event: UsageEvent, attempt: Attempt) -> None:
    message = event.attempts.add()
    message.provider = attempt.provider
    if attempt.model:
        message.model = attempt.model
    if attempt.status:
        message.status = attempt.status
    if attempt.milliseconds:
        message.milliseconds = _uint32(attempt.milliseconds)
    if attempt.may_be_billed:
        message.may_be_billed = True


def _uint32(number: int) -> int:
    return min(max(0, number), _UINT32_MAX)
