"""The lines of calls; those of everything else are structlog's (tests/common/test_telemetry.py)."""

from __future__ import annotations

import json
import os

import pytest

from common.logs import CallLine, CallLog, NullCallLog, StdoutCallLog, call_log

_LINE = CallLine(rpc="/a.B/C", request_id="req-1", trace_id="", status=200, user_id="alice", milliseconds=1.5)


def test_a_line_is_one_json_object_with_the_time_in_utc(capfd: pytest.CaptureFixture[str]) -> None:
    log: CallLog = StdoutCallLog()
    log.write(_LINE)
    log.write(_LINE)
    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert first == second
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "rpc": "/a.B/C",
        "request_id": "req-1",
        "trace_id": "",
        "status": 200,
        "user_id": "alice",
        "milliseconds": 1.5,
        "event": "call",
        "level": "info",
    }


@pytest.mark.parametrize(
    ("level", "kind"),
    [("debug", StdoutCallLog), ("info", StdoutCallLog), ("warning", NullCallLog), ("error", NullCallLog)],
)
def test_the_lines_of_calls_are_information(level: str, kind: type[CallLog]) -> None:
    assert type(call_log(level)) is kind


def test_a_line_that_cannot_be_written_does_not_fail_its_call() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    StdoutCallLog(descriptor=writer).write(_LINE)
    os.close(writer)
