"""Structured logs: one JSON object a line on standard output, without message contents and secrets."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import structlog

_STDOUT: Final = 1
_FLUSH_SECONDS: Final = 0.1
# Some 25 KiB: a pipe holds 64 on Linux, so that a reader who keeps up gets them in one piece.
_FLUSH_LINES: Final = 100
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class CallLine(msgspec.Struct, frozen=True, kw_only=True):
    """The line of a call that has ended."""

    rpc: str
    request_id: str
    trace_id: str
    status: int
    user_id: str
    milliseconds: float
    event: str = "call"
    level: str = "info"
    timestamp: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


class CallLog(Protocol):
    """Where the lines of calls go."""

    def write(self, line: CallLine) -> None:
        """Take a line."""


class StdoutCallLog:
    """Writes lines to standard output, next to structlog's, those of a tenth of a second together.

    By itself, because it is on the path of every call, where structlog costs more than a request's authentication; and
    not one by one, because each write wakes whoever reads the log. A process that is killed loses its last lines.
    """

    def __init__(self, *, descriptor: int = _STDOUT) -> None:
        self._descriptor = descriptor
        self._encode = msgspec.json.Encoder().encode_lines
        self._lines: list[CallLine] = []
        self._timer: asyncio.TimerHandle | None = None
        atexit.register(self.flush)

    def write(self, line: CallLine) -> None:
        """Take the line, and write it soon; at once outside of an event loop."""
        self._lines.append(line)
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        """Write what waits; lines that the disk or the pipe refuses are lost, and the calls go on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            data = self._encode(lines)
            with contextlib.suppress(OSError):
                # A signal ends a write that waits for a full pipe; the next line must not follow half of another.
                while data:
                    data = data[os.write(self._descriptor, data) :]


class NullCallLog:
    """Drops every line."""

    def write(self, line: CallLine) -> None:
        """Drop the line."""


def call_log(level: str) -> CallLog:
    """Return where the lines of calls go when logging begins at ``level``."""
    return StdoutCallLog() if _LEVELS[level] <= _LEVELS["info"] else NullCallLog()


def configure_logging(level: str) -> None:
    """Log from ``level`` (debug, info, warning, error) upwards, structlog's events and the standard library's alike.

    Nothing of a request is in a line but what a caller of ``structlog`` puts there: see ``trace`` and ``_WithoutData``.
    """
    encoder = msgspec.json.Encoder(enc_hook=str)
    exceptions = structlog.processors.ExceptionRenderer(_trace_of_info)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            exceptions,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: encoder.encode(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_WithoutData())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                exceptions,
                structlog.processors.JSONRenderer(serializer=lambda event, **_: encoder.encode(event).decode()),
            ],
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def trace(error: BaseException) -> str:
    """Return where an exception and its causes came from and of which types they are.

    Their texts are left out, because they quote what could not be understood: a caller's header, or a message. Only the
    system's own errors (OSError) keep theirs.
    """
    lines: list[str] = []
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        text = f": {error}" if isinstance(error, OSError) else ""
        lines = [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}{text}\n", *lines]
        error = error.__cause__ or (not error.__suppress_context__ and error.__context__) or error
    return "".join(lines)


def _trace_of_info(exc_info: tuple[type[BaseException], BaseException, Any]) -> str:
    return trace(exc_info[1])


class _WithoutData(logging.Filter):
    """Takes request data out of what libraries say about calls: the values of gRPC's messages, asyncio's details.

    gRPC reports a header that is not UTF-8 with the whole header, and asyncio an exception with its text.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        if record.name.partition(".")[0] in ("grpc", "asyncio"):
            told = record.msg if isinstance(record.msg, str) else type(record.msg).__qualname__
            record.msg, record.args = told.partition("\n")[0], None
        return True
