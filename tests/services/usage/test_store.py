"""What every usage store promises: each event once, and sums that equal a plain fold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.metering.record import Outcome, UsageSource
from common.metering.units import Cost, Unit
from services.usage.clickhouse_store import ClickHouseStore
from services.usage.store import NullUsageStore, UsageStore
from services.usage.summaries import Everyone, OneUser, Summary, Sums, UsageScope
from tests.services.usage.builders import HOUR_MS, NOW_MS, batch_ids, crashed, event
from tests.services.usage.fake_store import FakeUsageStore

DAY_MS = 24 * HOUR_MS


async def summary(store: UsageStore, *, scope: UsageScope = Everyone(), since_ms: int = NOW_MS - DAY_MS) -> Summary:  # noqa: B008 - frozen
    return await store.summarize(scope, since_ms=since_ms, until_ms=NOW_MS)


async def test_an_empty_window_is_all_zeros(store: UsageStore) -> None:
    assert await summary(store) == Summary()
    assert Summary().totals.avg_latency_ms == 0


async def test_one_event_is_summed_up_in_every_group(store: UsageStore) -> None:
    await store.insert([event(images=1)], batch_id=next(batch_ids()))
    sums = Sums(
        requests=1,
        errors=0,
        total_tokens=40,
        quantities={"input_tokens": 15, "output_tokens": 25, "cached_tokens": 3, "reasoning_tokens": 5},
        costs={Cost.INPUT: 1_500, Cost.OUTPUT: 2_500_000_000},
        unpriced_requests=0,
        timed_requests=1,
        latency_ms=120,
    )
    assert await summary(store) == Summary(
        totals=sums,
        models=(("gpt-4.1", sums),),
        paths=(("/v1/chat/completions", sums),),
        types=(("chat", sums),),
        providers=(("openai", sums),),
    )


async def test_a_repeated_batch_stores_nothing_twice(store: UsageStore) -> None:
    ids = batch_ids()
    batch = [event() for _ in range(7)] + [event(at_ms=NOW_MS - 40 * DAY_MS)]
    first = next(ids)
    for _ in range(3):
        await store.insert(batch, batch_id=first)
    assert (await summary(store, since_ms=0)).totals.requests == 8


async def test_an_event_in_another_batch_is_still_one_event(store: UsageStore) -> None:
    ids = batch_ids()
    events = [event(model=f"m{number}") for number in range(10)]
    await store.insert(events[:6], batch_id=next(ids))
    await store.insert(events[3:], batch_id=next(ids))
    await store.insert(events[:1] * 4, batch_id=next(ids))
    found = await summary(store)
    assert found.totals.requests == 10
    assert {name: sums.requests for name, sums in found.models} == {f"m{number}": 1 for number in range(10)}


@pytest.mark.parametrize("first", ["crash", "real"])
async def test_what_really_happened_wins_over_a_crash(store: UsageStore, first: str) -> None:
    ids = batch_ids()
    real = event()
    pair = [crashed(real), real] if first == "crash" else [real, crashed(real)]
    for one in pair:
        await store.insert([one], batch_id=next(ids))
    lost = crashed(event())
    await store.insert([lost], batch_id=next(ids))
    totals = (await summary(store)).totals
    assert (totals.requests, totals.errors, totals.total_tokens) == (2, 1, 40)
    assert totals.avg_latency_ms == 120, "a crashed request's latency is unknown, not 0"


async def test_a_window_includes_its_start_and_not_its_end(store: UsageStore) -> None:
    at = [NOW_MS - HOUR_MS - 1, NOW_MS - HOUR_MS, NOW_MS - 1, NOW_MS]
    await store.insert([event(at_ms=ms) for ms in at], batch_id=next(batch_ids()))
    assert (await summary(store, since_ms=NOW_MS - HOUR_MS)).totals.requests == 2


async def test_a_user_sees_their_own_events_only(store: UsageStore) -> None:
    names = ["alice", "alice'; DROP TABLE x; --", "älice\\", "", "ALICE"]
    for number, (name, batch_id) in enumerate(zip(names, batch_ids(), strict=False)):
        await store.insert([event(user_id=name, model=f"of {name}") for _ in range(number + 1)], batch_id=batch_id)
    for number, name in enumerate(names):
        if name:
            found = await summary(store, scope=OneUser(name))
            assert found.totals.requests == number + 1
            assert [model for model, _ in found.models] == [f"of {name}"]
    assert (await summary(store)).totals.requests == 15
    with pytest.raises(ValueError, match="empty"):
        OneUser("")


async def test_lists_are_bounded_and_ordered(store: UsageStore) -> None:
    events = [event(model=f"m{number:02}", path=f"/p{number:02}") for number in range(30)]
    events += [event(model="m29", path="/p29"), event(model="", path="/p07", provider="", type="")]
    await store.insert(events, batch_id=next(batch_ids()))
    found = await summary(store)
    assert [name for name, _ in found.models] == ["m29", "", *(f"m{number:02}" for number in range(18))]
    assert [name for name, _ in found.paths][:3] == ["/p07", "/p29", "/p00"]
    assert len(found.paths) == 20
    assert [(name, sums.requests) for name, sums in found.types] == [("chat", 31), ("", 1)]


async def test_a_price_is_unknown_only_when_something_was_used(store: UsageStore) -> None:
    nothing: dict[str, Any] = {"quantities": {}, "total_tokens": 0}
    used = [nothing | {"quantities": {unit: 1}} for unit in Unit]
    unpriced = [event(priced=False, **each) for each in (nothing, nothing | {"total_tokens": 1}, *used)]
    await store.insert([*unpriced, event(**nothing)], batch_id=next(batch_ids()))
    assert (await summary(store)).totals.unpriced_requests == 1 + len(Unit)


async def test_slices_lie_between_their_edges(store: UsageStore) -> None:
    hour = NOW_MS - 5 * HOUR_MS
    at = [hour - 1, hour, hour + 1, hour + HOUR_MS, NOW_MS - 1, NOW_MS]
    await store.insert([event(at_ms=ms) for ms in at], batch_id=next(batch_ids()))
    for _ in range(2):
        edges = [hour, hour + 1, hour + 1, hour + HOUR_MS, hour + 2 * HOUR_MS, NOW_MS, NOW_MS]
        found = await store.slices(Everyone(), edges_ms=edges)
        assert [sums.requests for sums in found] == [1, 0, 1, 1, 1, 0]
        assert (await store.slices(OneUser("bob"), edges_ms=edges)) == (Sums(),) * 6
        assert sum(found, Sums()) == (await store.summarize(Everyone(), since_ms=hour, until_ms=NOW_MS)).totals
        await store.roll_up(now_ms=NOW_MS)


_COUNTS = st.integers(0, 2**32 - 1)
_COSTS = st.integers(0, 2**50)
_NAMES = st.sampled_from(["", "a", "b", "ü/%2F'"])
_CHANGES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys((*Unit, "total_tokens", "latency_ms", "first_byte_ms", "max_tokens"), _COUNTS),
    **dict.fromkeys(Cost, _COSTS),
    **dict.fromkeys(("model", "path", "type", "provider"), _NAMES),
    "user_id": st.sampled_from(["", "alice", "bob"]),
    "status": st.sampled_from([0, 200, 399, 400, 499, 500]),
    "outcome": st.sampled_from(list(Outcome)),
    "usage_source": st.sampled_from(list(UsageSource)),
    "priced": st.booleans(),
    "temperature": st.none() | st.floats(),
}
_EVENT = st.tuples(st.integers(0, HOUR_MS - 1), st.fixed_dictionaries(_CHANGES))


@pytest.fixture
def numbers() -> Iterator[int]:
    """Counts on from one example to the next."""
    return itertools.count(1)


@settings(
    max_examples=settings().max_examples // 6,
    deadline=None,  # the machine is shared
    # Each example has an hour of its own in the one store, which makes it as good as a fresh one.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    drawn=st.lists(_EVENT, max_size=25), cuts=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=4)
)
async def test_sums_equal_a_plain_fold(
    clickhouse: ClickHouseStore,
    numbers: Iterator[int],
    drawn: list[tuple[int, dict[str, Any]]],
    cuts: list[tuple[int, int]],
) -> None:
    start = NOW_MS - next(numbers) * HOUR_MS
    events = [event(at_ms=start + offset, **changes) for offset, changes in drawn]
    plain = FakeUsageStore()
    batches = [events, *(events[low:high] for low, high in cuts)]
    for batch in filter(None, batches):
        batch_id = f"{next(numbers):08x}-0000-4000-8000-000000000000"
        await plain.insert(batch, batch_id=batch_id)
        await clickhouse.insert(batch, batch_id=batch_id)
    for scope in (Everyone(), OneUser("alice")):
        window = {"since_ms": start + HOUR_MS // 4, "until_ms": start + HOUR_MS}
        assert await clickhouse.summarize(scope, **window) == await plain.summarize(scope, **window)


async def test_the_null_store_forgets() -> None:
    store = NullUsageStore()
    await store.insert([event()], batch_id=next(batch_ids()))
    assert await summary(store) == Summary()
