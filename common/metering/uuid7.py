"""Ids that begin with their time: UUIDs of version 7, as 16 bytes. Source: RFC 9562, section 5.7."""

from __future__ import annotations

import os


def uuid7_bytes(now_ns: int) -> bytes:
    """Return a new id for a time in nanoseconds since 1970."""
    random = os.urandom(10)
    milliseconds = now_ns // 1_000_000
    return (
        milliseconds.to_bytes(6, "big")
        + bytes((0x70 | random[0] & 0x0F, random[1], 0x80 | random[2] & 0x3F))
        + random[3:]
    )


def is_uuid7(event_id: bytes) -> bool:
    """Say whether these are the 16 bytes of a UUIDv7."""
    return len(event_id) == 16 and event_id[6] >> 4 == 7 and event_id[8] >> 6 == 2


def milliseconds(event_id: bytes) -> int:
    """Return the time of a UUIDv7 in milliseconds since 1970."""
    return int.from_bytes(event_id[:6], "big")
