"""What the usage service sums up, and for whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from common.metering.units import UNITS, Cost, Units, sums_of


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


UsageScope = Everyone | OneUser

_PLAIN: Final = ("requests", "errors", "total_tokens", "unpriced_requests", "timed_requests", "latency_ms")


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over events; ``latency_ms`` is the sum over the ``timed_requests``.

    ``quantities`` has the public sums of the table of units by their names, ``costs`` nano-dollars; neither has zeros.
    """

    requests: int = 0
    errors: int = 0
    total_tokens: int = 0
    unpriced_requests: int = 0
    timed_requests: int = 0
    latency_ms: int = 0
    quantities: Mapping[str, int] = field(default_factory=dict)
    costs: Mapping[Cost, int] = field(default_factory=dict)

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both, which have no event in common."""
        mine, theirs = self.by_name(), other.by_name()
        names = dict.fromkeys((*mine, *theirs))
        return sums_by_name({name: mine.get(name, 0) + theirs.get(name, 0) for name in names})

    def by_name(self) -> dict[str, int]:
        """Return every sum by its name, which is that of its column."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return plain | dict(self.quantities) | {str(cost): amount for cost, amount in self.costs.items()}

    @property
    def cost_nanousd(self) -> int:
        """Return the cost of everything in nano-dollars."""
        return sum(self.costs.values())

    @property
    def avg_latency_ms(self) -> float:
        """Return the mean latency in milliseconds; 0 without requests."""
        return self.latency_ms / self.timed_requests if self.timed_requests else 0.0


def sum_names(units: Units = UNITS) -> tuple[str, ...]:
    """Return the names of all sums over events, in the order in which statements have them."""
    return (*_PLAIN, *sums_of(units), *(str(cost) for cost in Cost))


def sums_by_name(values: Mapping[str, int]) -> Sums:
    """Return the sums that have these names."""
    costs = {cost: amount for cost in Cost if (amount := values.get(cost, 0))}
    others = {name: value for name, value in values.items() if value and name not in _PLAIN and name not in [*Cost]}
    return Sums(**{name: values.get(name, 0) for name in _PLAIN}, quantities=others, costs=costs)


def sums_of_row(row: Iterable[int], names: Iterable[str]) -> Sums:
    """Return the sums that a statement's row holds."""
    return sums_by_name(dict(zip(names, row, strict=True)))


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
