"""The command that shows refused events and has them sent again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.metering import event_proto
from common.metering.outbox import DiskOutbox
from common.metering.record import Outcome, UsageRecord
from common.metering.rejected import main
from tests.common.builders import number_of, usage_record


def settled(number: int) -> UsageRecord:
    record = usage_record(number)
    record.outcome = Outcome.COMPLETED
    return record


@pytest.fixture
def outbox(tmp_path: Path) -> DiskOutbox:
    """An outbox that set two events aside."""
    outbox = DiskOutbox(tmp_path)
    with capture_logs() as logs:
        for number in (1, 2):
            outbox.reject(event_proto.encode(settled(number)))
    assert [line["event"] for line in logs] == ["a usage event was set aside"] * 2
    return outbox


def numbers(outbox: DiskOutbox) -> list[int]:
    return [number_of(event_proto.decode(event)) for event in outbox.read(limit=100)[0]]


def test_refused_events_are_shown_a_line_each(
    outbox: DiskOutbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["request_id"], line["outcome"]) for line in lines] == [("req-1", "completed"), ("req-2", "completed")]
    assert numbers(outbox) == []
    outbox.close()


def test_a_running_service_takes_up_what_is_put_back(
    outbox: DiskOutbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = outbox.rejected_bytes
    assert main([str(tmp_path), "--put-back"]) == 0
    assert "sends the rejected events again" in capsys.readouterr().out
    outbox.sync()
    assert (numbers(outbox), outbox.depth) == ([1, 2], 2)
    assert (before > 0, outbox.rejected_bytes) == (True, 0)
    assert not (tmp_path / "rejected").exists()
    outbox.sync()
    assert numbers(outbox) == [1, 2]
    outbox.close()


def test_a_service_that_starts_later_takes_it_up(outbox: DiskOutbox, tmp_path: Path) -> None:
    outbox.close()
    assert main([str(tmp_path), "--put-back"]) == 0
    started = DiskOutbox(tmp_path)
    started.sync()
    assert numbers(started) == [1, 2]
    started.close()


def test_what_is_not_taken_up_yet_is_not_overwritten(
    outbox: DiskOutbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--put-back"]) == 0
    with capture_logs():
        outbox.reject(event_proto.encode(settled(3)))
    assert main([str(tmp_path), "--put-back"]) == 1
    assert "not taken up yet" in capsys.readouterr().err
    outbox.sync()
    assert main([str(tmp_path), "--put-back"]) == 0
    outbox.sync()
    assert numbers(outbox) == [1, 2, 3]
    outbox.close()


def test_what_cannot_be_read_is_said(outbox: DiskOutbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "rejected").open("ab") as file:
        file.write(b"half a rec")
    with capture_logs() as logs:
        assert main([str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert [line["event"] for line in logs] == ["refused events could not be read"]
    outbox.close()


def test_without_refused_events_or_a_directory_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--put-back"]) == 0
    assert "no rejected events" in capsys.readouterr().out
    assert main([str(tmp_path / "missing")]) == 2
    assert "is no directory" in capsys.readouterr().err


def test_refused_events_count_against_the_size_of_the_outbox(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path, max_bytes=100)
    with capture_logs():
        while outbox.rejected_bytes <= 100:
            outbox.reject(event_proto.encode(settled(1)))
    with pytest.raises(Exception, match="cannot be recorded"):
        outbox.intend(usage_record(2))
    outbox.close()
