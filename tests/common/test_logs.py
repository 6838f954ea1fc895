"""The lines of calls; those of everything else are structlog's (tests/common/test_telemetry.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.logs import CallLine, CallLog, NullCallLog, StdoutCallLog, call_log, trace

_REPOSITORY = Path(__file__).resolve().parents[2]
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


async def test_lines_that_come_together_are_written_together() -> None:
    reader, writer = os.pipe()
    log = StdoutCallLog(descriptor=writer)
    for _ in range(100):
        log.write(_LINE)
    log.flush()
    os.close(writer)
    with os.fdopen(reader, "rb") as written:
        assert len(written.read().splitlines()) == 100


async def test_a_signal_tears_no_line_while_the_pipe_is_full() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * select.PIPE_BUF)
    os.set_blocking(writer, True)
    # There is room for a part of the lines: the rest waits, until the signal's handler makes room for it, too.
    read = [os.read(reader, 2 * select.PIPE_BUF)]
    before = signal.signal(signal.SIGALRM, lambda *_: read.append(os.read(reader, 2**20)))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        log = StdoutCallLog(descriptor=writer)
        for _ in range(100):
            log.write(_LINE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    os.close(writer)
    with os.fdopen(reader, "rb") as rest:
        lines = b"".join([*read, rest.read()]).lstrip(b".").splitlines()
    assert len(lines) == 100
    assert all(json.loads(line)["rpc"] == _LINE.rpc for line in lines)


async def test_a_line_is_written_soon_though_no_other_comes() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    loop = asyncio.get_running_loop()
    is_there = asyncio.Event()
    loop.add_reader(reader, is_there.set)
    StdoutCallLog(descriptor=writer).write(_LINE)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    async with asyncio.timeout(30):
        await is_there.wait()
    loop.remove_reader(reader)
    assert json.loads(os.read(reader, 4096))["event"] == "call"
    os.close(reader)
    os.close(writer)


class _Loop(asyncio.SelectorEventLoop):
    """Keeps its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_later(self, *arguments: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override] # passes all on
        timer = super().call_later(*arguments, **options)
        self.timers.append(timer)
        return timer


def test_lines_that_are_written_because_they_are_many_leave_no_timer_behind(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = StdoutCallLog(descriptor=descriptor)

    async def write() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)
        for _ in range(1050):
            log.write(_LINE)
        return len(loop.timers), sum(not timer.cancelled() for timer in loop.timers)

    with asyncio.Runner(loop_factory=_Loop) as runner:
        made, left = runner.run(write())
    assert made > 1
    assert left == 1
    log.flush()
    os.close(descriptor)
    assert len(path.read_bytes().splitlines()) == 1050


_SECRET = "sk-the-secret"

_ODD_LINES = f"""
import asyncio, logging, structlog
from common.logs import configure_logging

configure_logging("info")
for name in ("grpc._cython.cygrpc", "grpc"):
    try:
        b"{_SECRET}\\xe9".decode()
    except UnicodeDecodeError:
        logging.getLogger(name).exception("Invalid encoding on %s", b"{_SECRET}\\xe9")
logging.getLogger("grpc").error(ValueError("{_SECRET}"))
try:
    try:
        raise KeyError("{_SECRET}")
    except KeyError as error:
        raise ValueError("{_SECRET}") from error
except ValueError:
    structlog.get_logger().exception("unexpected error")
try:
    open("/nowhere/at-all")
except OSError:
    logging.getLogger("other").exception("a library says %s", "why")

async def fails():
    raise ValueError("{_SECRET}")

async def main():
    task = asyncio.create_task(fails())
    await asyncio.wait([task])

asyncio.run(main())
"""


def test_no_line_holds_data_of_a_request() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _ODD_LINES],
        env={"PYTHONPATH": str(_REPOSITORY)},
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert _SECRET not in run.stdout + run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["event"] for line in lines] == [
        "Invalid encoding on %s",
        "Invalid encoding on %s",
        "ValueError",
        "unexpected error",
        "a library says why",
        "Task exception was never retrieved",
    ]
    unexpected = lines[3]["exception"]
    assert unexpected.index("KeyError") < unexpected.index("ValueError")
    assert unexpected.count("line ") == 2
    # The system's own errors say what a trace does not.
    assert "No such file or directory" in lines[4]["exception"]
    assert "ValueError" in lines[5]["exception"]


def test_a_trace_ends_where_exceptions_are_the_cause_of_each_other() -> None:
    first, second = ValueError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first
    assert trace(first) == "KeyError\nValueError\n"
