"""An outbox that keeps records in lists."""

from __future__ import annotations

import copy

from common.metering.record import UsageRecord


class FakeOutbox:
    """Keeps copies of intents and events, as they were when they came."""

    def __init__(self) -> None:
        self.intents: list[UsageRecord] = []
        self.events: list[UsageRecord] = []

    def intend(self, record: UsageRecord) -> None:
        """Keep a copy of the intent."""
        self.intents.append(copy.deepcopy(record))

    def settle(self, record: UsageRecord) -> None:
        """Keep a copy of the event."""
        self.events.append(copy.deepcopy(record))
