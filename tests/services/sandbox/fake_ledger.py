"""A ledger in memory, which a test can look into."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.sandbox.store import Entry, selected


class FakeLedger:
    """Keeps entries as the file does."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._last_seq = 0
        self._entries: list[Entry] = []

    @property
    def entries(self) -> list[Entry]:
        """All requests, the oldest first."""
        return selected(self._entries, request_id=None, after=0)

    async def start(self, *, request_id: str | None, model: str | None, stream: bool) -> Entry:
        """Keep the start of a request and return its entry."""
        self._last_seq += 1
        entry = Entry(seq=self._last_seq, at=self._now(), request_id=request_id, model=model, stream=stream)
        self._entries.append(entry)
        return entry

    async def end(self, entry: Entry) -> None:
        """Keep the end of a request."""
        self._entries.append(entry)

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return the requests with a number above `after`, the oldest first."""
        return selected(self._entries, request_id=request_id, after=after)[:limit]

    async def clear(self) -> None:
        """Forget all requests."""
        self._entries.clear()
