"""A cache of bounded size whose entries expire."""

from __future__ import annotations

from services.chroma.expiring_cache import ExpiringCache


def test_its_size_is_bounded_and_the_oldest_go_first() -> None:
    cache: ExpiringCache[int, str] = ExpiringCache(seconds=1, capacity=2, clock=lambda: 0.0)
    for number in (1, 2, 1, 3):
        cache.put(number, f"value {number}")
    assert len(cache) == 2
    assert [cache.get(number) for number in (1, 2, 3)] == ["value 1", None, "value 3"]
    cache.discard(1)
    cache.discard(1)
    assert cache.get(1) is None


def test_an_entry_expires_after_its_time() -> None:
    now = [0.0]
    cache: ExpiringCache[str, str] = ExpiringCache(seconds=5, capacity=2, clock=lambda: now[0])
    cache.put("key", "value")
    now[0] = 4.9
    assert cache.get("key") == "value"
    now[0] = 5.0
    assert cache.get("key") is None
    assert len(cache) == 0
