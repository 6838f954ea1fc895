"""What requests cost: a table of prices in YAML, read once at start, and exact arithmetic in nano-dollars.

A price is known or unknown: what a table does not name costs nothing and is marked as not priced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Annotated, Final, Protocol

import yaml
from pydantic import Field, PlainValidator

from common.metering.record import UsageRecord
from common.metering.units import Cost, Unit
from common.settings import Settings

SHIPPED: Final = Path(__file__).resolve().parents[2] / "deploy" / "prices.yaml"
"""The table that is used when nothing else is said."""
# Five digits before the point and nine behind it: with 32-bit counts every product fits the 28 digits of a Decimal.
_AMOUNT: Final = re.compile(r"\d{1,5}(\.\d{1,9})?")
_NANO_PER_USD: Final = 10**9
_TOKENS_OF_A_PRICE: Final = 10**6
# An upstream says how many tokens it used: a mad number must not overflow the sums of int64, nor the event's field.
_MOST_NANOUSD: Final = 2**53
_RATES: Final = ("input", "cached_input", "cache_write", "output", "page")
_FIELDS: Final = frozenset({"name", "provider", "aliases", *_RATES})


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """A model's prices in USD: per million tokens, and per page; None where the table has none."""

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None
    page: Decimal | None = None


class Prices(Protocol):
    """Knows what requests cost."""

    def charge(self, record: UsageRecord) -> None:
        """Fill in the record's costs, whether they are known, and the table's version."""


class NullPrices:
    """Knows no price."""

    def charge(self, record: UsageRecord) -> None:
        """Leave the record as it is: not priced."""


NO_PRICES: Final = NullPrices()
"""For services whose requests cost nothing by themselves."""


class PriceTable:
    """Prices by (provider, model), the provider being "" where a price holds for all of them."""

    def __init__(self, models: Mapping[tuple[str, str], ModelPrices], *, version: str) -> None:
        self.version = version
        self._models = dict(models)

    def charge(self, record: UsageRecord) -> None:
        """Fill in the record's costs, whether they are known, and the table's version.

        An event without usage has nothing to price and stays unpriced; one of whose classes has no price is not
        priced at all, rather than in part.
        """
        record.price_version = self.version
        prices = self._find(record)
        if prices is None or record.quantities.get(Unit.IMAGES):
            return
        costs = _costs(record, prices)
        if costs is None:
            return
        record.costs = dict(zip(Cost, costs, strict=True))
        record.priced = True

    def _find(self, record: UsageRecord) -> ModelPrices | None:
        """Look for the model that was asked for, then for the one that the upstream says it used."""
        for model in filter(None, (record.model, record.upstream_model)):
            found = self._models.get((record.provider, model)) or self._models.get(("", model))
            if found is not None:
                return found
        return None


class PriceSettings(Settings):
    """The setting of a service that prices what it meters, to be mixed into its settings."""

    prices: Annotated[PriceTable, PlainValidator(lambda value: read(Path(value)))] = Field(
        str(SHIPPED), validate_default=True, validation_alias="TURNPIKE_PRICES"
    )
    """The file of the price table; read here, so that a wrong one is refused at start."""


def read(path: Path) -> PriceTable:
    """Read a table; raises ValueError with the file and the line of what is wrong."""
    try:
        root = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        return _table(root)
    except _WrongError as wrong:
        raise ValueError(f"{path}:{wrong.line}: {wrong}") from None


class _WrongError(Exception):
    def __init__(self, node: yaml.Node | None, what: str) -> None:
        super().__init__(what)
        self.line = node.start_mark.line + 1 if node else 1


def _costs(record: UsageRecord, prices: ModelPrices) -> tuple[int, int, int] | None:
    """Return the cost of input, output and pages in nano-dollars; None when nothing was used or a price is missing."""
    counts = record.quantities
    uncached = _product(counts.get(Unit.UNCACHED_INPUT), prices.input)
    cached = _product(counts.get(Unit.CACHE_READ), prices.input if prices.cached_input is None else prices.cached_input)
    written = _product(counts.get(Unit.CACHE_WRITE), prices.input if prices.cache_write is None else prices.cache_write)
    output = _product(record.sum_of(Unit.TEXT_OUTPUT, Unit.REASONING), prices.output)
    pages = _product(counts.get(Unit.PAGES), prices.page)
    parts = (uncached, cached, written, output, pages)
    if None in parts or not any(counts.values()):
        return None
    tokens = _NANO_PER_USD // _TOKENS_OF_A_PRICE
    known = [part or Decimal(0) for part in parts]
    return (
        _rounded(sum(known[:3], Decimal(0)) * tokens),
        _rounded(known[3] * tokens),
        _rounded(known[4] * _NANO_PER_USD),
    )


def _product(count: int | None, price: Decimal | None) -> Decimal | None:
    """Return the cost of ``count``; nothing of what has no price costs nothing, and None is not known."""
    if not count:
        return Decimal(0)
    return None if price is None else count * price


def _rounded(nanousd: Decimal) -> int:
    return min(int(nanousd.to_integral_value(ROUND_HALF_UP)), _MOST_NANOUSD)


def _table(root: yaml.Node | None) -> PriceTable:
    fields = dict(_mapping(root, allowed=frozenset({"version", "models"}), what="the table"))
    version = _text(fields["version"], what="version") if "version" in fields else ""
    if not version:
        raise _WrongError(root, "version is missing")
    listed = fields.get("models")
    if not isinstance(listed, yaml.SequenceNode):
        raise _WrongError(listed or root, "models must be a list")
    models: dict[tuple[str, str], ModelPrices] = {}
    for entry in listed.value:
        provider, names, prices = _model(entry)
        for node, name in names:
            if (provider, name) in models:
                raise _WrongError(node, f"{name} has a price already")
            models[provider, name] = prices
    return PriceTable(models, version=version)


def _model(entry: yaml.Node) -> tuple[str, list[tuple[yaml.Node, str]], ModelPrices]:
    """Return an entry's provider, its names with their places, and its prices."""
    fields = dict(_mapping(entry, allowed=_FIELDS, what="a model"))
    if "name" not in fields:
        raise _WrongError(entry, "name is missing")
    aliases = fields.get("aliases")
    if aliases is not None and not isinstance(aliases, yaml.SequenceNode):
        raise _WrongError(aliases, "aliases must be a list")
    names = [(node, _text(node, what="a name")) for node in (fields["name"], *(aliases.value if aliases else ()))]
    rates = {rate: _amount(fields[rate], what=rate) for rate in _RATES if rate in fields}
    if "input" not in rates and "page" not in rates:
        raise _WrongError(entry, f"{names[0][1]} has neither a price for input nor one per page")
    provider = _text(fields["provider"], what="provider") if "provider" in fields else ""
    return provider, names, ModelPrices(**rates)


def _mapping(node: yaml.Node | None, *, allowed: frozenset[str], what: str) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise _WrongError(node, f"{what} must be a mapping")
    seen = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if name not in allowed:
            raise _WrongError(
                key, f"{name or 'this key'} is not known in {what}; known are {', '.join(sorted(allowed))}"
            )
        if name in seen:
            raise _WrongError(key, f"{name} is there twice")
        seen.add(name)
        yield name, value


def _text(node: yaml.Node, *, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise _WrongError(node, f"{what} must be text")
    return str(node.value)


def _amount(node: yaml.Node, *, what: str) -> Decimal:
    # The text as it stands in the file, quoted or not: no binary fraction has been near it.
    if not isinstance(node, yaml.ScalarNode) or not _AMOUNT.fullmatch(node.value):
        raise _WrongError(
            node, f"{what} must be an amount in USD such as 0.15: up to 5 digits, a point, up to 9 digits"
        )
    return Decimal(node.value)
