"""A usage event as the usage service sees it: the message of turnpike.usage.v1, without protobuf."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Outcome(IntEnum):
    """How a request ended; the numbers are those of turnpike.usage.v1.Outcome and of the table's column."""

    COMPLETED = 1
    CLIENT_GONE = 2
    UPSTREAM_CUT = 3
    TIMED_OUT = 4
    FAILED = 5
    CRASHED = 6


class UsageSource(IntEnum):
    """Where counts come from; the numbers are those of turnpike.usage.v1.UsageSource and of the table's column."""

    PROVIDER = 1
    ESTIMATED = 2
    NONE = 3


class Event(NamedTuple):
    """One request; fields, names and order are those of turnpike.usage.v1.UsageEvent.

    A tuple, because it is also the row that is inserted: thousands come each second. ``outcome`` and ``usage_source``
    are plain numbers for the same reason, and are checked by the core.
    """

    event_id: bytes
    request_id: str
    user_id: str
    token_id: str
    service: str
    type: str
    method: str
    path: str
    provider: str
    model: str
    upstream_model: str
    status: int
    stream: bool
    outcome: int
    usage_source: int
    uncached_input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    text_output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    ocr_pages: int
    images: int
    input_cost_nanousd: int
    output_cost_nanousd: int
    ocr_cost_nanousd: int
    priced: bool
    price_version: str
    attempts: int
    fallback_from: str
    error_code: str
    bytes_in: int
    bytes_out: int
    latency_ms: int
    first_byte_ms: int
    max_tokens: int | None
    temperature: float | None
    top_p: float | None


def is_uuid7(event_id: bytes) -> bool:
    """Say whether these are the 16 bytes of a UUIDv7 (RFC 9562, section 5.7)."""
    return len(event_id) == 16 and event_id[6] >> 4 == 7 and event_id[8] >> 6 == 2


def milliseconds(event_id: bytes) -> int:
    """Return the time of a UUIDv7 in milliseconds since 1970."""
    return int.from_bytes(event_id[:6], "big")
