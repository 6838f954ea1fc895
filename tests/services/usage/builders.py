"""Makes events for the tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from services.usage.events import Event, Outcome, UsageSource
from turnpike.usage.v1 import ingest_pb2

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
HOUR_MS = 3_600_000
RAW_DAYS = 3000
"""Long enough that the fixed NOW of these tests stays inside of the retention, which follows the real clock."""


def uuid7(at_ms: int) -> bytes:
    """Make the 16 bytes of a UUIDv7 with random low bits."""
    raw = bytearray(os.urandom(16))
    raw[:6] = at_ms.to_bytes(6, "big")
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


PLAIN = Event(
    event_id=b"",
    request_id="req-1",
    user_id="alice",
    token_id="tok-1",
    service="chat",
    type="chat",
    method="POST",
    path="/v1/chat/completions",
    provider="openai",
    model="gpt-4.1",
    upstream_model="gpt-4.1-2025-04-14",
    status=200,
    stream=True,
    outcome=Outcome.COMPLETED,
    usage_source=UsageSource.PROVIDER,
    uncached_input_tokens=10,
    cache_read_tokens=3,
    cache_write_tokens=2,
    text_output_tokens=20,
    reasoning_tokens=5,
    total_tokens=40,
    ocr_pages=0,
    images=0,
    input_cost_nanousd=1_500,
    output_cost_nanousd=2_500_000_000,
    ocr_cost_nanousd=0,
    priced=True,
    price_version="2026-06",
    attempts=1,
    fallback_from="",
    error_code="",
    bytes_in=100,
    bytes_out=5_000_000_000,
    latency_ms=120,
    first_byte_ms=30,
    max_tokens=None,
    temperature=0.5,
    top_p=None,
)


COUNTS = [name for name in Event._fields if name.endswith(("_tokens", "_nanousd", "_ms")) and name != "max_tokens"]
"""The fields that a crash leaves unknown."""


def event(*, at_ms: int = NOW_MS - HOUR_MS // 2, **changes: Any) -> Event:
    """Make an event of its own id, half an hour before NOW unless said otherwise."""
    return PLAIN._replace(**{"event_id": uuid7(at_ms), **changes})


def crashed(completed: Event) -> Event:
    """Make what a recovery writes for the same request: no counts, no end."""
    unknown: dict[str, Any] = dict.fromkeys(COUNTS, 0)
    unknown |= {"status": 0, "outcome": Outcome.CRASHED, "usage_source": UsageSource.NONE}
    return completed._replace(**unknown)


def message(of: Event) -> ingest_pb2.UsageEvent:
    """Make the event's protobuf message."""
    fields = {name: value for name, value in of._asdict().items() if value is not None}
    return ingest_pb2.UsageEvent(**fields | {"attempts": [ingest_pb2.Attempt()] * of.attempts})


def batch_ids() -> Iterator[str]:
    """Make one UUID after the other."""
    return (f"00000000-0000-4000-8000-{number:012x}" for number in itertools.count(1))
