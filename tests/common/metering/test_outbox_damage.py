"""What an outbox does with a disk that changed something, and with files that are not its own."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from common.metering import event_proto
from common.metering.journal import EVENT, INTENT, PROTOBUF_INTENT, pack
from common.metering.outbox import DiskOutbox
from common.metering.record import Outcome, UsageRecord
from tests.common.builders import number_of, usage_record
from turnpike.usage.v1 import ingest_pb2

_EVERYTHING = 100_000


def settled(number: int) -> UsageRecord:
    record = usage_record(number)
    record.outcome = Outcome.COMPLETED
    return record


def filled(directory: Path, *, events: int = 50) -> Path:
    """Settle events, close, and return the segment in which they are."""
    outbox = DiskOutbox(directory)
    for number in range(events):
        outbox.settle(settled(number))
    outbox.close()
    (segment,) = (path for path in directory.glob("*.journal") if path.stat().st_size)
    return segment


def flip(path: Path, *, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def numbers(outbox: DiskOutbox) -> list[int]:
    return [number_of(event_proto.decode(event)) for event in outbox.read(limit=_EVERYTHING)[0]]


def test_a_flipped_bit_costs_one_event_and_its_segment_is_kept_aside(tmp_path: Path) -> None:
    segment = filled(tmp_path)
    flip(segment, place=segment.read_bytes().find(b"req-10") + 2)
    with capture_logs() as logs:
        outbox = DiskOutbox(tmp_path)
        assert (outbox.depth, outbox.damaged) == (49, 1)
        events, position = outbox.read(limit=_EVERYTHING)
        outbox.release(position)
        assert [number_of(event_proto.decode(event)) for event in events] == [*range(10), *range(11, 50)]
        assert (outbox.depth, outbox.damaged) == (0, 1)
        outbox.close()
    assert not segment.exists()
    assert segment.with_suffix(".damaged").exists()
    assert [line["event"] for line in logs] == [
        "the outbox is damaged",
        "recovered events that were not stored yet",
        "a damaged segment is kept aside",
    ]
    assert logs[0]["segment"] == str(segment)
    again = DiskOutbox(tmp_path)
    assert (numbers(again), again.damaged) == ([], 0)
    again.close()


def test_any_bit_costs_at_most_one_event(tmp_path: Path) -> None:
    segment = filled(tmp_path / "first", events=3)
    # Two or three bits of each byte, and all eight places in turn.
    for bit in range(0, segment.stat().st_size * 8, 3):
        place = tmp_path / str(bit)
        place.mkdir()
        (place / segment.name).write_bytes(segment.read_bytes())
        flip(place / segment.name, place=bit // 8, bit=bit % 8)
        with capture_logs():
            outbox = DiskOutbox(place)
            found = numbers(outbox)
            assert len(found) >= 2
            assert set(found) <= {0, 1, 2}
            assert (outbox.depth, outbox.damaged) == (len(found), 1)
            outbox.close()


def test_a_bit_that_flips_while_the_outbox_is_open_is_seen_when_it_is_read(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    for number in range(5):
        outbox.settle(settled(number))
    (segment,) = tmp_path.glob("*.journal")
    flip(segment, place=segment.read_bytes().find(b"req-2"))
    with capture_logs() as logs:
        for _ in range(2):
            events, position = outbox.read(limit=_EVERYTHING)
            assert len(events) == 4
    assert (outbox.damaged, outbox.depth, len(logs)) == (1, 5, 1)
    outbox.release(position)
    assert outbox.depth == 0, "an event that cannot be read is not waited for"
    outbox.close()


def test_a_request_whose_event_is_damaged_counts_as_crashed(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    outbox.intend(usage_record(7))
    outbox.settle(settled(7))
    outbox.close()
    (segment,) = (path for path in tmp_path.glob("*.journal") if path.stat().st_size)
    flip(segment, place=segment.stat().st_size - 1)
    with capture_logs():
        recovered = DiskOutbox(tmp_path)
        (event,) = recovered.read(limit=_EVERYTHING)[0]
    assert event_proto.decode(event).outcome is Outcome.CRASHED
    recovered.close()


def test_damaged_segments_do_not_fill_the_disk(tmp_path: Path) -> None:
    for number in range(1, 31):
        (tmp_path / f"{number:012d}.journal").write_bytes(b"?" * 20)
    with capture_logs():
        outbox = DiskOutbox(tmp_path)
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
        outbox.close()
    assert len([*tmp_path.glob("*.damaged")]) == 20
    assert (tmp_path / "000000000030.damaged").exists()


def test_the_number_of_a_segment_that_is_kept_aside_is_not_given_again(tmp_path: Path) -> None:
    (tmp_path / "000000000009.damaged").write_bytes(b"?")
    outbox = DiskOutbox(tmp_path)
    outbox.settle(settled(1))
    outbox.close()
    assert (tmp_path / "000000000010.journal").exists()


def test_stray_files_do_not_stop_a_start_and_stay(tmp_path: Path) -> None:
    segment = filled(tmp_path)
    strays = ["notes.journal", "1.journal", "000000000001.journal~", ".000000000001.journal.swp", "-1.journal", "x"]
    for name in strays:
        (tmp_path / name).write_bytes(b"not a journal")
    (tmp_path / "000000000007.journal").mkdir()
    (tmp_path / "a directory.journal").mkdir()
    with capture_logs() as logs:
        outbox = DiskOutbox(tmp_path)
    assert numbers(outbox) == list(range(50))
    outbox.settle(settled(50))
    outbox.release(outbox.read(limit=_EVERYTHING)[1])
    outbox.close()
    assert not segment.exists()
    assert all((tmp_path / name).exists() for name in [*strays, "000000000007.journal", "a directory.journal"])
    assert logs[0]["event"] == "a stray file is in the outbox"


def test_what_is_no_event_does_not_stop_a_start_and_is_never_shipped(tmp_path: Path) -> None:
    good = event_proto.encode(settled(1))
    content = pack(INTENT, b"\xff\xff") + pack(EVENT, b"\xff") + pack(EVENT, good) + pack(EVENT, b"\x0a\x05ab")
    (tmp_path / "000000000001.journal").write_bytes(content)
    with capture_logs() as logs:
        outbox = DiskOutbox(tmp_path)
        assert (numbers(outbox), outbox.depth, outbox.damaged) == ([1], 1, 3)
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
        outbox.close()
    assert (tmp_path / "000000000001.damaged").read_bytes() == content
    assert [line["event"] for line in logs].count("the outbox is damaged") == 3


@pytest.mark.parametrize(
    ("kind", "newer", "why"),
    [
        (
            INTENT,
            msgspec.msgpack.encode({"event_id": b"x" * 16, "quantities": {"parsecs": 1}}),
            "Invalid enum value 'parsecs'",
        ),
        (
            PROTOBUF_INTENT,
            ingest_pb2.UsageEvent(event_id=b"x" * 16, quantities={"parsecs": 1}).SerializeToString(),
            "parsecs is not a unit",
        ),
    ],
)
def test_an_intent_of_a_newer_version_does_not_stop_a_start(
    tmp_path: Path, kind: bytes, newer: bytes, why: str
) -> None:
    (tmp_path / "000000000001.journal").write_bytes(pack(kind, newer))
    with capture_logs() as logs:
        outbox = DiskOutbox(tmp_path)
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
        outbox.close()
    assert why in logs[0]["why"]
    assert (tmp_path / "000000000001.damaged").exists()


def test_an_intent_of_an_older_version_becomes_a_crashed_event(tmp_path: Path) -> None:
    older = event_proto.encode(usage_record(7))
    (tmp_path / "000000000001.journal").write_bytes(pack(PROTOBUF_INTENT, older))
    outbox = DiskOutbox(tmp_path)
    (event,) = map(event_proto.decode, outbox.read(limit=_EVERYTHING)[0])
    outbox.close()
    assert (event.event_id, event.request_id, event.outcome) == (
        usage_record(7).event_id,
        usage_record(7).request_id,
        Outcome.CRASHED,
    )


def test_a_segment_that_somebody_removed_is_not_waited_for(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path, segment_bytes=100)
    for number in range(6):
        outbox.settle(settled(number))
        outbox.sync()
    oldest = min(tmp_path.glob("*.journal"))
    oldest.unlink()
    with capture_logs() as logs:
        found = numbers(outbox)
        assert 0 < len(found) < 6
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
    assert [(line["event"], line["why"]) for line in logs] == [("the outbox is damaged", "the segment is gone")]
    outbox.close()


def test_a_record_that_is_too_long_is_refused_and_spoils_nothing(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    huge = settled(1)
    huge.user_id = "x" * 70_000
    with capture_logs(), pytest.raises(Exception, match="cannot be recorded"):
        outbox.settle(huge)
    outbox.settle(settled(2))
    assert numbers(outbox) == [2]
    outbox.close()


def test_nothing_of_an_outbox_is_readable_by_others(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path / "outbox")
    outbox.settle(settled(1))
    outbox.reject(event_proto.encode(settled(1)))
    outbox.close()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "outbox").iterdir())
    assert os.stat(tmp_path / "outbox").st_mode & 0o077 == 0


def test_a_directory_with_nothing_but_damaged_segments_is_read_from_its_new_one(tmp_path: Path) -> None:
    (tmp_path / "000000000007.damaged").write_bytes(b"kept aside")
    outbox = DiskOutbox(tmp_path)
    assert numbers(outbox) == []
    outbox.settle(settled(1))
    assert numbers(outbox) == [1]
    outbox.close()
