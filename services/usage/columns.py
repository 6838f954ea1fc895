"""The columns that an insert fills: what is in them, and their types, with which it need not ask the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from clickhouse_connect.datatypes.base import ClickHouseType
from clickhouse_connect.datatypes.registry import get_from_name

from common.metering.record import Attempt, Outcome, UsageRecord, UsageSource
from common.metering.units import UNITS, Cost, Unit, Units

_OUTCOMES: Final = ", ".join(f"'{outcome.label}' = {outcome.value}" for outcome in Outcome)
_SOURCES: Final = ", ".join(f"'{source.name.lower()}' = {source.value}" for source in UsageSource)

# As in schema/; a test compares them with the table.
_NAMES_OF_TYPES: Final = {
    "UUID": "event_id",
    "String": "request_id user_id token_id",
    "LowCardinality(String)": "service type method path provider model upstream_model price_version fallback_from"
    " error_code",
    "UInt16": "status",
    "Bool": "stream priced",
    f"Enum8({_OUTCOMES})": "outcome",
    f"Enum8({_SOURCES})": "usage_source",
    "UInt32": "total_tokens bytes_in latency_ms first_byte_ms",
    "UInt64": "bytes_out",
    "Nullable(UInt32)": "max_tokens",
    "Nullable(Float64)": "temperature top_p",
}


_ATTEMPTS: Final = (
    ("attempt_providers", "LowCardinality(String)", "provider"),
    ("attempt_models", "LowCardinality(String)", "model"),
    ("attempt_statuses", "UInt16", "status"),
    ("attempt_milliseconds", "UInt32", "milliseconds"),
    ("attempt_may_be_billed", "Bool", "may_be_billed"),
)


class Column(NamedTuple):
    """A column: its name and type, and how its value is read from a record."""

    name: str
    type: ClickHouseType
    read: Callable[[UsageRecord], Any]


def columns_of(units: Units = UNITS) -> list[Column]:
    """Return the columns of the table of events, those of the units among them."""
    columns = [
        Column(name, get_from_name(type_name), attrgetter(name))
        for type_name, names in _NAMES_OF_TYPES.items()
        for name in names.split()
    ]
    counts = get_from_name("UInt32")
    columns += [Column(str(unit), counts, partial(_quantity, unit)) for unit in units]
    columns += [Column(str(cost), get_from_name("Int64"), partial(_cost, cost)) for cost in Cost]
    columns.append(Column("attempts", counts, _attempts))
    columns += [
        Column(name, get_from_name(f"Array({type_name})"), partial(_of_attempts, attrgetter(field)))
        for name, type_name, field in _ATTEMPTS
    ]
    return columns


def values_of(records: Sequence[UsageRecord], columns: Sequence[Column]) -> list[list[Any]]:
    """Return the records column by column, as an insert takes them."""
    return [list(map(column.read, records)) for column in columns]


def _quantity(unit: Unit, record: UsageRecord) -> int:
    return record.quantities.get(unit, 0)


def _cost(cost: Cost, record: UsageRecord) -> int:
    return record.costs.get(cost, 0)


def _attempts(record: UsageRecord) -> int:
    return len(record.attempts)


def _of_attempts(read: Callable[[Attempt], Any], record: UsageRecord) -> list[Any]:
    return [read(attempt) for attempt in record.attempts]
