"""The records of a journal's file, and how a reader gets past those that are damaged.

    record = length (4 bytes, little endian) | CRC-32 of the rest | kind (1 byte) | data

A bit that the disk or the memory has flipped costs at most the record in which it is. When the bit is in the length,
the checksum finds the right one among those that differ in a bit. When it is elsewhere, the length leads to the next
record. Where neither helps, the reader goes on with the next bytes that are a whole record.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

INTENT: Final = b"M"
PROTOBUF_INTENT: Final = b"I"
"""An intent as versions before MessagePack wrote it; it is only read."""
EVENT: Final = b"E"
_KINDS: Final = (INTENT, PROTOBUF_INTENT, EVENT)
DATA_BYTES_AT_MOST: Final = 0xFFFE
"""The longest data of a record; an event has some hundred bytes."""
_HEADER: Final = struct.Struct("<II")
# What the begin of a record looks like: the upper half of its length is zero, and behind the checksum is a kind.
_BEGIN: Final = re.compile(rb"(?=..\x00\x00....[MIE])", re.DOTALL)
_RECORD_BYTES_AT_MOST: Final = _HEADER.size + DATA_BYTES_AT_MOST + 1
_WINDOW_BYTES: Final = 4 * 1024 * 1024


class Record(NamedTuple):
    """A whole record; ``start`` and ``end`` are its place in the file. Of a damaged one only the length was wrong."""

    start: int
    end: int
    kind: bytes
    data: bytes
    is_damaged: bool = False


class Damage(NamedTuple):
    """Bytes that are no record."""

    start: int
    end: int


def pack(kind: bytes, data: bytes) -> bytes:
    """Return a record; raises ValueError when the data is too long for one."""
    if len(data) > DATA_BYTES_AT_MOST:
        raise ValueError(f"a record of {len(data)} bytes is too long")
    body = kind + data
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def scan(path: Path, *, start: int, end: int) -> Iterator[Record | Damage]:
    """Yield what is in the file from ``start`` to ``end``, without a gap; raises OSError. Blocks.

    A file that is shorter has damage at its end. Takes time that is linear in the size.
    """
    with path.open("rb") as file:
        while start < end:
            file.seek(start)
            wanted = min(_WINDOW_BYTES, end - start)
            window = file.read(wanted)
            if not window:
                yield Damage(start, end)
                return
            begin = start
            for found in _found(window, is_last=len(window) < wanted or begin + wanted == end):
                start = begin + found.end
                yield found._replace(start=begin + found.start, end=start)


def _found(window: bytes, *, is_last: bool) -> Iterator[Record | Damage]:
    """Yield what is in the window; a record or damage that may go on behind a window that is not the last is left."""
    place, size = 0, len(window)
    while place < size:
        if not is_last and size - place < 2 * _RECORD_BYTES_AT_MOST:
            return
        record = _record(window, place) or _record_of_other_length(window, place)
        if record:
            yield record
            place = record.end
            continue
        end = _end_of_damage(window, place)
        if end == size and not is_last:
            # The next record may have begun already.
            end -= _RECORD_BYTES_AT_MOST
        yield Damage(place, end)
        place = end


def _record(window: bytes, place: int, *, flipped: int = 0) -> Record | None:
    """Return the record at ``place``; ``flipped`` are bits of its length that are taken as wrong."""
    body = place + _HEADER.size
    if body >= len(window):
        return None
    length, checksum = _HEADER.unpack_from(window, place)
    length ^= flipped
    # A power cut may leave zeros, of which eight would pass as the header of an empty record.
    if not 0 < length <= DATA_BYTES_AT_MOST + 1 or body + length > len(window):
        return None
    kind = window[body : body + 1]
    if kind not in _KINDS or zlib.crc32(memoryview(window)[body : body + length]) != checksum:
        return None
    return Record(place, body + length, kind, window[body + 1 : body + length], is_damaged=flipped != 0)


def _record_of_other_length(window: bytes, place: int) -> Record | None:
    found = (_record(window, place, flipped=1 << bit) for bit in range(32))
    return next((record for record in found if record), None)


def _end_of_damage(window: bytes, place: int) -> int:
    """Return where the next record begins after the bytes at ``place``, which are none."""
    if place + _HEADER.size <= len(window):
        length, _ = _HEADER.unpack_from(window, place)
        end = place + _HEADER.size + length
        if end == len(window) or (end < len(window) and _record(window, end)):
            return int(end)
    for begin in _BEGIN.finditer(window, place + 1):
        if _record(window, begin.start()):
            return begin.start()
    return len(window)
