"""What is kept of a request: one record in plain Python, with its attempts, its quantities and its costs."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from common.metering.units import Cost, Unit


class Outcome(IntEnum):
    """How a request ended; the numbers are those of the event and of the usage service's table."""

    COMPLETED = 1
    CLIENT_GONE = 2
    UPSTREAM_CUT = 3
    TIMED_OUT = 4
    FAILED = 5
    CRASHED = 6

    @property
    def label(self) -> str:
        """The outcome's name in metrics and tables."""
        return self.name.lower()


class UsageSource(IntEnum):
    """Where a record's quantities come from; the numbers are those of the event and of the usage service's table."""

    PROVIDER = 1
    ESTIMATED = 2
    NONE = 3


class Attempt(msgspec.Struct, omit_defaults=True):
    """One attempt at a provider.

    ``model`` is the name that the provider was asked for, "" where it is the caller's. ``status`` is the HTTP status of
    its answer, 0 without one. ``may_be_billed`` says whether the provider may have begun to work.
    """

    provider: str
    model: str = ""
    status: int = 0
    milliseconds: int = 0
    may_be_billed: bool = False


class UsageRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request. ``outcome`` is None while it is open, ``usage_source`` while nothing was counted.

    ``event_id`` holds the 16 bytes of a UUIDv7. ``status`` is the HTTP status of the answer: 499 when the caller left
    first, 0 when it is not known. The caller got the same one, except when an early comment had begun the stream: that
    caller got 200, and the record keeps what the provider or the gateway answered afterwards (docs/adr/0012). Costs are
    in nano-dollars. ``first_byte_ms`` is 0 when there was no byte.
    """

    event_id: bytes
    request_id: str = ""
    user_id: str = ""
    token_id: str = ""
    service: str = ""
    type: str = ""
    method: str = ""
    path: str = ""
    provider: str = ""
    model: str = ""
    upstream_model: str = ""
    status: int = 0
    stream: bool = False
    outcome: Outcome | None = None
    usage_source: UsageSource | None = None
    quantities: dict[Unit, int] = {}
    total_tokens: int = 0
    costs: dict[Cost, int] = {}
    priced: bool = False
    price_version: str = ""
    attempts: list[Attempt] = []
    fallback_from: str = ""
    error_code: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    latency_ms: int = 0
    first_byte_ms: int = 0
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None

    def sum_of(self, *units: Unit) -> int:
        """Return how many of these units together were used."""
        return sum(self.quantities.get(unit, 0) for unit in units)
