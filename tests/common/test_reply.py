"""How events are joined into messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.reply import PIECE_BYTES, messages_of


@given(st.lists(st.integers(1, 3 * PIECE_BYTES), max_size=12), st.integers(0, 30))
def test_events_stay_whole_and_in_order_and_messages_stay_small(sizes: list[int], small: int) -> None:
    events = [bytes([number % 251]) * size for number, size in enumerate([*sizes, *[20_000] * small])]
    messages = messages_of(events)
    assert b"".join(messages) == b"".join(events)
    assert all(0 < len(message) <= PIECE_BYTES for message in messages)
    # Only an event that fits in no message is cut: every other one is within one.
    ends = {0}
    for message in messages:
        ends.add(max(ends) + len(message))
    at = 0
    for event in events:
        inner = [end for end in ends if at < end < at + len(event)]
        assert not inner or len(event) > PIECE_BYTES
        at += len(event)


class _Counted(bytes):
    """Bytes that count how often they are added to others."""

    copies = 0

    def __radd__(self, other: bytes) -> bytes:
        _Counted.copies += 1
        return bytes(other) + bytes(self)

    def __add__(self, other: bytes) -> bytes:  # type: ignore[override] # as above
        _Counted.copies += 1
        return bytes(self) + bytes(other)


def test_many_small_events_are_joined_once() -> None:
    events = [_Counted(b"data: {}\n\n")] * 60_000
    assert sum(map(len, messages_of(events))) == 600_000
    assert _Counted.copies == 0
