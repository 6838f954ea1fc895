import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from services.sandbox.core import Usage
from services.sandbox.delivery import Delivery
from services.sandbox.faults import Faults
from services.sandbox.script import DONE, Event, Script, json_script, stream_script
from services.sandbox.store import Entry
from tests.services.sandbox.conftest import Sleeper
from tests.services.sandbox.fake_ledger import FakeLedger

USAGE = Usage(prompt=5, completion=3, cached=2, reasoning=1)
EVENTS = (
    Event(data=b'data: {"one":1}\n\n', tokens=1, reasoning=1),
    Event(data=b'data: {"two":2}\n\n', tokens=2),
    Event(data=DONE),
)


class Wire:
    """The server's side of one connection, which remembers what was sent."""

    def __init__(self, *, gone_after: int | None = None) -> None:
        self.messages: list[Any] = []
        self.closed = asyncio.Event()
        self._gone_after = gone_after

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        if not message.get("more_body", True) or len(self.messages) == self._gone_after:
            self.closed.set()

    async def receive(self) -> Any:
        await self.closed.wait()
        return {"type": "http.disconnect"}

    @property
    def writes(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message.get("body")]

    @property
    def ended(self) -> bool:
        return bool(self.messages) and not self.messages[-1].get("more_body", True)


async def deliver(script: Script, *, faults: Faults, wire: Wire, ledger: FakeLedger, sleeper: Sleeper) -> None:
    entry = await ledger.start(request_id=None, model="demo", stream=True)
    delivery = Delivery(script, faults=faults, ledger=ledger, entry=entry, sleep=sleeper)
    await delivery({"type": "http", "state": {"hang_up": wire.closed.set}}, wire.receive, wire.send)


async def play(
    script: Script, *, faults: Faults, wire: Wire | None = None, sleeper: Sleeper | None = None
) -> tuple[Wire, Entry]:
    wire, ledger = wire or Wire(), FakeLedger()
    await deliver(script, faults=faults, wire=wire, ledger=ledger, sleeper=sleeper or Sleeper())
    return wire, ledger.entries[0]


def stream(faults: Faults) -> Script:
    return stream_script(EVENTS, faults=faults, usage=USAGE, error={"error": {"message": "broken"}})


async def test_each_event_is_one_write() -> None:
    wire, entry = await play(stream(Faults()), faults=Faults())
    assert wire.writes == [event.data for event in EVENTS]
    assert wire.ended
    assert (entry.outcome, entry.status, entry.events_sent) == ("completed", 200, 3)
    assert entry.bytes_sent == sum(len(event.data) for event in EVENTS)
    assert (entry.prompt_tokens, entry.completion_tokens, entry.total_tokens) == (5, 3, 8)
    assert (entry.cached_tokens, entry.reasoning_tokens) == (2, 1)


async def test_delays_are_where_they_were_asked_for() -> None:
    sleeper = Sleeper()
    faults = Faults(first_byte_delay_seconds=1, first_event_delay_seconds=2, event_delay_seconds=3)
    await play(stream(faults), faults=faults, sleeper=sleeper)
    assert sleeper.delays == [1, 2, 3, 3]
    for after, expected in ((0, [9, 3, 3]), (1, [3, 9, 3]), (3, [3, 3, 9]), (4, [3, 3])):
        sleeper = Sleeper()
        faults = Faults(stall_after_events=after, stall_seconds=9, event_delay_seconds=3)
        _, entry = await play(stream(faults), faults=faults, sleeper=sleeper)
        assert (sleeper.delays, entry.outcome) == (expected, "completed")


async def test_a_cut_is_after_exactly_so_many_bytes() -> None:
    whole = b"".join(event.data for event in EVENTS)
    for size in range(len(whole) + 2):
        faults = Faults(cut_after_bytes=size)
        wire, entry = await play(stream(faults), faults=faults)
        assert b"".join(wire.writes) == whole[:size]
        assert wire.ended == (size > len(whole))
        assert entry.outcome == ("completed" if size > len(whole) else "cut")
        assert entry.bytes_sent == min(size, len(whole))
        ends = [len(b"".join(event.data for event in EVENTS[:count])) for count in (1, 2, 3)]
        assert entry.events_sent == sum(size >= end for end in ends)
        assert entry.completion_tokens == (0, 1, 3, 3)[entry.events_sent]


async def test_no_answer_sends_nothing() -> None:
    faults = Faults(no_answer=True)
    wire, entry = await play(stream(faults), faults=faults)
    assert wire.messages == []
    assert (entry.outcome, entry.status, entry.total_tokens) == ("cut", None, 0)


async def test_a_body_can_be_written_in_other_pieces() -> None:
    faults = Faults(write_bytes=5, comments=True, cut_after_bytes=41)
    wire, _ = await play(stream(faults), faults=faults)
    assert {len(write) for write in wire.writes} <= {1, 2, 3, 4, 5}
    expected = b"".join(b": ping\n\n" + event.data for event in EVENTS)
    assert b"".join(wire.writes) == expected[:41]


async def test_event_faults_change_one_event() -> None:
    faults = Faults(malformed_event=2)
    wire, entry = await play(stream(faults), faults=faults)
    assert wire.writes == [EVENTS[0].data, b'data: {"\n\n', DONE]
    assert (entry.outcome, entry.events_sent, entry.completion_tokens) == ("completed", 3, 1)
    faults = Faults(error_event=2)
    wire, entry = await play(stream(faults), faults=faults)
    assert wire.writes == [EVENTS[0].data, b'data: {"error":{"message":"broken"}}\n\n']
    assert (entry.outcome, wire.ended) == ("error", True)
    faults = Faults(error_event=4)
    wire, entry = await play(stream(faults), faults=faults)
    assert (entry.outcome, entry.events_sent) == ("completed", 3)
    faults = Faults(no_done=True)
    wire, entry = await play(stream(faults), faults=faults)
    assert wire.writes == [event.data for event in EVENTS[:2]]
    assert (entry.outcome, wire.ended) == ("completed", True)


async def test_a_client_that_goes_is_noticed_between_events() -> None:
    sleeper = Sleeper()
    sleeper.hold_from = 1
    faults = Faults(event_delay_seconds=1)
    wire, entry = await play(stream(faults), faults=faults, wire=Wire(gone_after=2), sleeper=sleeper)
    assert entry.outcome == "client_gone"
    assert (entry.prompt_tokens, entry.completion_tokens) == (5, 1)
    assert not wire.ended


async def test_a_client_that_goes_before_the_first_byte_costs_nothing() -> None:
    sleeper = Sleeper()
    sleeper.hold_from = 1
    wire = Wire()
    wire.closed.set()
    faults = Faults(first_byte_delay_seconds=1)
    _, entry = await play(stream(faults), faults=faults, wire=wire, sleeper=sleeper)
    assert (entry.outcome, entry.status, entry.total_tokens) == ("client_gone", None, 0)


async def test_an_answer_in_json_costs_all_of_it_when_it_is_cut() -> None:
    faults = Faults(cut_after_bytes=3)
    script = json_script({"a": "bcd"}, faults=faults, usage=USAGE, error={})
    wire, entry = await play(script, faults=faults)
    assert wire.writes == [b'{"a']
    assert (entry.outcome, entry.events_sent, entry.total_tokens, entry.reasoning_tokens) == ("cut", 0, 8, 1)


async def test_a_shutdown_is_a_cut() -> None:
    wire, ledger, sleeper = Wire(), FakeLedger(), Sleeper()
    sleeper.hold_from = 1
    faults = Faults(stall_after_events=1)
    task = asyncio.create_task(deliver(stream(faults), faults=faults, wire=wire, ledger=ledger, sleeper=sleeper))
    await sleeper.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.entries[0].outcome == "cut"


async def test_a_defect_is_an_error() -> None:
    def broken() -> Iterator[Event]:
        yield EVENTS[0]
        raise ZeroDivisionError

    wire, ledger = Wire(), FakeLedger()
    script = Script(status=200, headers=(), events=broken(), streamed=True)
    with pytest.raises(ZeroDivisionError):
        await deliver(script, faults=Faults(), wire=wire, ledger=ledger, sleeper=Sleeper())
    assert ledger.entries[0].outcome == "error"
