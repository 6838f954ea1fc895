"""The ledger: what the sandbox served, for a comparison with what was metered.

Each request is two lines of JSON, one at its start and one at its end. A line is appended with a single `write`, so
that it survives a SIGKILL of the sandbox, and a request that has no end was being served then.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from services.sandbox.script import Outcome

_NEW_LINE = b"\n"


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request at its start; `request_id` is the caller's x-request-id."""

    request_id: str | None
    model: str | None
    stream: bool


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended; tokens, pages and bytes are those that were sent, `status` is None when no headers were."""

    outcome: Outcome
    status: int | None
    events_sent: int
    bytes_sent: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    pages: int = 0


class StartLine(Opening, frozen=True, kw_only=True, tag="start", tag_field="kind"):
    """The first line of a request; `at` is in seconds since 1970."""

    seq: int
    at: float


class EndLine(Closing, frozen=True, kw_only=True, tag="end", tag_field="kind"):
    """The last line of a request."""

    seq: int
    request_id: str | None


class Entry(Opening, frozen=True, kw_only=True):
    """Both lines of a request in one; all of the end is None while it is being served."""

    seq: int
    at: float
    outcome: Outcome | None = None
    status: int | None = None
    events_sent: int | None = None
    bytes_sent: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    pages: int | None = None


class Ledger(Protocol):
    """Where the sandbox writes down what it served."""

    async def start(self, opening: Opening) -> int:
        """Write the start of a request and return its number, which only grows."""

    async def end(self, seq: int, *, closing: Closing) -> None:
        """Write the end of a request."""

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return the requests with a number above `after`, the oldest first."""

    async def clear(self) -> None:
        """Forget all requests; the ends of those that are being served will not show."""


class NullLedger:
    """A ledger that keeps nothing, for benchmarks."""

    async def start(self, opening: Opening) -> int:
        """Return 0."""
        return 0

    async def end(self, seq: int, *, closing: Closing) -> None:
        """Do nothing."""

    async def read(
        self,
        request_id: str | None = None,
        *,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Entry]:
        """Return nothing."""
        return []

    async def clear(self) -> None:
        """Do nothing."""


class FileLedger:
    """A ledger in a file of JSON lines, which one process at a time may open."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Open the file, made when it is not there; raises `BlockingIOError` when another process has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._now = now
        self._open: dict[int, str | None] = {}
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raw = path.read_bytes()
            if raw and not raw.endswith(_NEW_LINE):
                # A line that was torn by a full disk would spoil the next one too.
                os.write(self._file, _NEW_LINE)
        except BaseException:
            os.close(self._file)
            raise
        self._last_seq = max((line.seq for line in _decoded(raw)), default=0)

    async def start(self, opening: Opening) -> int:
        """Append the start of a request and return its number."""
        self._last_seq += 1
        seq = self._last_seq
        self._append(StartLine(seq=seq, at=self._now(), **msgspec.structs.asdict(opening)))
        self._open[seq] = opening.request_id
        return seq

    async def end(self, seq: int, *, closing: Closing) -> None:
        """Append the end of a request."""
        request_id = self._open.pop(seq, None)
        self._append(EndLine(seq=seq, request_id=request_id, **msgspec.structs.asdict(closing)))

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return the requests with a number above `after`, the oldest first."""
        lines = await asyncio.to_thread(lambda: _decoded(self._path.read_bytes()))
        return merged(lines, request_id=request_id, after=after)[:limit]

    async def clear(self) -> None:
        """Empty the file; numbers go on from where they were."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Close the file and let another process have it."""
        os.close(self._file)

    def _append(self, line: StartLine | EndLine) -> None:
        data = msgspec.json.encode(line) + _NEW_LINE
        if os.write(self._file, data) != len(data):
            raise OSError(f"{self._path} took only a part of a line")


def _decoded(raw: bytes) -> list[StartLine | EndLine]:
    decoder = msgspec.json.Decoder(StartLine | EndLine)
    lines = []
    for line in raw.splitlines():
        try:
            lines.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return lines


def merged(lines: Iterable[StartLine | EndLine], *, request_id: str | None, after: int) -> list[Entry]:
    """Return the requests of the lines, the oldest first."""
    entries: dict[int, Entry] = {}
    for line in lines:
        if line.seq <= after or (request_id is not None and line.request_id != request_id):
            continue
        if isinstance(line, StartLine):
            entries[line.seq] = Entry(**msgspec.structs.asdict(line))
        elif line.seq in entries:
            ended = msgspec.structs.asdict(line)
            entries[line.seq] = msgspec.structs.replace(entries[line.seq], **ended)
    return list(entries.values())
