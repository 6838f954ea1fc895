"""A ledger in memory, which a test can look into."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from services.sandbox.store import Closing, EndLine, Entry, Opening, StartLine, merged


class FakeLedger:
    """A ledger in memory, for tests."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._last_seq = 0
        self._open: dict[int, str | None] = {}
        self.lines: list[StartLine | EndLine] = []

    @property
    def entries(self) -> list[Entry]:
        """Return all requests, the oldest first."""
        return merged(self.lines, request_id=None, after=0)

    async def start(self, opening: Opening) -> int:
        """Keep the start of a request and return its number."""
        self._last_seq += 1
        self._open[self._last_seq] = opening.request_id
        self.lines.append(StartLine(seq=self._last_seq, at=self._now(), **msgspec.structs.asdict(opening)))
        return self._last_seq

    async def end(self, seq: int, *, closing: Closing) -> None:
        """Keep the end of a request."""
        request_id = self._open.pop(seq, None)
        self.lines.append(EndLine(seq=seq, request_id=request_id, **msgspec.structs.asdict(closing)))

    async def read(self, request_id: str | None = None, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """Return the requests with a number above `after`, the oldest first."""
        return merged(self.lines, request_id=request_id, after=after)[:limit]

    async def clear(self) -> None:
        """Forget all requests."""
        self.lines.clear()
