"""Makes the values that most tests of the shared modules need."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from common.identity.principal import Kind, Principal
from common.metering.account import Outbox
from common.metering.record import Attempt, UsageRecord
from common.request import Call

ALICE = Principal(Kind.API_TOKEN, user_id="alice", token_id="tok_1", scopes=frozenset({"chat"}))


def usage_record(number: int) -> UsageRecord:
    """Make the record of a request whose id holds ``number``."""
    return UsageRecord(
        event_id=number.to_bytes(16, "big"), request_id=f"req-{number}", service="chat", attempts=[Attempt("openai")]
    )


def number_of(record: UsageRecord) -> int:
    """Return the number that ``usage_record`` was given."""
    return int.from_bytes(record.event_id, "big")


def a_call(
    *, metadata: Mapping[str, str] = MappingProxyType({}), principal: Principal = ALICE, started: float = 0.0
) -> Call:
    """Make a call that came over HTTP."""
    return Call(
        rpc="/turnpike.chat.v1.ChatHttpService/CreateChatCompletion",
        metadata=dict(metadata),
        request_id="req-1",
        method="POST",
        path="/v1/chat/completions",
        started=started,
        principal=principal,
    )


def ticks(*, step: float = 0.25) -> Iterator[float]:
    """Count seconds in steps that binary fractions hold exactly."""
    return itertools.count(step, step)


class RefusingOutbox(Outbox):
    """An outbox whose disk is broken: it raises ``error`` for intents, events or both."""

    def __init__(self, error: BaseException, *, intents: bool = False, events: bool = False) -> None:
        self._error = error
        self._intents = intents
        self._events = events

    def intend(self, record: UsageRecord) -> None:
        """Raise if intents are refused."""
        if self._intents:
            raise self._error

    def settle(self, record: UsageRecord) -> None:
        """Raise if events are refused."""
        if self._events:
            raise self._error
