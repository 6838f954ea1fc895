"""A journal on the local disk that remembers every metered request until the usage service has stored it.

Records are appended to numbered segment files (see journal.py). An intent says that a request is about to reach a
provider; an event says how it ended. After a crash the intents without an event become events with the outcome
"crashed". A record is in the page cache when ``intend`` or ``settle`` returns: it survives the death of the process at
once, and a power cut after the next ``sync``.

Segments are removed strictly oldest first, when every event in them is stored; intents that are still open are then
written again at the end. So no event can disappear while its intent stays. A segment with damage is kept aside. When
everything is stored and nothing comes for a while, all segments are empty: whoever looks at the files can tell.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from common.errors import Unavailable
from common.metering import event_proto, journal_record
from common.metering.journal import EVENT, INTENT, Damage, Record, pack, scan
from common.metering.outbox_directory import OutboxDirectory
from common.metering.record import Outcome, UsageRecord, UsageSource

_log = structlog.get_logger(__name__)
_CARRIED_AT_ONCE: Final = 64
_IDLE_SYNCS: Final = 3


class Position(NamedTuple):
    """A place in the journal: everything before it, ``events`` events since the last one, was read."""

    number: int
    offset: int
    events: int


class DiskOutbox:
    """The journal in ``directory``, which one process at a time may use.

    ``segment_bytes`` is the size at which a new segment begins, ``max_bytes`` the size of everything together at which
    new requests are refused. Opening it raises RuntimeError when another process has it, and recovers what a dead
    process left. Only ``intend`` and ``settle`` may be called from an event loop: they write to the page cache, and
    everything else blocks and belongs into one other thread.
    """

    def __init__(
        self, directory: Path, *, segment_bytes: int = 8 * 1024 * 1024, max_bytes: int = 1024 * 1024 * 1024
    ) -> None:
        self._directory = OutboxDirectory(directory)
        # At least two segments must fit: the one that is written to is never removed, and must not fill the journal.
        self._segment_bytes = min(segment_bytes, max(1, max_bytes // 2))
        self._max_bytes = max_bytes
        # Guards what the event loop and the thread share; nothing but a write to the page cache happens inside.
        self._lock = threading.Lock()
        # By event id: the segment in which the intent stands last, and its bytes.
        self._open_intents: dict[bytes, tuple[int, bytes]] = {}
        self._sizes = self._directory.segments()
        self._rejected_bytes = self._directory.rejected_bytes
        self._damage: set[tuple[int, int]] = set()
        self._retired: list[int] = []
        self._unsynced = False
        self._idle_syncs = 0
        self.depth = 0
        self.damaged = 0
        self._number, self._fd = self._directory.begin_segment()
        self._read_number, self._read_offset = min(self._sizes, default=self._number), 0
        self._spare: tuple[int, int] | None = None
        recovered = dict(self._sizes)
        self._sizes[self._number] = 0
        self._recover(recovered)

    @property
    def size(self) -> int:
        """The bytes of all segments, and of the rejected events."""
        with self._lock:
            return sum(self._sizes.values()) + self._rejected_bytes

    @property
    def rejected_bytes(self) -> int:
        """The bytes of the events that the usage service refused."""
        return self._rejected_bytes

    def intend(self, record: UsageRecord) -> None:
        """Append an intent; raises Unavailable when the journal is full or the disk refuses."""
        if self.size > self._max_bytes:
            raise Unavailable("Usage cannot be recorded at the moment; try again later.", code="usage_backlog")
        data = journal_record.intent(record)
        with self._lock:
            self._append(INTENT, data)
            self._open_intents[record.event_id] = (self._number, data)

    def settle(self, record: UsageRecord) -> None:
        """Append an event; raises Unavailable when the disk refuses."""
        data = event_proto.encode(record)
        with self._lock:
            self._append(EVENT, data)
            self._open_intents.pop(record.event_id, None)
            self.depth += 1

    def sync(self) -> None:
        """Make what was appended safe from a power cut, and have the next segment ready; raises OSError."""
        with self._lock:
            retired, unsynced, fd = self._retired, self._unsynced, self._fd
            self._retired, self._unsynced = [], False
        try:
            while retired:
                os.fdatasync(retired[-1])
                os.close(retired.pop())
            if unsynced:
                os.fdatasync(fd)
        except OSError:
            with self._lock:
                self._retired += retired
                self._unsynced = True
            raise
        self._idle_syncs = 0 if unsynced else self._idle_syncs + 1
        self._have_a_spare()
        self._put_back()

    def read(self, *, limit: int) -> tuple[list[bytes], Position]:
        """Return up to ``limit`` events that are not stored yet, and the position to ``release`` once they are.

        They are serialized, as they are sent. Raises OSError.
        """
        events: list[bytes] = []
        number, offset = self._read_number, self._read_offset
        with self._lock:
            sizes = dict(self._sizes)
        while True:
            for found, _ in self._scan(number, start=offset, end=sizes[number]):
                offset = found.end
                if found.kind == EVENT:
                    events.append(found.data)
                if len(events) == limit:
                    return events, Position(number, offset, len(events))
            later = [other for other in sizes if other > number]
            if not later:
                return events, Position(number, max(offset, sizes[number]), len(events))
            number, offset = min(later), 0

    def release(self, position: Position) -> None:
        """Forget everything before ``position``: the usage service has it. Raises OSError or Unavailable."""
        with self._lock:
            self._read_number, self._read_offset = position.number, position.offset
            self.depth -= position.events
            if (position.number, position.offset) == (self._number, self._sizes[self._number]):
                # A damaged event was counted when it came, and is not read.
                self.depth = 0
            gone = sorted(number for number in self._sizes if number < position.number)
        if not gone:
            return
        self._carry_forward(position.number)
        for number in gone:
            self._directory.remove_segment(number, is_damaged=any(at == number for at, _ in self._damage))
            with self._lock:
                del self._sizes[number]
        self._damage = {place for place in self._damage if place[0] >= position.number}
        self._directory.sync()

    def reject(self, event: bytes) -> None:
        """Set aside an event that the usage service refuses, where an operator finds it; raises OSError."""
        self._directory.reject(pack(EVENT, event))
        self._rejected_bytes = self._directory.rejected_bytes
        event_id = event_proto.event_id_of(event).hex()
        _log.error("a usage event was set aside", event_id=event_id, directory=str(self._directory))

    def close(self) -> None:
        """Sync and let go of the directory."""
        self.sync()
        for fd in (self._fd, *(fd for _, fd in filter(None, [self._spare]))):
            os.close(fd)
        self._directory.close()

    def _append(self, kind: bytes, data: bytes) -> None:
        # Without a spare the segment grows: an event loop does not wait for a new file.
        if self._sizes[self._number] >= self._segment_bytes:
            self._rotate()
        try:
            record = pack(kind, data)
            _write_all(self._fd, record, at=self._sizes[self._number])
        except (OSError, ValueError) as error:
            _log.error("the outbox cannot be written", directory=str(self._directory), error=str(error))
            raise Unavailable("Usage cannot be recorded at the moment.", code="outbox_failed") from None
        self._sizes[self._number] += len(record)
        self._unsynced = True

    def _rotate(self) -> None:
        if self._spare is not None:
            self._retired.append(self._fd)
            (self._number, self._fd), self._spare = self._spare, None
            self._sizes[self._number] = 0

    def _have_a_spare(self) -> None:
        with self._lock:
            size = self._sizes[self._number]
            is_read = size > 0 and (self._read_number, self._read_offset) == (self._number, size)
            is_done = is_read and self._idle_syncs >= _IDLE_SYNCS and not self._open_intents
            wants_spare = self._spare is None and (size * 2 >= self._segment_bytes or is_done)
        spare = self._directory.begin_segment() if wants_spare else None
        with self._lock:
            self._spare = self._spare or spare
            # Looked at again: an intent that came in between keeps the segment.
            if self._sizes[self._number] >= self._segment_bytes or (is_done and size == self._sizes[self._number]):
                self._rotate()

    def _carry_forward(self, before: int) -> None:
        """Repeat the open intents of the segments that go; recovery reads the same intent twice as one."""
        with self._lock:
            waiting = iter([key for key, (number, _) in self._open_intents.items() if number < before])
        while keys := list(islice(waiting, _CARRIED_AT_ONCE)):
            with self._lock:
                for key in keys:
                    number, data = self._open_intents.get(key, (before, b""))
                    if number < before:
                        self._append(INTENT, data)
                        self._open_intents[key] = (self._number, data)
        self.sync()

    def _put_back(self) -> None:
        """Append the events that an operator wants to be sent again."""
        count = 0
        for event in self._directory.returned():
            with self._lock:
                self._append(EVENT, event)
                self.depth += 1
            count += 1
        if not count:
            return
        with self._lock:
            fds = [*self._retired, self._fd]
        for fd in fds:
            os.fdatasync(fd)
        self._directory.forget_returned()
        self._rejected_bytes = self._directory.rejected_bytes
        _log.info("rejected events were put back", events=count, directory=str(self._directory))

    def _scan(self, number: int, *, start: int, end: int) -> Iterator[tuple[Record, bytes]]:
        """Yield a segment's records with the ids of their events, and note what cannot be read."""
        try:
            for found in scan(self._directory.segment(number), start=start, end=end):
                if isinstance(found, Damage):
                    self._note_damage(number, found.start, found.end, why="not a record")
                    continue
                if found.is_damaged:
                    self._note_damage(number, found.start, found.end, why="a wrong length, and read all the same")
                try:
                    event_id = journal_record.event_id(found)
                except ValueError as error:
                    self._note_damage(number, found.start, found.end, why=str(error))
                else:
                    yield found, event_id
        except FileNotFoundError:
            if not self._directory.path.is_dir():
                raise
            self._note_damage(number, start, end, why="the segment is gone")

    def _note_damage(self, number: int, start: int, end: int, *, why: str) -> None:
        if (number, start) in self._damage:
            return
        self._damage.add((number, start))
        self.damaged += 1
        _log.error("the outbox is damaged", segment=str(self._directory.segment(number)), start=start, end=end, why=why)

    def _recover(self, segments: dict[int, int]) -> None:
        intents: dict[bytes, tuple[int, Record]] = {}
        for number in sorted(segments):
            for found, event_id in self._scan(number, start=0, end=segments[number]):
                if found.kind == EVENT:
                    intents.pop(event_id, None)
                    self.depth += 1
                else:
                    intents[event_id] = (number, found)
        for number, found in intents.values():
            try:
                record = journal_record.usage_record(found)
            except ValueError as error:
                self._note_damage(number, found.start, found.end, why=str(error))
                continue
            record.outcome, record.usage_source, record.error_code = Outcome.CRASHED, UsageSource.NONE, "crashed"
            self.settle(record)
        if self.depth:
            _log.info("recovered events that were not stored yet", events=self.depth)


def _write_all(fd: int, record: bytes, *, at: int) -> None:
    written = 0
    try:
        written = os.write(fd, record)
    finally:
        if written != len(record):
            # Half a record would be damage.
            os.ftruncate(fd, at)
    if written != len(record):
        raise OSError("the disk took only a part of the record")
