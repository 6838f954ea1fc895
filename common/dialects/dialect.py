"""What a dialect is: one wire format of one operation, and how its requests and answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from types import MappingProxyType
from typing import Protocol

import msgspec

from common.errors import TurnpikeError
from common.metering.record import UsageSource
from common.metering.units import Quantities
from common.upstream.http import Body


class Progress(Enum):
    """What a part of an answer brings."""

    NONE = "none"
    """Nothing that a caller would miss: the router may still ask another deployment."""
    CONTENT = "content"
    """A piece of the answer proper."""
    END = "end"
    """The end that the dialect prescribes; nothing follows."""
    ERROR = "error"
    """The provider's own word that it failed."""


class Usage(msgspec.Struct, frozen=True):
    """What an answer used, and who says so; ``total`` is the provider's own sum of tokens, 0 when it gives none."""

    quantities: Quantities = MappingProxyType({})
    source: UsageSource = UsageSource.NONE
    total: int = 0
    upstream_model: str = ""


class Reader(Protocol):
    """Reads one answer while it passes: what it used, and where it ends. Never raises for what a provider sends."""

    def feed(self, data: bytes) -> Progress:
        """Read the data of a stream's next event."""

    @property
    def finished(self) -> bool:
        """Say whether a stream has told how it ends, so that the end of its body is no cut."""

    def read_body(self, body: bytes) -> Progress:
        """Read a whole answer: CONTENT, ERROR, or NONE when it is no answer in this dialect."""

    def usage(self) -> Usage:
        """Return what the provider reported, or an estimate of what it has not."""


class InferenceRequest(Protocol):
    """A request, as far as the gateway reads it; ``max_tokens`` and its like are None where the caller is silent."""

    @property
    def model(self) -> str:
        """The model that the caller names."""

    @property
    def is_stream(self) -> bool:
        """Whether the caller wants a stream."""

    @property
    def max_tokens(self) -> int | None:
        """How many tokens of output the caller allows."""

    @property
    def temperature(self) -> float | None:
        """The sampling temperature."""

    @property
    def top_p(self) -> float | None:
        """The nucleus sampling share."""

    def body(self, *, model: str, ask_usage: bool) -> Body:
        """Return the body to send for ``model``, with usage asked for; every other byte stays as it came."""

    def reader(self) -> Reader:
        """Return a reader for one answer to this request."""


class Dialect(Protocol):
    """One wire format. ``operation`` is its kind of work; ``request_headers`` are those that a provider may see."""

    @property
    def name(self) -> str:
        """The name under which providers declare that they speak it."""

    @property
    def operation(self) -> str:
        """The kind of work, as usage events show it."""

    @property
    def request_headers(self) -> Sequence[str]:
        """The caller's headers that reach the provider, in lower case."""

    def read(self, body: bytes | memoryview) -> InferenceRequest:
        """Read a request; raises InvalidRequest that says what is wrong and where."""

    def error_event(self, error: TurnpikeError) -> bytes:
        """Return the error as the last event of a stream that has begun."""
