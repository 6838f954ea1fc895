"""Makes events for the tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from common.metering.event_proto import encode
from common.metering.record import Attempt, Outcome, UsageRecord, UsageSource
from common.metering.units import Cost, Unit
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


PLAIN = UsageRecord(
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
    quantities={
        Unit.UNCACHED_INPUT: 10,
        Unit.CACHE_READ: 3,
        Unit.CACHE_WRITE: 2,
        Unit.TEXT_OUTPUT: 20,
        Unit.REASONING: 5,
    },
    total_tokens=40,
    costs={Cost.INPUT: 1_500, Cost.OUTPUT: 2_500_000_000},
    priced=True,
    price_version="2026-06",
    attempts=[Attempt("openai", status=200, milliseconds=110, may_be_billed=True)],
    bytes_in=100,
    bytes_out=5_000_000_000,
    latency_ms=120,
    first_byte_ms=30,
    temperature=0.5,
)


def event(*, at_ms: int = NOW_MS - HOUR_MS // 2, **changes: Any) -> UsageRecord:
    """Make a record of its own id, half an hour before NOW unless said otherwise.

    ``changes`` are of its fields, or of a quantity or a cost under the name of its column.
    """
    counts = {Unit(name): changes.pop(name) for name in [*changes] if name in [*Unit]}
    costs = {Cost(name): changes.pop(name) for name in [*changes] if name in [*Cost]}
    given = {"event_id": uuid7(at_ms), "quantities": PLAIN.quantities | counts, "costs": PLAIN.costs | costs}
    return replace(PLAIN, **given | changes)


def crashed(completed: UsageRecord, **changes: Any) -> UsageRecord:
    """Make what a recovery writes for the same request: no counts, no end."""
    unknown: dict[str, Any] = dict.fromkeys(("total_tokens", "latency_ms", "first_byte_ms", "status"), 0)
    unknown |= {"quantities": {}, "costs": {}, "outcome": Outcome.CRASHED, "usage_source": UsageSource.NONE}
    return replace(completed, **unknown | changes)


def message(of: UsageRecord) -> ingest_pb2.UsageEvent:
    """Make the record's protobuf message."""
    return ingest_pb2.UsageEvent.FromString(encode(of))


def batch_ids() -> Iterator[str]:
    """Make one UUID after the other."""
    return (f"00000000-0000-4000-8000-{number:012x}" for number in itertools.count(1))
