"""The table of units, and that a new unit is one row of it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from common.metering.prices import PriceTable, read
from common.metering.record import UsageRecord
from common.metering.units import UNITS, Cost, Kind, Unit, units_of
from tests.common.metering.made_up_unit import AUDIO, WITH_AUDIO


def test_every_unit_has_a_row() -> None:
    assert set(UNITS) == set(Unit)


def test_the_classes_of_tokens_are_those_of_the_input_and_of_the_output() -> None:
    assert units_of(Kind.INPUT_TOKENS) == (Unit.UNCACHED_INPUT, Unit.CACHE_READ, Unit.CACHE_WRITE)
    assert units_of(Kind.OUTPUT_TOKENS) == (Unit.TEXT_OUTPUT, Unit.REASONING)
    assert all(str(unit).endswith("_tokens") is (row.kind is not Kind.OTHER) for unit, row in UNITS.items())


def test_a_new_unit_is_priced_by_its_own_rate_beside_others() -> None:
    table = PriceTable(
        {("", "m"): {"input": Decimal(1), "audio_minute": Decimal("0.006")}}, version="v", units=WITH_AUDIO
    )
    record = UsageRecord(event_id=b"", model="m", quantities={Unit.UNCACHED_INPUT: 7, AUDIO: 90})
    table.charge(record)
    assert (record.priced, record.costs) == (True, {Cost.INPUT: 7_000 + 9_000_000})


def test_a_new_units_rate_is_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("version: v\nmodels:\n  - name: m\n    audio_minute: 0.06\n")
    record = UsageRecord(event_id=b"", model="m", quantities={AUDIO: 1})
    read(path, units=WITH_AUDIO).charge(record)
    assert record.costs == {Cost.INPUT: 1_000_000}
    with pytest.raises(ValueError, match="audio_minute is not known"):
        read(path)
