"""What the core refuses, and what it asks of its store."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import Any

import pytest

from common.errors import InvalidRequest, PermissionDenied, Unavailable
from common.identity.principal import NOBODY, Kind, Principal
from common.metering.record import Attempt
from services.usage.core import UsageCore, visible_to
from services.usage.keys import KEY_HOLDER
from services.usage.summaries import Everyone, OneUser, Sums
from tests.services.usage.builders import HOUR_MS, NOW, NOW_MS, event, uuid7
from tests.services.usage.fake_store import FakeUsageStore

BATCH = "00000000-0000-4000-8000-0000000000AB"
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def store() -> FakeUsageStore:
    return FakeUsageStore()


@pytest.fixture
def core(store: FakeUsageStore) -> UsageCore:
    return UsageCore(store, clock=lambda: NOW, raw_days=400)


async def test_a_batch_is_stored_under_its_canonical_id(core: UsageCore, store: FakeUsageStore) -> None:
    for batch_id in (BATCH, BATCH.lower()):
        await core.record([event()] * 5000, batch_id=batch_id)
    assert store.batches == [BATCH.lower()]


@pytest.mark.parametrize("batch_id", ["", "x", "{" + BATCH + "}", BATCH.replace("-", ""), "urn:uuid:" + BATCH])
async def test_a_batch_needs_a_uuid(core: UsageCore, batch_id: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await core.record([event()], batch_id=batch_id)
    assert refused.value.param == "batch_id"


@pytest.mark.parametrize("count", [0, 5001])
async def test_a_batch_has_a_size(core: UsageCore, count: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await core.record([event()] * count, batch_id=BATCH)
    assert refused.value.param == "events"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": b""}, "event_id"),
        ({"event_id": uuid7(NOW_MS) + b"x"}, "event_id"),
        ({"event_id": b"\x01\x9e" + b"\x40" * 14}, "event_id"),
        ({"event_id": uuid7(0)}, "event_id"),
        ({"event_id": uuid7(NOW_MS - 400 * DAY_MS - 1)}, "event_id"),
        ({"event_id": uuid7(NOW_MS + DAY_MS + 1)}, "event_id"),
        ({"outcome": None}, "outcome"),
        ({"usage_source": None}, "usage_source"),
        ({"status": 1000}, "status"),
        ({"attempts": [Attempt("openai", status=1000)]}, "attempts"),
        ({"ocr_pages": 2**32}, "quantities.ocr_pages"),
    ],
)
async def test_one_wrong_event_refuses_the_batch(
    core: UsageCore, store: FakeUsageStore, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await core.record([event(), event(**changes)], batch_id=BATCH)
    assert refused.value.param == f"events[1].{field}"
    assert not store.events


async def test_clocks_may_differ_a_little(core: UsageCore, store: FakeUsageStore) -> None:
    at = (NOW_MS + DAY_MS, NOW_MS - 400 * DAY_MS)
    await core.record([event(at_ms=ms) for ms in at], batch_id=BATCH)
    assert len(store.events) == 2


@pytest.mark.parametrize(
    ("hours", "days", "window"),
    [(None, None, 168), (1, None, 1), (720, 99, 720), (None, 1, 24), (None, 30, 720), (5, 2, 5)],
)
async def test_the_window(
    core: UsageCore, store: FakeUsageStore, hours: int | None, days: int | None, window: int
) -> None:
    edge = NOW_MS - window * HOUR_MS
    await core.record([event(at_ms=edge), event(at_ms=edge - 1), event(at_ms=NOW_MS + 1)], batch_id=BATCH)
    report = await core.summarize(NOBODY, hours=hours, days=days)
    assert (report.hours, report.generated_at, report.summary.totals.requests) == (window, NOW, 1)


@pytest.mark.parametrize(
    ("hours", "days", "param"),
    [(0, None, "hours"), (721, 5, "hours"), (-1, None, "hours"), (None, 0, "days"), (None, 31, "days")],
)
async def test_a_window_out_of_range(core: UsageCore, hours: int | None, days: int | None, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await core.summarize(NOBODY, hours=hours, days=days)
    assert refused.value.param == param


async def test_days_are_utc_days_and_none_is_left_out(store: FakeUsageStore) -> None:
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    core = UsageCore(store, clock=lambda: tokyo)
    midnight = NOW_MS - 12 * HOUR_MS
    at = [midnight - 2 * DAY_MS - 1, midnight - 2 * DAY_MS, midnight - 1, midnight, NOW_MS - 1, NOW_MS]
    await core.record([event(at_ms=ms) for ms in at], batch_id=BATCH)
    found = await core.daily(NOBODY, days=3)
    assert (found.generated_at, found.scope) == (NOW, "all")
    assert [(day.isoformat(), sums.requests) for day, sums in found.days] == [
        ("2026-06-13", 1),
        ("2026-06-14", 1),
        ("2026-06-15", 2),
    ]


@pytest.mark.parametrize(("days", "count"), [(None, 7), (1, 1), (30, 30)])
async def test_the_number_of_days(core: UsageCore, days: int | None, count: int) -> None:
    found = (await core.daily(NOBODY, days=days)).days
    assert [sums for _, sums in found] == [Sums()] * count
    assert len({day for day, _ in found}) == count


@pytest.mark.parametrize("days", [0, -1, 31])
async def test_a_number_of_days_out_of_range(core: UsageCore, days: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await core.daily(NOBODY, days=days)
    assert refused.value.param == "days"


async def test_a_day_that_has_just_begun(store: FakeUsageStore) -> None:
    midnight = NOW.replace(hour=0)
    core = UsageCore(store, clock=lambda: midnight)
    found = (await core.daily(NOBODY, days=2)).days
    assert [day.isoformat() for day, _ in found] == ["2026-06-14", "2026-06-15"]


async def test_each_window_holds_the_shorter_ones(core: UsageCore) -> None:
    minutes = [5, 10, 11, 60, 61, 6 * 60, 6 * 60 + 1, 24 * 60, 24 * 60 + 1, 7 * 24 * 60, 7 * 24 * 60 + 1]
    await core.record([event(at_ms=NOW_MS - ago * 60_000) for ago in minutes], batch_id=BATCH)
    found = await core.rollups(NOBODY)
    assert (found.generated_at, found.scope) == (NOW, "all")
    assert [(name, sums.requests) for name, sums in found.windows] == [
        ("10m", 2),
        ("1h", 4),
        ("6h", 6),
        ("24h", 8),
        ("7d", 10),
    ]


async def test_days_and_windows_are_the_callers_own(core: UsageCore) -> None:
    await core.record([event(user_id="bob"), event()], batch_id=BATCH)
    bob = Principal(Kind.API_TOKEN, "bob")
    daily, windows = await core.daily(bob, days=1), await core.rollups(bob)
    assert (daily.scope, windows.scope) == ("user", "user")
    assert daily.days[0][1].requests == windows.windows[-1][1].requests == 1
    for refused in (core.daily(Principal(Kind.API_TOKEN), days=1), core.rollups(Principal(Kind.API_TOKEN))):
        with pytest.raises(PermissionDenied):
            await refused


async def test_a_store_that_is_away_is_not_hidden(core: UsageCore, store: FakeUsageStore) -> None:
    store.away = True
    with pytest.raises(Unavailable):
        await core.record([event()], batch_id=BATCH)
    with pytest.raises(Unavailable):
        await core.summarize(NOBODY, hours=1, days=None)


def test_who_sees_what() -> None:
    assert visible_to(NOBODY) == Everyone()
    assert visible_to(KEY_HOLDER) == Everyone()
    for kind in Kind:
        assert visible_to(Principal(kind, "bob")) == OneUser("bob")
    for kind in (Kind.ANONYMOUS, Kind.API_TOKEN, Kind.PLATFORM_JWT):
        with pytest.raises(PermissionDenied):
            visible_to(Principal(kind))
