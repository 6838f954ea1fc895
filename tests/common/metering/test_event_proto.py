"""Records and the bytes of their events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metering.event_proto import decode, encode
from common.metering.record import Attempt, Outcome, UsageRecord, UsageSource
from common.metering.units import Cost, Unit
from turnpike.usage.v1 import ingest_pb2

_UINT32 = st.integers(0, 2**32 - 1)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
_RECORDS = st.builds(
    UsageRecord,
    event_id=st.binary(max_size=16),
    **dict.fromkeys(
        ["request_id", "user_id", "token_id", "service", "type", "method", "path", "provider", "model"], _NAMES
    ),
    **dict.fromkeys(["upstream_model", "price_version", "fallback_from", "error_code"], _NAMES),
    **dict.fromkeys(["status", "total_tokens", "bytes_in", "latency_ms", "first_byte_ms"], _UINT32),
    stream=st.booleans(),
    priced=st.booleans(),
    outcome=st.none() | st.sampled_from(Outcome),
    usage_source=st.none() | st.sampled_from(UsageSource),
    quantities=st.dictionaries(st.sampled_from(Unit), st.integers(1, 2**63)),
    costs=st.dictionaries(st.sampled_from(Cost), st.integers(1, 2**53)),
    attempts=st.lists(st.builds(Attempt, _NAMES, _NAMES, _UINT32, _UINT32, st.booleans()), max_size=3),
    bytes_out=st.integers(0, 2**63),
    max_tokens=st.none() | _UINT32,
    temperature=st.none() | st.floats(allow_nan=False),
    top_p=st.none() | st.floats(allow_nan=False),
)


@given(_RECORDS)
def test_a_record_comes_back_as_it_was(record: UsageRecord) -> None:
    assert decode(encode(record)) == record


def test_every_field_of_the_record_is_in_the_event() -> None:
    fields = {field.name for field in ingest_pb2.UsageEvent.DESCRIPTOR.fields}
    assert fields >= set(UsageRecord.__struct_fields__) - {"costs"} | set(Cost)


def test_what_an_older_version_left_is_read_with_its_counts_and_attempts() -> None:
    counts = {unit: number for number, unit in enumerate(Unit, start=1)}
    older = ingest_pb2.UsageEvent(event_id=bytes(16), provider="openai", total_tokens=9, attempt_count=2)
    for unit, number in counts.items():
        setattr(older, unit, number)
    record = decode(older.SerializeToString())
    assert (record.quantities, record.total_tokens) == (counts, 9)
    assert record.attempts == [Attempt("openai"), Attempt("openai")]


def test_an_older_versions_number_of_attempts_is_bounded() -> None:
    older = ingest_pb2.UsageEvent(attempt_count=2**32 - 1)
    assert len(decode(older.SerializeToString()).attempts) == 100


def test_the_fields_of_older_versions_are_not_written() -> None:
    record = UsageRecord(event_id=b"", quantities=dict.fromkeys(Unit, 1), attempts=[Attempt("openai")])
    message = ingest_pb2.UsageEvent.FromString(encode(record))
    written = {field.name for field, _ in message.ListFields()}
    assert written == {"quantities", "attempts"}


@pytest.mark.parametrize(
    "message",
    [
        ingest_pb2.UsageEvent(quantities={"parsecs": 1}),
        ingest_pb2.UsageEvent(outcome=ingest_pb2.Outcome.ValueType(99)),
        ingest_pb2.UsageEvent(usage_source=ingest_pb2.UsageSource.ValueType(99)),
    ],
    ids=["a unit", "an outcome", "a source"],
)
def test_what_this_version_does_not_know_is_refused(message: ingest_pb2.UsageEvent) -> None:
    with pytest.raises(ValueError, match="is not a"):
        decode(message.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab"])
def test_bytes_that_are_no_event_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a usage event"):
        decode(data)


def test_numbers_are_cut_to_their_fields() -> None:
    record = decode(encode(UsageRecord(event_id=b"", bytes_in=2**40, latency_ms=-1, total_tokens=2**32)))
    assert (record.bytes_in, record.latency_ms, record.total_tokens) == (2**32 - 1, 0, 2**32 - 1)
