import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.sandbox.store import Entry, FileLedger, Ledger, NullLedger
from tests.services.sandbox.fake_ledger import FakeLedger

ENDED: dict[str, Any] = {
    "outcome": "completed",
    "status": 200,
    "events_sent": 4,
    "bytes_sent": 100,
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "cached_tokens": 1,
    "reasoning_tokens": 0,
    "pages": 0,
}


async def start(ledger: Ledger, request_id: str | None = "r-1") -> Entry:
    return await ledger.start(request_id=request_id, model="demo", stream=True)


async def serve(ledger: Ledger, request_id: str | None = "r-1") -> None:
    await ledger.end(msgspec.structs.replace(await start(ledger, request_id), **ENDED))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "ledger.jsonl"


@pytest.fixture(params=["file", "fake"])
def ledger(request: pytest.FixtureRequest, path: Path) -> Iterator[Ledger]:
    if request.param == "fake":
        yield FakeLedger(now=lambda: 12.5)
    else:
        with closing(FileLedger(path, now=lambda: 12.5)) as file_ledger:
            yield file_ledger


async def test_both_lines_of_a_request_become_one_entry(ledger: Ledger) -> None:
    entry = await start(ledger)
    (started,) = await ledger.read()
    assert (started.seq, started.request_id, started.at, started.outcome) == (entry.seq, "r-1", 12.5, None)
    await ledger.end(msgspec.structs.replace(entry, **ENDED))
    (ended,) = await ledger.read()
    assert (ended.outcome, ended.total_tokens, ended.model, ended.at) == ("completed", 5, "demo", 12.5)


async def test_entries_are_found_by_request_and_by_page(ledger: Ledger) -> None:
    for request_id in ("a", "b", "a", None):
        await serve(ledger, request_id)
    assert [entry.seq for entry in await ledger.read("a")] == [1, 3]
    assert [entry.outcome for entry in await ledger.read("a")] == ["completed"] * 2
    assert [entry.seq for entry in await ledger.read(after=1, limit=2)] == [2, 3]
    assert await ledger.read(after=4) == []


async def test_a_cleared_ledger_counts_on(ledger: Ledger) -> None:
    before = await start(ledger)
    await ledger.clear()
    assert await ledger.read() == []
    after = await start(ledger)
    assert after.seq > before.seq
    assert await ledger.read() == [after]


async def write_one_request(path: Path) -> None:
    with closing(FileLedger(path, now=lambda: 12.5)) as ledger:
        await serve(ledger)


def test_the_lines_of_the_file_are_documented_json(path: Path) -> None:
    asyncio.run(write_one_request(path))
    first, last = [msgspec.json.decode(line) for line in path.read_text().splitlines()]
    known = {"seq": 1, "request_id": "r-1", "model": "demo", "stream": True, "at": 12.5}
    assert first == {**known, **dict.fromkeys(ENDED)}
    assert last == {**known, **ENDED}


async def test_a_file_goes_on_after_a_torn_line(path: Path) -> None:
    with closing(FileLedger(path)) as ledger:
        await start(ledger)
    with path.open("ab") as torn:
        torn.write(b'{"kind":"end","se')
    with closing(FileLedger(path)) as ledger:
        assert (await start(ledger, "r-2")).seq == 2
        assert [entry.request_id for entry in await ledger.read()] == ["r-1", "r-2"]


def test_a_file_has_one_owner(path: Path) -> None:
    with closing(FileLedger(path)), pytest.raises(BlockingIOError):
        FileLedger(path)
    FileLedger(path).close()


async def test_the_null_ledger_keeps_nothing() -> None:
    ledger: Ledger = NullLedger()
    await serve(ledger)
    await ledger.clear()
    assert await ledger.read() == []
