"""What the usage service sums up, and for whom."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Everyone:
    """Asks for everybody's usage."""


@dataclass(frozen=True, slots=True)
class OneUser:
    """Asks for one user's usage; raises ValueError without a user id, which would stand for all anonymous callers."""

    user_id: str

    def __post_init__(self) -> None:
        """Check the user id."""
        if not self.user_id:
            raise ValueError("a user id must not be empty")


Whose = Everyone | OneUser


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over events; costs are in nano-dollars, ``latency_ms`` is the sum over the ``timed_requests``."""

    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    ocr_pages: int = 0
    input_cost_nanousd: int = 0
    output_cost_nanousd: int = 0
    ocr_cost_nanousd: int = 0
    unpriced_requests: int = 0
    timed_requests: int = 0
    latency_ms: int = 0

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both, which have no event in common."""
        return Sums(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def cost_nanousd(self) -> int:
        """Return the cost of everything in nano-dollars."""
        return self.input_cost_nanousd + self.output_cost_nanousd + self.ocr_cost_nanousd

    @property
    def avg_latency_ms(self) -> float:
        """Return the mean latency in milliseconds; 0 without requests."""
        return self.latency_ms / self.timed_requests if self.timed_requests else 0.0


Group = tuple[str, Sums]
"""A model, path, type or provider and its sums; the name is empty for requests that have none."""

TOP = 20
"""How many models and paths a summary lists."""
GROUPS_AT_MOST = 100
"""How many types and providers a summary lists; the gateway itself names them, so that there are a few."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A window summed up; groups are ordered by requests, most first, then by name."""

    totals: Sums = Sums()
    models: tuple[Group, ...] = ()
    paths: tuple[Group, ...] = ()
    types: tuple[Group, ...] = ()
    providers: tuple[Group, ...] = ()
