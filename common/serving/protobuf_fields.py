"""Protobuf's encoding where bytes are at hand already and a message would only copy them.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import Final

LENGTH_DELIMITED: Final = 2


def field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, text or a message; ``number`` is below 16, as it is in every message here."""
    tag, length = number << 3 | LENGTH_DELIMITED, len(value)
    if 0x7F < length < 0x4000:
        # What nearly every event and record has.
        return bytes((tag, length & 0x7F | 0x80, length >> 7)) + value
    head = [tag]
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + value


def varint(view: memoryview, place: int) -> tuple[int, int]:
    """Return the number at ``place`` and the place after it; one that is cut off fits no message's length."""
    number = shift = 0
    for byte in view[place : place + 5]:
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    return len(view) + 1, place
