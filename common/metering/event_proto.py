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
_OPTIONAL: Final = ("max_tokens", "temperature", "top_p")
_COSTS: Final = tuple(Cost)
_costs: Final = attrgetter(*(cost.value for cost in Cost))
_SCALARS: Final = tuple(
    name
    for name in UsageRecord.__struct_fields__
    if name not in ("outcome", "usage_source", "quantities", "costs", "attempts", *_OPTIONAL)
)
_scalars: Final = attrgetter(*_SCALARS)
# The fields in which versions before the map of quantities counted.
_DEPRECATED_COUNTS: Final = tuple(unit for unit in Unit if unit.value in UsageEvent.DESCRIPTOR.fields_by_name)
# An older version kept the number of attempts only; what it says is not believed beyond this.
_UNNAMED_ATTEMPTS_AT_MOST: Final = 100


def encode(record: UsageRecord) -> bytes:
    """Return the record's bytes. Numbers are cut to what their fields hold."""
    event = UsageEvent()
    # Field by field: a third of the time of the constructor, or of a loop over names, and each request waits for it.
    event.event_id = record.event_id
    event.request_id = record.request_id
    event.user_id = record.user_id
    event.token_id = record.token_id
    event.service = record.service
    event.type = record.type
    event.method = record.method
    event.path = record.path
    event.provider = record.provider
    event.model = record.model
    event.upstream_model = record.upstream_model
    event.status = record.status
    event.stream = record.stream
    event.outcome = record.outcome or 0  # type: ignore[assignment] # the numbers are those of the proto
    event.usage_source = record.usage_source or 0  # type: ignore[assignment] # as above
    event.total_tokens = _uint32(record.total_tokens)
    event.priced = record.priced
    event.price_version = record.price_version
    event.fallback_from = record.fallback_from
    event.error_code = record.error_code
    event.bytes_in = _uint32(record.bytes_in)
    event.bytes_out = record.bytes_out
    event.latency_ms = _uint32(record.latency_ms)
    event.first_byte_ms = _uint32(record.first_byte_ms)
    _set_the_rest(event, record)
    return event.SerializeToString()


def _set_the_rest(event: UsageEvent, record: UsageRecord) -> None:
    """Set what a record may lack, and what it has several of."""
    if record.max_tokens is not None:
        event.max_tokens = record.max_tokens
    if record.temperature is not None:
        event.temperature = record.temperature
    if record.top_p is not None:
        event.top_p = record.top_p
    if record.quantities:
        quantities = event.quantities
        for unit, count in record.quantities.items():
            quantities[unit] = count
    for cost, amount in record.costs.items():
        setattr(event, cost, amount)
    for attempt in record.attempts:
        message = event.attempts.add()
        message.provider = attempt.provider
        message.model = attempt.model
        message.status = attempt.status
        message.milliseconds = _uint32(attempt.milliseconds)
        message.may_be_billed = attempt.may_be_billed


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
    record = UsageRecord(**dict(zip(_SCALARS, _scalars(event), strict=True)))
    record.outcome = Outcome(event.outcome) if event.outcome else None
    record.usage_source = UsageSource(event.usage_source) if event.usage_source else None
    record.quantities = _quantities(event)
    record.costs = {cost: amount for cost, amount in zip(_COSTS, _costs(event), strict=True) if amount}
    record.attempts = _attempts(event)
    for name in _OPTIONAL:
        if event.HasField(name):
            setattr(record, name, getattr(event, name))
    return record


def _quantities(event: UsageEvent) -> dict[Unit, int]:
    if not event.quantities:
        return {unit: count for unit in _DEPRECATED_COUNTS if (count := getattr(event, unit))}
    try:
        return {_UNITS[name]: count for name, count in event.quantities.items()}
    except KeyError as unknown:
        raise ValueError(f"{str(unknown.args[0])[:100]} is not a unit") from None


def _attempts(event: UsageEvent) -> list[Attempt]:
    if event.attempts:
        return [
            Attempt(each.provider, each.model, each.status, each.milliseconds, each.may_be_billed)
            for each in event.attempts
        ]
    return [Attempt(event.provider) for _ in range(min(event.attempt_count, _UNNAMED_ATTEMPTS_AT_MOST))]


def _uint32(number: int) -> int:
    return number if 0 <= number <= _UINT32_MAX else min(max(0, number), _UINT32_MAX)
