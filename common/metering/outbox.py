"""A journal on the local disk that remembers every metered request until the usage service has stored it.

Records are appended to numbered segment files. An intent says that a request is about to reach a provider; an event
says how it ended. After a crash the intents without an event become events with the outcome "crashed". A record is in
the page cache when ``append`` returns: it survives the death of the process at once, and a power cut after the next
``sync``.

    record = length (4 bytes, little endian) | CRC-32 of the rest | kind (1 byte) | UsageEvent

Segments are removed strictly oldest first, when every event in them is stored; intents that are still open are then
written again at the end. So no event can disappear while its intent stays.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from common.errors import Unavailable
from common.metering import event_proto
from common.metering.record import Outcome, UsageRecord, UsageSource

_log = structlog.get_logger(__name__)
_HEADER: Final = struct.Struct("<II")
_INTENT: Final = b"I"
_EVENT: Final = b"E"


class DiskOutbox:
    """The journal in ``directory``, which one process at a time may use.

    ``segment_bytes`` is the size at which a new segment begins, ``max_bytes`` the size of all segments together at
    which new requests are refused. Opening it raises RuntimeError when another process has it, and recovers what a
    dead process left.
    """

    def __init__(
        self, directory: Path, *, segment_bytes: int = 8 * 1024 * 1024, max_bytes: int = 1024 * 1024 * 1024
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        # At least two segments must fit: the one that is written to is never removed, and must not fill the journal.
        self._segment_bytes = min(segment_bytes, max(1, max_bytes // 2))
        self._max_bytes = max_bytes
        self._lock = _locked(directory / "lock")
        # By event id: the segment in which the intent stands last, and its bytes.
        self._open_intents: dict[bytes, tuple[int, bytes]] = {}
        self._unsynced = False
        # Guards the file descriptor: a thread may sync it while a new segment takes its place.
        self._fd_lock = threading.Lock()
        numbers = sorted(int(path.stem) for path in directory.glob("*.journal"))
        self._sizes = {number: self._path(number).stat().st_size for number in numbers}
        self._number = numbers[-1] if numbers else 0
        self._fd = -1
        self._read_number = numbers[0] if numbers else 1
        self._read_offset = 0
        self.depth = 0
        self._start_segment()
        self._recover(numbers)

    @property
    def size(self) -> int:
        """The bytes of all segments."""
        return sum(self._sizes.values())

    def intend(self, record: UsageRecord) -> None:
        """Append an intent; raises Unavailable when the journal is full or the disk refuses."""
        if self.size > self._max_bytes:
            raise Unavailable("Usage cannot be recorded at the moment; try again later.", code="usage_backlog")
        data = event_proto.encode(record)
        self._append(_INTENT, data)
        self._open_intents[record.event_id] = (self._number, data)

    def settle(self, record: UsageRecord) -> None:
        """Append an event; raises Unavailable when the disk refuses."""
        self._append(_EVENT, event_proto.encode(record))
        self._open_intents.pop(record.event_id, None)
        self.depth += 1

    def sync(self) -> None:
        """Make what was appended safe from a power cut; blocks, so it is called from a thread."""
        with self._fd_lock:
            if self._unsynced:
                self._unsynced = False
                try:
                    os.fdatasync(self._fd)
                except OSError:
                    self._unsynced = True
                    raise

    def read(self, *, limit: int) -> tuple[list[bytes], Position]:
        """Return up to ``limit`` events that are not stored yet, and the position to ``release`` once they are.

        They are serialized, as they are sent.
        """
        events: list[bytes] = []
        number, offset = self._read_number, self._read_offset
        while len(events) < limit:
            for kind, data, end in _records(self._path(number), offset):
                offset = end
                if kind == _EVENT:
                    events.append(data)
                    if len(events) == limit:
                        return events, Position(number, offset, len(events))
            if number >= self._number:
                break
            number, offset = self._next(number), 0
        return events, Position(number, offset, len(events))

    def release(self, position: Position) -> None:
        """Forget everything before ``position``: the usage service has it."""
        self._read_number, self._read_offset = position.number, position.offset
        self.depth -= position.events
        gone = [number for number in self._sizes if number < position.number]
        if gone:
            self._carry_forward(position.number)
        for number in gone:
            self._path(number).unlink(missing_ok=True)
            del self._sizes[number]

    def reject(self, event: bytes) -> None:
        """Set aside an event that the usage service will never take, where an operator finds it."""
        data = _EVENT + event
        with (self._directory / "rejected").open("ab") as file:
            file.write(_HEADER.pack(len(data), zlib.crc32(data)) + data)
        request_id = event_proto.decode(event).request_id
        _log.error("a usage event was set aside", request_id=request_id, directory=str(self._directory))

    def close(self) -> None:
        """Sync and let go of the directory."""
        self.sync()
        os.close(self._fd)
        os.close(self._lock)
        self._fd = self._lock = -1

    def _append(self, kind: bytes, data: bytes) -> None:
        body = kind + data
        record = _HEADER.pack(len(body), zlib.crc32(body)) + body
        try:
            if self._sizes[self._number] >= self._segment_bytes:
                self._start_segment()
            _write_whole(self._fd, record, at=self._sizes[self._number])
        except OSError as error:
            _log.error("the outbox cannot be written", directory=str(self._directory), error=str(error))
            raise Unavailable("Usage cannot be recorded at the moment.", code="outbox_failed") from None
        self._sizes[self._number] += len(record)
        self._unsynced = True

    def _start_segment(self) -> None:
        self.sync()
        # Opened first: when that fails, the old segment must stay in use.
        number = self._number + 1
        new = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with self._fd_lock:
            old, self._fd = self._fd, new
        if old >= 0:
            os.close(old)
        self._number = number
        self._sizes[number] = 0

    def _carry_forward(self, before: int) -> None:
        """Repeat the open intents of the segments that go; recovery reads the same intent twice as one."""
        carried = [(key, data) for key, (number, data) in self._open_intents.items() if number < before]
        for key, data in carried:
            self._append(_INTENT, data)
            self._open_intents[key] = (self._number, data)
        if carried:
            self.sync()

    def _recover(self, numbers: list[int]) -> None:
        for number in numbers:
            for kind, data, _ in _records(self._path(number), 0):
                event_id = event_proto.decode(data).event_id
                if kind == _INTENT:
                    self._open_intents[event_id] = (number, data)
                else:
                    self._open_intents.pop(event_id, None)
                    self.depth += 1
        for _, data in list(self._open_intents.values()):
            record = event_proto.decode(data)
            record.outcome, record.usage_source, record.error_code = Outcome.CRASHED, UsageSource.NONE, "crashed"
            self.settle(record)
        if self.depth:
            _log.info("recovered events that were not stored yet", events=self.depth)

    def _next(self, number: int) -> int:
        return min(n for n in self._sizes if n > number)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}.journal"


class Position:
    """A place in the journal: everything before it, ``events`` events since the last one, was read."""

    __slots__ = ("events", "number", "offset")

    def __init__(self, number: int, offset: int, events: int) -> None:
        self.number = number
        self.offset = offset
        self.events = events


def _records(path: Path, offset: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield (kind, data, end offset) from ``offset`` on; stop at a torn record, which only a crash leaves."""
    with path.open("rb") as file:
        file.seek(offset)
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            body = file.read(length)
            # A power cut may leave zeros, of which eight would pass as the header of an empty record.
            if not body or len(body) != length or zlib.crc32(body) != checksum:
                return
            offset += _HEADER.size + length
            yield body[:1], body[1:], offset


def _write_whole(fd: int, record: bytes, *, at: int) -> None:
    written = 0
    try:
        written = os.write(fd, record)
    finally:
        if written != len(record):
            # Half a record in the middle would hide every later one from the reader.
            os.ftruncate(fd, at)
    if written != len(record):
        raise OSError("the disk took only a part of the record")


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RuntimeError(f"another process uses the outbox {path.parent}: set TURNPIKE_STATE_DIR") from None
    return fd
