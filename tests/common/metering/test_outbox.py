"""The outbox: what is in it after every way to use, close, break and kill it."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import Unavailable
from common.metering import event_proto
from common.metering.outbox import DiskOutbox
from common.metering.record import Outcome, UsageRecord, UsageSource
from tests.common.builders import number_of, usage_record

_REPOSITORY = Path(__file__).resolve().parents[3]
_EVERYTHING = 100_000
_SEGMENT = 300
"""Holds a few records of these tests."""


class QuickOutbox(DiskOutbox):
    """An outbox whose thread is never late: every segment ends at its size."""

    def intend(self, record: UsageRecord) -> None:
        """Append an intent, and do what the thread does."""
        super().intend(record)
        self.sync()

    def settle(self, record: UsageRecord) -> None:
        """Append an event, and do what the thread does."""
        super().settle(record)
        self.sync()


def settled(number: int, outcome: Outcome = Outcome.COMPLETED) -> UsageRecord:
    event = usage_record(number)
    event.outcome = outcome
    return event


def events_in(outbox: DiskOutbox) -> list[UsageRecord]:
    return [*map(event_proto.decode, outbox.read(limit=_EVERYTHING)[0])]


def numbers(outbox: DiskOutbox) -> list[int]:
    return [*map(number_of, events_in(outbox))]


def outcomes(outbox: DiskOutbox) -> dict[int, str]:
    events = events_in(outbox)
    assert len({event.event_id for event in events}) == len(events), "an event stands in the outbox twice"
    return {number_of(event): name_of(event.outcome) for event in events}


def name_of(outcome: Outcome | None) -> str:
    return outcome.name if outcome else ""


def as_a_kill_leaves_it(directory: Path, place: Path, *, tail: bytes = b"") -> Path:
    """Copy what is on the disk now, with ``tail`` after the youngest record."""
    shutil.copytree(directory, place)
    with (segments(place) or sorted(place.glob("*.journal")))[-1].open("ab") as file:
        file.write(tail)
    return place


def segments(directory: Path) -> list[Path]:
    """Return the segments, oldest first, without those that wait for their first record."""
    return sorted(path for path in directory.glob("*.journal") if path.stat().st_size)


def test_events_come_back_in_the_order_in_which_they_were_settled(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    for number in (1, 2, 3):
        outbox.intend(usage_record(number))
    for number in (2, 3, 1):
        outbox.settle(settled(number))
    assert numbers(outbox) == [2, 3, 1]
    outbox.close()


def test_an_event_comes_back_as_it_was_settled(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path)
    event = settled(1)
    event.temperature = 0.25
    event.model = "größer"
    outbox.intend(usage_record(1))
    outbox.settle(event)
    assert outbox.read(limit=1)[0] == [event_proto.encode(event)]
    outbox.close()


def test_reading_takes_no_more_than_the_limit_and_goes_on_after_what_was_released(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    for number in range(10):
        outbox.settle(settled(number))
    seen = []
    for _ in range(5):
        events, position = outbox.read(limit=2)
        assert len(events) == 2
        seen += [number_of(event_proto.decode(event)) for event in events]
        outbox.release(position)
    assert seen == list(range(10))
    assert outbox.read(limit=2)[0] == []
    outbox.close()


def test_reading_again_without_a_release_gives_the_same_events(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    for number in range(8):
        outbox.settle(settled(number))
    assert outbox.read(limit=5)[0] == outbox.read(limit=5)[0]
    assert outbox.depth == 8
    outbox.close()


def test_the_depth_counts_events_that_are_not_released(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    outbox.intend(usage_record(0))
    assert outbox.depth == 0
    for number in range(5):
        outbox.settle(settled(number))
    assert outbox.depth == 5
    outbox.release(outbox.read(limit=3)[1])
    assert outbox.depth == 2
    outbox.close()
    assert QuickOutbox(tmp_path).depth >= 2


def test_segments_are_removed_once_their_events_are_released(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    for number in range(50):
        outbox.settle(settled(number))
    assert len(segments(tmp_path)) > 5
    outbox.release(outbox.read(limit=_EVERYTHING)[1])
    assert len(segments(tmp_path)) == 1
    assert outbox.size == sum(path.stat().st_size for path in segments(tmp_path))
    outbox.close()


def test_an_outbox_that_has_nothing_to_do_has_empty_files_only(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path)
    outbox.intend(usage_record(1))
    for _ in range(9):
        outbox.sync()
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
    assert segments(tmp_path), "an open intent is not forgotten"
    outbox.settle(settled(1))
    for _ in range(9):
        outbox.sync()
    assert segments(tmp_path), "an event that is not stored is not forgotten"
    for _ in range(9):
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
        outbox.sync()
    assert segments(tmp_path) == []
    files = sorted(tmp_path.iterdir())
    for _ in range(9):
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
        outbox.sync()
    assert sorted(tmp_path.iterdir()) == files, "it does not make one file after the other"
    outbox.settle(settled(2))
    assert numbers(outbox) == [2]
    outbox.close()


def test_an_open_intent_survives_the_removal_of_its_segment(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path / "first", segment_bytes=_SEGMENT)
    outbox.intend(usage_record(1000))
    for number in range(50):
        outbox.intend(usage_record(number))
        outbox.settle(settled(number))
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
    recovered = QuickOutbox(as_a_kill_leaves_it(tmp_path / "first", tmp_path / "second"))
    assert outcomes(recovered)[1000] == "CRASHED"
    recovered.close()
    outbox.close()


def test_carrying_intents_forward_does_not_make_the_journal_grow(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    # More open intents than a segment holds.
    for number in range(30):
        outbox.intend(usage_record(number))
    one_of_each = outbox.size
    for _ in range(50):
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
    assert outbox.size <= 2 * one_of_each
    outbox.close()


def test_an_open_intent_in_a_segment_that_stays_is_not_repeated(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    for number in range(20):
        outbox.settle(settled(number))
    outbox.intend(usage_record(1000))
    before = segments(tmp_path)[-1].read_bytes()
    outbox.release(outbox.read(limit=_EVERYTHING)[1])
    assert [path.read_bytes() for path in segments(tmp_path)] == [before]
    outbox.close()


def test_a_released_event_never_comes_back_as_crashed(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path / "first", segment_bytes=_SEGMENT)
    places = itertools.count()
    for number in range(0, 60, 3):
        for offset in range(3):
            outbox.intend(usage_record(number + offset))
        for offset in range(3):
            outbox.settle(settled(number + offset))
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
        recovered = QuickOutbox(as_a_kill_leaves_it(tmp_path / "first", tmp_path / f"copy{next(places)}"))
        assert "CRASHED" not in outcomes(recovered).values()
        recovered.close()
    outbox.close()


def test_after_a_clean_close_an_open_intent_is_one_crashed_event_without_counts(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path)
    outbox.intend(usage_record(1))
    outbox.intend(usage_record(2))
    outbox.settle(settled(2))
    outbox.close()
    reopened = QuickOutbox(tmp_path)
    events = {number_of(event): event for event in events_in(reopened)}
    assert {number: event.outcome for number, event in events.items()} == {
        1: Outcome.CRASHED,
        2: Outcome.COMPLETED,
    }
    assert events[1].usage_source == UsageSource.NONE
    assert (events[1].request_id, len(events[1].attempts), events[1].status) == ("req-1", 1, 0)
    reopened.close()


def test_a_crashed_event_is_made_once_however_often_the_outbox_is_reopened(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
    outbox.intend(usage_record(1))
    for _ in range(5):
        outbox.close()
        outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT)
        assert outcomes(outbox) == {1: "CRASHED"}
        assert outbox.depth == 1
    outbox.close()


def test_a_kill_within_recovery_makes_no_second_event(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path / "first")
    for number in range(4):
        outbox.intend(usage_record(number))
    outbox.close()
    QuickOutbox(tmp_path / "first").close()
    # Cut the recovery's own segment after each of its records, and in the middle of each.
    *older, youngest = segments(tmp_path / "first")
    whole = youngest.read_bytes()
    for end in range(len(whole) + 1):
        place = tmp_path / f"cut{end}"
        shutil.copytree(tmp_path / "first", place)
        (place / youngest.name).write_bytes(whole[:end])
        recovered = QuickOutbox(place)
        assert outcomes(recovered) == dict.fromkeys(range(4), "CRASHED")
        recovered.close()
    assert older


@pytest.mark.parametrize(
    "tail",
    [
        b"\x10",
        b"\x10\x00\x00\x00\x01\x02\x03\x04",
        b"\xff" * 40,
        bytes(4096),
        b"\x05\x00\x00\x00\x01\x02\x03\x04Ehello",
    ],
    ids=["half a header", "header only", "garbage", "zeros of a power cut", "wrong checksum"],
)
def test_a_torn_tail_hides_nothing_and_adds_nothing(tmp_path: Path, tail: bytes) -> None:
    outbox = QuickOutbox(tmp_path / "first")
    outbox.intend(usage_record(1))
    outbox.settle(settled(1))
    outbox.intend(usage_record(2))
    recovered = QuickOutbox(as_a_kill_leaves_it(tmp_path / "first", tmp_path / "second", tail=tail))
    assert outcomes(recovered) == {1: "COMPLETED", 2: "CRASHED"}
    assert recovered.depth == 2
    recovered.settle(settled(3))
    assert numbers(recovered)[-1] == 3
    recovered.close()
    outbox.close()


def test_a_record_that_is_cut_anywhere_is_not_there_and_the_others_are(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path / "first")
    outbox.intend(usage_record(1))
    before = outbox.size
    outbox.settle(settled(1))
    after = outbox.size
    outbox.close()
    for size in range(before, after):
        place = tmp_path / f"cut{size}"
        shutil.copytree(tmp_path / "first", place)
        os.truncate(segments(place)[-1], size)
        recovered = QuickOutbox(place)
        assert outcomes(recovered) == {1: "CRASHED"}
        recovered.close()


def test_a_full_journal_refuses_intents_and_takes_events_until_it_is_shipped(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, segment_bytes=_SEGMENT, max_bytes=2_000)
    taken = 0
    while outbox.size <= 2_000:
        outbox.intend(usage_record(taken))
        taken += 1
    with pytest.raises(Unavailable) as refused:
        outbox.intend(usage_record(taken))
    assert refused.value.code == "usage_backlog"
    assert 2_000 < outbox.size < 2_000 + _SEGMENT
    for number in range(taken):
        outbox.settle(settled(number))
    assert set(outcomes(outbox)) == set(range(taken))
    outbox.release(outbox.read(limit=_EVERYTHING)[1])
    outbox.intend(usage_record(taken))
    outbox.close()


def test_a_journal_smaller_than_a_segment_takes_intents_again_once_it_is_shipped(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path, max_bytes=2_000)
    for number in range(500):
        outbox.intend(usage_record(number))
        outbox.settle(settled(number))
        outbox.release(outbox.read(limit=_EVERYTHING)[1])
    outbox.close()


def test_while_no_new_segment_can_be_made_the_old_one_takes_everything(tmp_path: Path) -> None:
    directory, aside = tmp_path / "outbox", tmp_path / "aside"
    outbox = DiskOutbox(directory, segment_bytes=_SEGMENT)
    outbox.intend(usage_record(1))
    directory.rename(aside)
    for number in range(2, 20):
        outbox.settle(settled(number))
    with pytest.raises(OSError, match="No such file"):
        outbox.sync()
    outbox.settle(settled(1))
    assert len(segments(aside)) == 1
    aside.rename(directory)
    outbox.sync()
    outbox.settle(settled(20))
    assert len(segments(directory)) == 2
    assert numbers(outbox) == [*range(2, 20), 1, 20]
    outbox.close()
    reopened = DiskOutbox(directory)
    assert "CRASHED" not in outcomes(reopened).values()
    reopened.close()


def test_a_segment_that_grew_beyond_its_size_is_left_although_nothing_is_appended(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path, segment_bytes=_SEGMENT, max_bytes=2_000)
    number = 0
    while outbox.size <= 2_000:
        outbox.intend(usage_record(number))
        outbox.settle(settled(number))
        number += 1
    with pytest.raises(Unavailable):
        outbox.intend(usage_record(number))
    outbox.sync()
    outbox.release(outbox.read(limit=_EVERYTHING)[1])
    outbox.intend(usage_record(number))
    outbox.close()


def _fill_a_disk(directory: Path) -> dict[str, list[int]]:
    outbox = QuickOutbox(directory)
    taken: list[int] = []
    refused: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (250, 251, 300, 777, 1500):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for _ in range(12):
            number = len(taken) + len(refused)
            try:
                outbox.settle(settled(number))
                taken.append(number)
            except Unavailable:
                refused.append(number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outbox.settle(settled(9999))
    found = numbers(outbox)
    outbox.close()
    return {"taken": taken, "refused": refused, "found": found}


def test_a_disk_that_takes_only_a_part_leaves_a_readable_journal(tmp_path: Path) -> None:
    # In a process of its own, because the limit holds for every file that a process writes.
    code = (
        "import json, sys; from pathlib import Path; from tests.common.metering import test_outbox as t;"
        "print(json.dumps(t._fill_a_disk(Path(sys.argv[1]))))"
    )
    told = json.loads(_python("-c", code, str(tmp_path)).splitlines()[-1])
    assert told["refused"]
    assert told["found"] == [*told["taken"], 9999]
    reopened = QuickOutbox(tmp_path)
    assert numbers(reopened) == told["found"]
    reopened.close()


def test_one_process_at_a_time_has_the_outbox(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path)
    with pytest.raises(RuntimeError, match="TURNPIKE_STATE_DIR"):
        QuickOutbox(tmp_path)
    outbox.settle(settled(1))
    outbox.close()
    QuickOutbox(tmp_path).close()


def test_the_outbox_is_nobody_elses_to_read(tmp_path: Path) -> None:
    outbox = QuickOutbox(tmp_path / "outbox")
    outbox.settle(settled(1))
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "outbox").iterdir())
    outbox.close()


def test_a_thread_ships_while_another_appends(tmp_path: Path) -> None:
    outbox = DiskOutbox(tmp_path, segment_bytes=_SEGMENT)
    done = threading.Event()
    failures: list[BaseException] = []
    shipped: list[int] = []

    def ship() -> None:
        try:
            while not done.is_set():
                outbox.sync()
                events, position = outbox.read(limit=7)
                shipped.extend(number_of(event_proto.decode(event)) for event in events)
                outbox.release(position)
        except (OSError, RuntimeError, KeyError) as error:
            failures.append(error)

    thread = threading.Thread(target=ship)
    thread.start()
    for number in range(3_000):
        outbox.intend(usage_record(number))
        outbox.settle(settled(number))
    done.set()
    thread.join()
    assert failures == []
    assert [*shipped, *numbers(outbox)] == list(range(3_000))
    assert outbox.depth == 3_000 - len(shipped)
    outbox.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_at_any_time_loses_nothing_and_counts_nothing_twice(tmp_path: Path, seed: int) -> None:
    told = json.loads(_python("-m", "tests.common.outbox_writer", str(tmp_path), "40", str(seed)).splitlines()[-1])
    assert len(told["intended"]) > 500
    outbox = QuickOutbox(tmp_path)
    left = outcomes(outbox)
    outbox.close()
    completed = set(told["completed"]) | {number for number, outcome in left.items() if outcome == "COMPLETED"}
    crashed = set(told["crashed"]) | {number for number, outcome in left.items() if outcome == "CRASHED"}
    assert crashed, "no writer was killed with an open intent"
    assert completed & crashed == set()
    assert set(told["settled"]) <= completed
    assert set(told["intended"]) <= completed | crashed
    # Nothing was made up: what was not reported is at most what each kill interrupted.
    assert len((completed | crashed) - set(told["intended"])) <= 40
    assert all(count == 1 for count in Counter(told["intended"]).values())


def _python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{_REPOSITORY}:{_REPOSITORY / 'gen'}"}
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=_REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


class OutboxMachine(RuleBasedStateMachine):
    """Compares the outbox with a plain model; what was released may come back after a crash, but only as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.places = itertools.count()
        self.next_number = itertools.count()
        self.open: list[int] = []
        self.waiting: dict[int, str] = {}
        self.released: dict[int, str] = {}
        self.segment_bytes = _SEGMENT
        self.outbox: QuickOutbox | None = None

    @initialize(segment_bytes=st.sampled_from([1, 120, _SEGMENT, 100_000]))
    def begin(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.directory = self.root / str(next(self.places))
        self.outbox = QuickOutbox(self.directory, segment_bytes=segment_bytes)

    @rule()
    def intend(self) -> None:
        number = next(self.next_number)
        self._box.intend(usage_record(number))
        self.open.append(number)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        number = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self._box.settle(settled(number))
        self.waiting[number] = "COMPLETED"

    @rule()
    def settle_what_was_refused_before_its_intent(self) -> None:
        number = next(self.next_number)
        self._box.settle(settled(number, Outcome.FAILED))
        self.waiting[number] = "FAILED"

    @rule(limit=st.integers(1, 8))
    def ship(self, limit: int) -> None:
        events, position = self._box.read(limit=limit)
        assert len(events) == min(limit, self._box.depth)
        self._box.release(position)
        for event in events:
            number = number_of(event_proto.decode(event))
            self.released[number] = self.waiting.pop(number, self.released.get(number, ""))

    @rule(times=st.integers(1, 4))
    def idle(self, times: int) -> None:
        for _ in range(times):
            self._box.sync()

    @rule()
    def close_and_reopen(self) -> None:
        self._box.close()
        self._reopened(self.directory)

    @rule(tail=st.sampled_from([b"", b"\x01", b"\xff" * 9, bytes(64), b"\x50\x00\x00\x00\x01\x02\x03\x04Ihalf"]))
    def crash_and_reopen(self, tail: bytes) -> None:
        place = as_a_kill_leaves_it(self.directory, self.root / str(next(self.places)), tail=tail)
        self._box.close()
        self._reopened(place)

    def _reopened(self, directory: Path) -> None:
        self.directory = directory
        self.outbox = QuickOutbox(directory, segment_bytes=self.segment_bytes)
        self.waiting.update(dict.fromkeys(self.open, "CRASHED"))
        self.open = []

    @property
    def _box(self) -> QuickOutbox:
        assert self.outbox is not None
        return self.outbox

    @invariant()
    def every_request_has_one_event(self) -> None:
        if self.outbox is None:
            return
        found = outcomes(self.outbox)
        assert self.outbox.depth == len(found)
        assert self.waiting.items() <= found.items()
        assert found.items() <= (self.released | self.waiting).items()
        # Crashed ones have no order: their intents may have been carried forward.
        in_order = [number for number, outcome in self.waiting.items() if outcome != "CRASHED"]
        assert [number for number in found if number in in_order] == in_order

    @invariant()
    def the_size_is_that_of_the_files(self) -> None:
        if self.outbox is not None:
            torn = 64  # A torn tail counts on the disk and is never read.
            on_disk = sum(path.stat().st_size for path in segments(self.directory))
            assert abs(on_disk - self.outbox.size) <= torn * len(segments(self.directory))

    def teardown(self) -> None:
        if self.outbox is not None:
            self.outbox.close()
        shutil.rmtree(self.root)


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(
    max_examples=settings().max_examples // 2,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
