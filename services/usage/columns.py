"""The types of the columns that an insert fills: with them it need not ask the server."""

from __future__ import annotations

from typing import Final

from clickhouse_connect.datatypes.base import ClickHouseType
from clickhouse_connect.datatypes.registry import get_from_name

from services.usage.events import Event, Outcome, UsageSource

_OUTCOMES: Final = ", ".join(f"'{outcome.name.lower()}' = {outcome.value}" for outcome in Outcome)
_SOURCES: Final = ", ".join(f"'{source.name.lower()}' = {source.value}" for source in UsageSource)

# As in schema/0001_events.sql; a test compares them with the table.
_NAMES_OF_TYPES: Final = {
    "UUID": "event_id",
    "String": "request_id user_id token_id",
    "LowCardinality(String)": "service type method path provider model upstream_model price_version fallback_from"
    " error_code",
    "UInt16": "status",
    "Bool": "stream priced",
    f"Enum8({_OUTCOMES})": "outcome",
    f"Enum8({_SOURCES})": "usage_source",
    "UInt32": "uncached_input_tokens cache_read_tokens cache_write_tokens text_output_tokens reasoning_tokens"
    " total_tokens ocr_pages images attempts bytes_in latency_ms first_byte_ms",
    "UInt64": "bytes_out",
    "Int64": "input_cost_nanousd output_cost_nanousd ocr_cost_nanousd",
    "Nullable(UInt32)": "max_tokens",
    "Nullable(Float64)": "temperature top_p",
}


def column_types() -> list[ClickHouseType]:
    """Return the types of the columns in the order of the event's fields."""
    types = {name: get_from_name(type_name) for type_name, names in _NAMES_OF_TYPES.items() for name in names.split()}
    return [types[name] for name in Event._fields]
