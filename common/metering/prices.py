"""What requests cost: a table of prices in YAML, read once at start, and exact arithmetic in nano-dollars.

A price is known or unknown: what a table does not name costs nothing and is marked as not priced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeAlias

from pydantic import Field, PlainValidator

from common.metering.record import UsageRecord
from common.metering.units import UNITS, Cost, Kind, Unit, Units, rates_of
from common.settings import Settings
from common.yaml_lines import Node, read_yaml

SHIPPED: Final = Path(__file__).resolve().parents[2] / "deploy" / "prices.yaml"
"""The table that is used when nothing else is said."""
_AMOUNT: Final = re.compile(r"\d{1,5}(\.\d{1,9})?")
_NANO_PER_USD: Final = 10**9
# Providers say how many tokens were used: a wrong number must not overflow the sums of int64, nor the event's field.
_MOST_NANOUSD: Final = 2**53

ModelPrices: TypeAlias = Mapping[str, Decimal]
"""A model's prices in USD by the name of the rate; a price that is not there is not known."""


class Prices(Protocol):
    """Knows what requests cost."""

    @property
    def models(self) -> Container[str]:
        """The names of the models that have a price."""

    def charge(self, record: UsageRecord) -> None:
        """Fill in the record's costs, whether they are known, and the table's version."""


class NullPrices:
    """Knows no price."""

    @property
    def models(self) -> Container[str]:
        """No names."""
        return ()

    def charge(self, record: UsageRecord) -> None:
        """Leave the record as it is: not priced."""


NO_PRICES: Final = NullPrices()
"""For services whose requests cost nothing by themselves."""


class PriceTable:
    """Prices by (provider, model), the provider being "" where a price holds for all of them."""

    def __init__(self, models: Mapping[tuple[str, str], ModelPrices], *, version: str, units: Units = UNITS) -> None:
        self.version = version
        self.models = frozenset(name for _, name in models)
        self._units = units
        # Whole numbers all the way, so that a cost is rounded once: nano-dollars for ``_per`` units.
        self._per = math.lcm(*(rate.per for rate in rates_of(*Kind, units=units)))
        self._models = {
            key: {name: int(price * _NANO_PER_USD) for name, price in prices.items()} for key, prices in models.items()
        }

    def charge(self, record: UsageRecord) -> None:
        """Fill in the record's costs, whether they are known, and the table's version.

        A record without usage has nothing to price and stays unpriced; one of whose units has no price is not priced at
        all, rather than in part.
        """
        record.price_version = self.version
        prices = self._find(record)
        if prices is None or not any(record.quantities.values()):
            return
        sums: dict[Cost, int] = {}
        for unit, count in record.quantities.items():
            if count:
                price = self._price(unit, prices)
                if price is None:
                    return
                cost = self._units[unit].cost
                sums[cost] = sums.get(cost, 0) + count * price
        record.costs = {cost: self._rounded(amount) for cost, amount in sums.items() if amount}
        record.priced = True

    def _find(self, record: UsageRecord) -> Mapping[str, int] | None:
        """Look for the model that was asked for, then for the one that the upstream says it used."""
        for model in filter(None, (record.model, record.upstream_model)):
            found = self._models.get((record.provider, model)) or self._models.get(("", model))
            if found is not None:
                return found
        return None

    def _price(self, unit: Unit, prices: Mapping[str, int]) -> int | None:
        """Return the price of ``_per`` units, by the first of the unit's rates that the model has."""
        for rate in self._units[unit].rates:
            if rate.name in prices:
                return prices[rate.name] * (self._per // rate.per)
        return None

    def _rounded(self, amount: int) -> int:
        # Half up.
        return min((2 * amount + self._per) // (2 * self._per), _MOST_NANOUSD)


class PriceSettings(Settings):
    """The setting of a service that prices what it meters, to be mixed into its settings."""

    prices: Annotated[PriceTable, PlainValidator(lambda value: read(Path(value)))] = Field(
        str(SHIPPED), validate_default=True, validation_alias="TURNPIKE_PRICES"
    )
    """The file of the price table; read here, so that a wrong one is refused at start."""


def read(path: Path, *, units: Units = UNITS) -> PriceTable:
    """Read a table; raises ValueError with the file and the line of what is wrong."""
    root = read_yaml(path)
    fields = root.fields(known=("version", "models"), what="the table")
    if "version" not in fields:
        raise root.error("version is missing")
    version = fields["version"].text(what="version")
    models: dict[tuple[str, str], ModelPrices] = {}
    for entry in fields.get("models", root).items(what="models"):
        provider, names, prices = _model(entry, units=units)
        for node, name in names:
            if (provider, name) in models:
                raise node.error(f"{name} has a price already")
            models[provider, name] = prices
    return PriceTable(models, version=version, units=units)


def _model(entry: Node, *, units: Units) -> tuple[str, list[tuple[Node, str]], ModelPrices]:
    """Return an entry's provider, its names with their places, and its prices."""
    rates = [rate.name for rate in rates_of(*Kind, units=units)]
    fields = entry.fields(known=("name", "provider", "aliases", *rates), what="a model")
    if "name" not in fields:
        raise entry.error("name is missing")
    aliases = fields["aliases"].items(what="aliases") if "aliases" in fields else []
    names = [(node, node.text(what="a name")) for node in (fields["name"], *aliases)]
    prices = {rate: _amount(fields[rate], what=rate) for rate in rates if rate in fields}
    # The last rate of a unit is the one that others fall back on. A price of output alone would never price a request.
    wanted = dict.fromkeys(
        row.rates[-1].name for row in units.values() if row.rates and row.kind is not Kind.OUTPUT_TOKENS
    )
    if not any(rate in prices for rate in wanted):
        raise entry.error(f"{names[0][1]} needs a price for one of {', '.join(wanted)}")
    provider = fields["provider"].text(what="provider") if "provider" in fields else ""
    return provider, names, prices


def _amount(node: Node, *, what: str) -> Decimal:
    # The text as it stands in the file, quoted or not: no binary fraction has been near it.
    if node.scalar is None or not _AMOUNT.fullmatch(node.scalar):
        raise node.error(f"{what} must be an amount in USD such as 0.15: up to 5 digits, a point, up to 9 digits")
    return Decimal(node.scalar)
