"""The files of an outbox: segments, what is kept aside of them, and the events that were refused.

    lock                     held by the process that uses the outbox
    000000000001.journal     a segment
    000000000001.damaged     a segment in which something could not be read; the youngest 20 are kept
    rejected                 events that the usage service refused, as records of a journal
    returned                 refused events that are to be sent again

Every other file is left alone. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from common.metering.journal import Record, scan

_log = structlog.get_logger(__name__)
_SEGMENT: Final = re.compile(r"(\d{12,18})\.(journal|damaged)")
_DAMAGED_AT_MOST: Final = 20


class OutboxDirectory:
    """The directory at ``path``, which is made; raises RuntimeError when another process uses it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._lock = _locked(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._last_number = max(self._numbers("journal") + self._numbers("damaged"), default=0)

    def __str__(self) -> str:
        """Return the path, for logs."""
        return str(self.path)

    def segments(self) -> dict[int, int]:
        """Return the size in bytes of each segment by its number; what only looks like a segment is left out."""
        sizes = {}
        for number in sorted(self._numbers("journal")):
            path = self.segment(number)
            if path.is_file():
                sizes[number] = path.stat().st_size
            else:
                _log.warning("a stray file is in the outbox", path=str(path))
        return sizes

    def segment(self, number: int) -> Path:
        """Return the path of a segment."""
        return self.path / f"{number:012d}.journal"

    def begin_segment(self) -> tuple[int, int]:
        """Make the next segment, which a power cut does not take away; returns its number and a file descriptor."""
        number = self._last_number + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self.segment(number), flags, 0o600)
        self._last_number = number
        self.sync()
        return number, fd

    def remove_segment(self, number: int, *, is_damaged: bool) -> None:
        """Remove a segment, or keep it aside if it is damaged."""
        path = self.segment(number)
        if not is_damaged:
            path.unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_suffix(".damaged"))
            _log.error("a damaged segment is kept aside", path=str(path.with_suffix(".damaged")))
        for old in sorted(self._numbers("damaged"))[:-_DAMAGED_AT_MOST]:
            (self.path / f"{old:012d}.damaged").unlink(missing_ok=True)
            _log.error("an old damaged segment was removed", directory=str(self), number=old)

    def sync(self) -> None:
        """Make what was made, renamed and removed safe from a power cut."""
        os.fsync(self._fd)

    def reject(self, record: bytes) -> None:
        """Append a record to the refused ones."""
        with changing_rejected(self.path) as rejected:
            is_new = not rejected.exists()
            fd = os.open(rejected, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(record)
                file.flush()
                os.fdatasync(file.fileno())
            if is_new:
                self.sync()

    @property
    def rejected_bytes(self) -> int:
        """The size of the refused events."""
        return sum(path.stat().st_size for path in (self.path / "rejected", self.path / "returned") if path.is_file())

    def returned(self) -> Iterator[bytes]:
        """Yield the events that are to be sent again."""
        yield from events_in(self.path / "returned")

    def forget_returned(self) -> None:
        """Remove the events that were to be sent again."""
        (self.path / "returned").unlink(missing_ok=True)
        self.sync()

    def close(self) -> None:
        """Let another process use the directory."""
        os.close(self._fd)
        os.close(self._lock)
        self._fd = self._lock = -1

    def _numbers(self, suffix: str) -> list[int]:
        found = (_SEGMENT.fullmatch(path.name) for path in self.path.iterdir())
        return [int(match[1]) for match in found if match and match[2] == suffix]


@contextlib.contextmanager
def changing_rejected(directory: Path) -> Iterator[Path]:
    """Give the path of the refused events, which nobody else writes or renames meanwhile."""
    fd = os.open(directory / "rejected.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory / "rejected"
    finally:
        os.close(fd)


def events_in(path: Path) -> Iterator[bytes]:
    """Yield the events in a file of records, none when there is no file."""
    if not path.is_file():
        return
    for found in scan(path, start=0, end=path.stat().st_size):
        if isinstance(found, Record):
            yield found.data
        else:
            _log.error("refused events could not be read", path=str(path), start=found.start, end=found.end)


def _locked(directory: Path) -> int:
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RuntimeError(f"another process uses the outbox {directory}: set TURNPIKE_STATE_DIR") from None
    return fd
