"""What the usage service asks of its store, and the store that keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from common.metering.record import UsageRecord
from services.usage.summaries import Summary, Sums, UsageScope


class UsageStore(Protocol):
    """Keeps events, each once."""

    async def insert(self, records: Sequence[UsageRecord], *, batch_id: str) -> None:
        """Store the records durably; a repeated batch or event changes nothing. Raises Unavailable."""

    async def summarize(self, scope: UsageScope, *, since_ms: int, until_ms: int) -> Summary:
        """Sum up the events from ``since_ms`` until just before ``until_ms`` (since 1970); raises Unavailable."""

    async def slices(self, scope: UsageScope, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Sum up the events between each two of the edges, which ascend (ms since 1970); raises Unavailable."""

    async def roll_up(self, *, now_ms: int) -> int:
        """Do beforehand what makes reading quick; returns the number of hours redone. Raises Unavailable."""


class NullUsageStore:
    """Forgets everything."""

    async def insert(self, records: Sequence[UsageRecord], *, batch_id: str) -> None:
        """Forget the records."""

    async def summarize(self, scope: UsageScope, *, since_ms: int, until_ms: int) -> Summary:
        """Return the empty summary."""
        return Summary()

    async def slices(self, scope: UsageScope, *, edges_ms: Sequence[int]) -> tuple[Sums, ...]:
        """Return empty sums."""
        return (Sums(),) * (len(edges_ms) - 1)

    async def roll_up(self, *, now_ms: int) -> int:
        """Do nothing."""
        return 0
