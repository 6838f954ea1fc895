"""The records of a file, whatever happened to its bits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metering.journal import DATA_BYTES_AT_MOST, EVENT, INTENT, Damage, Record, pack, scan


def everything(path: Path) -> list[Record | Damage]:
    return list(scan(path, start=0, end=path.stat().st_size))


def written(tmp_path: Path, content: bytes | bytearray) -> Path:
    path = tmp_path / "segment"
    path.write_bytes(content)
    return path


def records(path: Path) -> list[tuple[bytes, bytes]]:
    return [(found.kind, found.data) for found in everything(path) if isinstance(found, Record)]


# Of one size, so that a wrong length may lead to the begin of a later record.
_DATA = [f"event {number:0121}".encode() for number in range(4)]
_FILE = b"".join(pack(EVENT, data) for data in _DATA)


def test_a_flipped_bit_costs_at_most_its_record_and_is_seen(tmp_path: Path) -> None:
    size = len(_FILE) // 4
    for bit in range(size * 8):
        content = bytearray(_FILE)
        content[size + bit // 8] ^= 1 << bit % 8
        path = written(tmp_path, content)
        found = everything(path)
        assert [data for _, data in records(path) if data != _DATA[1]] == [_DATA[0], *_DATA[2:]]
        assert any(isinstance(each, Damage) or each.is_damaged for each in found)
        assert [each.start for each in found] == [0, *(each.end for each in found[:-1])], "there is a gap"


def test_a_wrong_length_alone_costs_nothing(tmp_path: Path) -> None:
    for bit in range(32):
        content = bytearray(_FILE)
        content[bit // 8] ^= 1 << bit % 8
        found = everything(written(tmp_path, content))
        assert [each.data for each in found if isinstance(each, Record)] == _DATA
        assert [isinstance(each, Record) and each.is_damaged for each in found] == [True, False, False, False]


@given(
    st.binary(max_size=300), st.lists(st.tuples(st.sampled_from([INTENT, EVENT]), st.binary(max_size=60)), max_size=5)
)
def test_garbage_of_any_kind_hides_no_later_record(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, wanted: list[tuple[bytes, bytes]]
) -> None:
    content = b"".join(pack(kind, data) for kind, data in wanted)
    path = written(tmp_path_factory.mktemp("journal"), garbage + content)
    assert records(path)[-len(wanted) :] == wanted or not wanted


def test_what_a_caller_writes_into_a_name_is_no_record_when_a_bit_of_it_flips(tmp_path: Path) -> None:
    forged = pack(EVENT, b"of somebody else")
    outer = pack(EVENT, b"name: " + forged + b" and more")
    for bit in range(len(outer) * 8):
        content = bytearray(outer + _FILE)
        content[bit // 8] ^= 1 << bit % 8
        assert (EVENT, b"of somebody else") not in records(written(tmp_path, content))


def test_records_and_damage_cross_the_windows_of_a_large_file(tmp_path: Path) -> None:
    data = [bytes([number]) * (60_000 - number) for number in range(150)]
    content = bytearray(b"".join(pack(EVENT, each) for each in data))
    # Lengths that lead nowhere, one of them beside the end of a window of 4 MiB.
    for place in (59_000 * 3, 4 * 1024 * 1024 - 30_000, len(content) - 20):
        content[place : place + 15] = b"?" * 15
    found = records(written(tmp_path, content))
    assert len(found) == 147
    assert [each for _, each in found] == [each for each in data if (EVENT, each) in found]


@pytest.mark.parametrize("filling", [b"\x00", b"\xff", b"\x10\x00\x00\x00\x01\x02\x03\x04E", b"??\x00\x00????I"])
def test_the_time_is_linear_in_the_damage(tmp_path: Path, filling: bytes) -> None:
    seconds = []
    for kibibytes in (256, 1024):
        path = written(tmp_path, filling * (kibibytes * 1024 // len(filling)) + _FILE)
        begun = time.process_time()
        assert len(records(path)) == 4
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 8 * seconds[0] + 0.25


def test_a_file_that_became_shorter_has_damage_at_its_end(tmp_path: Path) -> None:
    path = written(tmp_path, _FILE)
    assert list(scan(path, start=0, end=len(_FILE) + 7))[-1] == Damage(len(_FILE), len(_FILE) + 7)


def test_data_that_is_too_long_for_a_record_is_refused() -> None:
    pack(EVENT, bytes(DATA_BYTES_AT_MOST))
    with pytest.raises(ValueError, match="too long"):
        pack(EVENT, bytes(DATA_BYTES_AT_MOST + 1))
