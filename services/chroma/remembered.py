"""Remembers for some seconds that something was found to be true."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Remembered(Generic[K]):
    """Up to ``capacity`` keys, each for ``seconds``; the oldest go first."""

    def __init__(self, *, seconds: float, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._clock = clock
        self._until: OrderedDict[K, float] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        """Say whether the key is still remembered."""
        until = self._until.get(key)
        if until is None:
            return False
        if until <= self._clock():
            del self._until[key]
            return False
        return True

    def __len__(self) -> int:
        """Return how many keys are kept."""
        return len(self._until)

    def add(self, key: K) -> None:
        """Remember the key from now on."""
        self._until.pop(key, None)
        while len(self._until) >= self._capacity:
            self._until.popitem(last=False)
        self._until[key] = self._clock() + self._seconds

    def forget(self, key: K) -> None:
        """Forget the key, if it is remembered."""
        self._until.pop(key, None)
