"""Server-sent events, cut out of any stream of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import UpstreamFailed
from common.upstream.sse import KEEP_ALIVE, EventSplitter, cleaned, data_of, read_event

_ENDS = [b"\n", b"\r\n", b"\r"]


@dataclass
class Parsed:
    """What the specification makes of one event; nothing of ``common.upstream.sse`` is used for it."""

    data: list[bytes] = field(default_factory=list)
    others: list[tuple[bytes, bytes]] = field(default_factory=list)
    comments: list[bytes] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        if line.startswith(b":"):
            self.comments.append(line)
            return
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if name == b"data":
            self.data.append(value)
        else:
            self.others.append((name, value))


def parsed(stream: bytes) -> list[Parsed]:
    """Read a stream byte by byte, as the specification's grammar says."""
    events: list[Parsed] = []
    current, line, after_return = Parsed(), b"", False
    for number in stream:
        byte = bytes((number,))
        if after_return and byte == b"\n":
            after_return = False
            continue
        after_return = byte == b"\r"
        if byte not in (b"\r", b"\n"):
            line += byte
            continue
        if line:
            current.take(line)
        elif current != Parsed():
            events.append(current)
            current = Parsed()
        line = b""
    return events


def split(*pieces: bytes) -> list[bytes]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.end()


_text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12).map(str.encode)
_line = st.one_of(
    _text.map(lambda text: b"data: " + text),
    _text.map(lambda text: b"data:" + text),
    st.sampled_from([b"data", b"data:", b"data: ", b"data: [DONE]", b'data: {"a": "\xc3\xa4\xe2\x82\xac"}']),
    st.sampled_from([b"id: 7", b"id", b"retry: 1000", b"idle: 5", b"identity: x", b"retry-after: 3", b"event: ping"]),
    _text.map(lambda text: b": " + text),
    _text.filter(bool),
)


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    events = draw(st.lists(st.lists(_line, min_size=1, max_size=4), max_size=6))
    stream = b""
    one_end = draw(st.sampled_from([*_ENDS, None]))
    for event in events:
        # After the lines a blank one, and sometimes more of them.
        for line in [*event, *[b""] * draw(st.integers(1, 3))]:
            stream += line + (one_end or draw(st.sampled_from(_ENDS)))
    return stream


@st.composite
def _cut(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = draw(_streams())
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return stream, [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@given(_cut())
@example((b"data: a\r\rdata: b\r\r", [b"data: a\r", b"\rdata: b\r\r"]))
@example((b"data: a\r\n\r\n", [b"data: a\r\n\r", b"\n"]))
@example((b"data: a\n\rdata: b\n\n", [b"data: a\n\r", b"data: b\n\n"]))
def test_any_chunking_gives_the_same_events(given_stream: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = given_stream
    whole = split(stream)
    assert split(*pieces) == whole
    assert split(*(bytes((byte,)) for byte in stream)) == whole


@given(_streams())
@example(b"data: a\n\rdata: b\n\n")
@example(b"data: a\r\n\rdata: b\n\n")
@example(b"data: last\r\r")
@example(b"data\n\n")
def test_the_events_are_those_of_the_specification_and_nothing_is_lost(stream: bytes) -> None:
    events = split(stream)
    expected = parsed(stream)
    assert [parsed(event) for event in events] == [[event] for event in expected]
    assert [data_of(event) for event in events] == [b"\n".join(event.data) for event in expected]


@given(_streams())
@example(b"id: 5\n: comment\ndata:\n\n")
@example(b"idle: 1\ndata: x\n\n")
@example(b"event: ping\n: comment\n\n")
@example(b"data:  \n\n")
@example(b"data: a\rid: 5\n\n")
def test_cleaning_drops_ids_retries_and_empty_data_and_nothing_else(stream: bytes) -> None:
    for event in split(stream):
        (before,) = parsed(event)
        after = parsed(cleaned(event))
        expected = Parsed(
            data=before.data,
            others=[(name, value) for name, value in before.others if name not in (b"id", b"retry")],
            comments=before.comments,
        )
        if not b"\n".join(before.data).strip():
            # An event without data is no event: the specification's clients drop it, and OpenAI's fail over it.
            expected = Parsed(comments=before.comments)
        assert after == ([] if expected == Parsed() else [expected])
        passed, data = read_event(event)
        assert parsed(passed) == after
        assert data == data_of(passed)


@given(st.sampled_from([b'{"a":1}', b"[DONE]", "ä€🎉".encode()]))
def test_the_common_event_is_passed_on_byte_by_byte(data: bytes) -> None:
    event = b"data: " + data + b"\n\n"
    assert read_event(event) == (event, data)
    assert (cleaned(event), data_of(event)) == (event, data)


def test_an_event_is_there_with_its_last_byte() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n") == []
    assert splitter.feed(b"\n") == [b"data: a\n\n"]
    assert splitter.feed(b"data: b\r\n\r") == []
    assert splitter.feed(b"\n") == [b"data: b\r\n\r\n"]


@pytest.mark.parametrize(
    ("rest", "event"),
    [
        (b"data: b\n", b"data: b\n\n"),
        (b"event: x\ndata: b\n", b"event: x\ndata: b\n\n"),
        (b"data: b\r\n", b"data: b\r\n\n"),
        (b"data: b\r", b"data: b\r\n\n"),
        (b"data: [DONE]", b"data: [DONE]\n\n"),
        (b'data: {"a":1}', b'data: {"a":1}\n\n'),
        (b'data: {"a":\ndata: 1}', b'data: {"a":\ndata: 1}\n\n'),
        (b"data: {}\r\n\r", b"data: {}\r\n\r"),
    ],
)
def test_an_event_that_only_lacks_its_blank_line_when_the_body_ends_is_whole(rest: bytes, event: bytes) -> None:
    assert split(b"data: a\n\n" + rest) == [b"data: a\n\n", event]
    assert len(parsed(event)) == 1
    assert split(event) == [event]


@pytest.mark.parametrize(
    "rest", [b"data: b", b'data: {"a":', b'data: {"a":\ndata: ', b"dat", b"event: x\n", b": ping\n", b"\n", b"id: 1"]
)
def test_half_an_event_at_the_end_is_dropped(rest: bytes) -> None:
    assert split(b"data: a\n\n" + rest) == [b"data: a\n\n"]


_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "pieces",
    [[_MARK + b"data: a\n\n"], [_MARK[:1], _MARK[1:], b"data: a\n\n"], [b"\xef", b"\xbb", b"\xbf", b"data: a\n\n"]],
    ids=["at once", "in pieces", "byte by byte"],
)
def test_a_byte_order_mark_before_the_first_event_takes_nothing_along(pieces: list[bytes]) -> None:
    assert split(*pieces, _MARK + b"data: b\n\n") == [b"data: a\n\n", _MARK + b"data: b\n\n"]


def test_what_only_begins_like_a_byte_order_mark_stays() -> None:
    assert split(b"\xef\xbb", b"data: a\n\n") == [b"\xef\xbbdata: a\n\n"]


class CountingSplitter(EventSplitter):
    """Counts the bytes that are looked at again because an event may end among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def _cut(self, whole: bytes, *, look_from: int) -> list[bytes]:
        self.seen += len(whole)
        return super()._cut(whole, look_from=look_from)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["newlines", "both", "returns"])
@pytest.mark.parametrize("lines", [1, 3000])
def test_a_large_event_costs_work_in_proportion_to_its_size(end: bytes, lines: int) -> None:
    event = (b"data: " + b"x" * (30_000_000 // lines) + end) * lines + end
    splitter = CountingSplitter()
    events: list[bytes] = []
    for start in range(0, len(event), 1024):
        events += splitter.feed(event[start : start + 1024])
    assert events + splitter.end() == [event]
    assert splitter.seen <= 2 * len(event)


def test_the_keep_alive_is_a_comment_that_cleaning_keeps() -> None:
    assert data_of(KEEP_ALIVE) == b""
    assert cleaned(KEEP_ALIVE) == KEEP_ALIVE
    assert split(KEEP_ALIVE) == [KEEP_ALIVE]


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["plain", "with returns"])
def test_an_event_without_an_end_is_refused_before_it_fills_the_memory(end: bytes) -> None:
    splitter = EventSplitter()
    piece = b"data: " + b"x" * (4 * 1024 * 1024) + end
    for _ in range(7):
        splitter.feed(piece)
    with pytest.raises(UpstreamFailed) as refused:
        splitter.feed(piece + piece)
    assert refused.value.code == "upstream_event_too_large"
