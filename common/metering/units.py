"""What can be counted of a request. This table is the one place that says what a unit is.

The columns and sums of the usage service, prices, metrics and public answers follow from it: a new unit is a member of
``Unit``, a row of ``UNITS`` and a migration that adds its column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias


class Unit(StrEnum):
    """One thing that is counted. The classes of tokens are disjoint; the value names the unit in events and columns."""

    UNCACHED_INPUT = "uncached_input_tokens"
    CACHE_READ = "cache_read_tokens"
    CACHE_WRITE = "cache_write_tokens"
    TEXT_OUTPUT = "text_output_tokens"
    REASONING = "reasoning_tokens"
    PAGES = "ocr_pages"
    IMAGES = "images"


MOST_OF_A_UNIT: Final = 10**9
"""More than any request uses a thousand times over: a count beyond it is a fault, not a quantity."""
Quantities: TypeAlias = Mapping[Unit, int]
"""How many of each unit a request used; a unit that is not there was not used."""


class Kind(Enum):
    """Whether a unit is one of the classes of tokens that add up to the input or the output, or something else."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    OTHER = "other"


class Cost(StrEnum):
    """A column of costs; the value names it in events, tables and sums."""

    INPUT = "input_cost_nanousd"
    OUTPUT = "output_cost_nanousd"
    OCR = "ocr_cost_nanousd"


@dataclass(frozen=True, slots=True)
class Rate:
    """A price that a model may have: its name in the price table, and how many units it is the price of."""

    name: str
    per: int


_MILLION: Final = 1_000_000
_INPUT: Final = Rate("input", _MILLION)
_CACHED_INPUT: Final = Rate("cached_input", _MILLION)
_CACHE_WRITE: Final = Rate("cache_write", _MILLION)
_OUTPUT: Final = Rate("output", _MILLION)
_PAGE: Final = Rate("page", 1)
_IMAGE: Final = Rate("image", 1)


@dataclass(frozen=True, slots=True)
class UnitRow:
    """What the gateway knows of a unit.

    ``rates`` are the prices that apply, the first that a model has counting; a unit without rates has no price, and a
    request that used it is not priced. ``cost`` is the column in which its cost is summed up. ``sums`` are the public
    sums in which it counts.
    """

    kind: Kind
    cost: Cost
    rates: tuple[Rate, ...] = ()
    sums: tuple[str, ...] = ()


Units: TypeAlias = Mapping[Unit, UnitRow]

UNITS: Final[Units] = MappingProxyType(
    {
        Unit.UNCACHED_INPUT: UnitRow(Kind.INPUT_TOKENS, Cost.INPUT, (_INPUT,), ("input_tokens",)),
        Unit.CACHE_READ: UnitRow(
            Kind.INPUT_TOKENS, Cost.INPUT, (_CACHED_INPUT, _INPUT), ("input_tokens", "cached_tokens")
        ),
        Unit.CACHE_WRITE: UnitRow(Kind.INPUT_TOKENS, Cost.INPUT, (_CACHE_WRITE, _INPUT), ("input_tokens",)),
        Unit.TEXT_OUTPUT: UnitRow(Kind.OUTPUT_TOKENS, Cost.OUTPUT, (_OUTPUT,), ("output_tokens",)),
        Unit.REASONING: UnitRow(Kind.OUTPUT_TOKENS, Cost.OUTPUT, (_OUTPUT,), ("output_tokens", "reasoning_tokens")),
        Unit.PAGES: UnitRow(Kind.OTHER, Cost.OCR, (_PAGE,), ("ocr_pages",)),
        Unit.IMAGES: UnitRow(Kind.OTHER, Cost.OUTPUT, (_IMAGE,)),
    }
)


def units_of(*kinds: Kind, units: Units = UNITS) -> tuple[Unit, ...]:
    """Return the units of these kinds."""
    return tuple(unit for unit, row in units.items() if row.kind in kinds)


def rates_of(*kinds: Kind, units: Units = UNITS) -> tuple[Rate, ...]:
    """Return the prices that units of these kinds have, each once."""
    return tuple(dict.fromkeys(rate for unit in units_of(*kinds, units=units) for rate in units[unit].rates))


def sums_of(units: Units = UNITS) -> Mapping[str, tuple[Unit, ...]]:
    """Return the public sums and the units that count in each."""
    names = dict.fromkeys(name for row in units.values() for name in row.sums)
    return {name: tuple(unit for unit, row in units.items() if name in row.sums) for name in names}
