"""The ledger: what the sandbox served, for a comparison with what was metered.

Each request is two lines of JSON, one at its start and one at its end, which has all of the first. A line is appended
with a single `write`, so that it survives a SIGKILL of the sandbox, and a request without an end was being served then.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from services.sandbox.script import Outcome

_NEW_LINE: Final = b"\n"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A request: `at` is in seconds since 1970, `request_id` the caller's x-request-id; no outcome while it is served.

    Tokens, pages and bytes are those that were sent; `status` is None when no headers were.
    """

    seq: int
    at: float
    request_id: str | None
    model: str | None
    stream: bool
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

    async def start(self, *, request_id: str | None, model: str | None, stream: bool) -> Entry:
        """Write the start of a request and return its entry, whose number only grows."""

    async def end(self, entry: Entry) -> None:
        """Write the end of a request."""

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return the requests with a number above `after`, the oldest first."""

    async def clear(self) -> None:
        """Forget all requests; those that are being served show up at their end."""


class NullLedger:
    """A ledger that keeps nothing."""

    async def start(self, *, request_id: str | None, model: str | None, stream: bool) -> Entry:
        """Return an entry."""
        return Entry(seq=0, at=0, request_id=request_id, model=model, stream=stream)

    async def end(self, entry: Entry) -> None:
        """Do nothing."""

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return nothing."""
        return []

    async def clear(self) -> None:
        """Do nothing."""


class FileLedger:
    """A ledger in a file of JSON lines, which one process at a time may open."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Open the file, made when it is not there; raises BlockingIOError when another process has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._now = now
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raw = path.read_bytes()
            if raw and not raw.endswith(_NEW_LINE):
                # A line that was torn by a full disk would spoil the next one, too.
                os.write(self._file, _NEW_LINE)
        except BaseException:
            os.close(self._file)
            raise
        self._last_seq = max((entry.seq for entry in _decoded(raw)), default=0)

    async def start(self, *, request_id: str | None, model: str | None, stream: bool) -> Entry:
        """Append the start of a request and return its entry."""
        self._last_seq += 1
        entry = Entry(seq=self._last_seq, at=self._now(), request_id=request_id, model=model, stream=stream)
        self._append(entry)
        return entry

    async def end(self, entry: Entry) -> None:
        """Append the end of a request."""
        self._append(entry)

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return the requests with a number above `after`, the oldest first."""
        entries = await asyncio.to_thread(lambda: _decoded(self._path.read_bytes()))
        return selected(entries, request_id=request_id, after=after)[:limit]

    async def clear(self) -> None:
        """Empty the file; numbers go on from where they were."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Close the file and let another process have it."""
        os.close(self._file)

    def _append(self, entry: Entry) -> None:
        data = msgspec.json.encode(entry) + _NEW_LINE
        if os.write(self._file, data) != len(data):
            raise OSError(f"{self._path} took only a part of a line")


def _decoded(raw: bytes) -> list[Entry]:
    decoder = msgspec.json.Decoder(Entry)
    entries = []
    for line in raw.splitlines():
        try:
            entries.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return entries


def selected(entries: Iterable[Entry], *, request_id: str | None, after: int) -> list[Entry]:
    """Return each request once, as its last entry has it, in the order of their starts."""
    by_seq: dict[int, Entry] = {}
    for entry in entries:
        if entry.seq > after and (request_id is None or entry.request_id == request_id):
            by_seq[entry.seq] = entry
    return list(by_seq.values())
