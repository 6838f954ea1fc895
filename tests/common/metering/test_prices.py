"""What a request costs, and what a price table must say."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.metering.account import Meter
from common.metering.prices import SHIPPED, ModelPrices, NullPrices, PriceSettings, PriceTable, read
from common.metering.record import Outcome, UsageRecord, UsageSource
from common.metering.units import Cost, Unit
from common.telemetry import Telemetry
from tests.common.builders import a_call
from tests.common.metering.fake_outbox import FakeOutbox


def prices(**amounts: str) -> ModelPrices:
    return {rate: Decimal(amount) for rate, amount in amounts.items()}


_TABLE = PriceTable(
    {
        ("", "m"): prices(input="2.5", cached_input="1.25", cache_write="3", output="10"),
        ("", "plain"): prices(input="0.15", output="0.6"),
        ("", "embedding"): prices(input="0.02"),
        ("", "free"): prices(input="0", output="0"),
        ("mistral", "ocr"): prices(page="0.002"),
        ("", "painter"): prices(input="5", image="0.04"),
        ("a", "both"): prices(input="1"),
        ("", "both"): prices(input="2"),
    },
    version="v1",
)


def a_record(**fields: Any) -> UsageRecord:
    counts = {Unit(name): fields.pop(name) for name in [*fields] if name in [*Unit]}
    return UsageRecord(event_id=b"", quantities=counts, **fields)


def charged(**fields: Any) -> UsageRecord:
    event = a_record(**fields)
    _TABLE.charge(event)
    return event


def costs(event: UsageRecord) -> tuple[int, int, int, bool]:
    of_input, of_output, of_pages = (event.costs.get(cost, 0) for cost in Cost)
    return of_input, of_output, of_pages, event.priced


def test_each_class_of_tokens_has_its_price() -> None:
    event = charged(
        model="m",
        uncached_input_tokens=1000,
        cache_read_tokens=100,
        cache_write_tokens=10,
        text_output_tokens=50,
        reasoning_tokens=7,
    )
    assert costs(event) == (2_500_000 + 125_000 + 30_000, 570_000, 0, True)
    assert event.price_version == "v1"


def test_cached_input_costs_what_input_does_unless_said_otherwise() -> None:
    event = charged(model="plain", cache_read_tokens=10, cache_write_tokens=20)
    assert costs(event) == (30 * 150, 0, 0, True)


def test_pages() -> None:
    assert costs(charged(provider="mistral", model="ocr", ocr_pages=3)) == (0, 0, 6_000_000, True)


def test_images() -> None:
    assert costs(charged(model="painter", uncached_input_tokens=10, images=2)) == (50_000, 80_000_000, 0, True)


def test_a_table_knows_the_names_of_its_models() -> None:
    assert _TABLE.models == {"m", "plain", "embedding", "free", "ocr", "painter", "both"}
    assert "m" not in NullPrices().models


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "unknown", "uncached_input_tokens": 5},
        {"model": "", "uncached_input_tokens": 5},
        {"model": "embedding", "uncached_input_tokens": 5, "text_output_tokens": 1},
        {"model": "m", "ocr_pages": 1},
        {"provider": "sandbox", "model": "ocr", "ocr_pages": 1},
        {"model": "m", "uncached_input_tokens": 1, "images": 1},
        {"model": "m"},
        {"model": "m", "total_tokens": 9},
    ],
)
def test_what_is_not_known_costs_nothing_and_is_not_priced(fields: dict[str, Any]) -> None:
    event = charged(**fields)
    assert costs(event) == (0, 0, 0, False)
    assert event.price_version == "v1"


def test_a_known_price_of_nothing_is_known() -> None:
    assert costs(charged(model="free", uncached_input_tokens=1, text_output_tokens=1)) == (0, 0, 0, True)


def test_the_asked_model_goes_before_the_upstreams_and_the_provider_before_any() -> None:
    tokens = {"uncached_input_tokens": 1000}
    assert costs(charged(model="plain", upstream_model="m", **tokens))[0] == 150_000
    assert costs(charged(model="my-alias", upstream_model="m", **tokens))[0] == 2_500_000
    assert costs(charged(provider="a", model="both", **tokens))[0] == 1_000_000
    assert costs(charged(provider="b", model="both", **tokens))[0] == 2_000_000


_COUNT = st.integers(0, 2**32 - 1)
_RATES = ("input", "cached_input", "cache_write", "output", "page")
_PRICE = st.decimals(0, 99_999, places=9)


@given(
    counts=st.tuples(_COUNT, _COUNT, _COUNT, _COUNT, _COUNT, _COUNT),
    amounts=st.tuples(_PRICE, _PRICE, _PRICE, _PRICE, _PRICE),
)
def test_costs_are_exact_and_rounded_once(counts: tuple[int, ...], amounts: tuple[Decimal, ...]) -> None:
    uncached, read_, written, text, reasoning, pages = counts
    table = PriceTable({("", "m"): dict(zip(_RATES, amounts, strict=True))}, version="v")
    event = a_record(
        model="m",
        uncached_input_tokens=uncached,
        cache_read_tokens=read_,
        cache_write_tokens=written,
        text_output_tokens=text,
        reasoning_tokens=reasoning,
        ocr_pages=pages,
    )
    table.charge(event)
    of_input, cached, write, output, page = map(Fraction, amounts)
    wanted = (
        (uncached * of_input + read_ * cached + written * write) * 1000,
        (text + reasoning) * output * 1000,
        pages * page * 10**9,
    )
    # Half up, of numbers that are not negative.
    assert costs(event) == (*(min(int(cost + Fraction(1, 2)), 2**53) for cost in wanted), any(counts))


def test_half_a_nano_dollar_is_rounded_up() -> None:
    table = PriceTable({("", "m"): prices(input="0.0005")}, version="v")
    found = []
    for tokens in (1, 2, 3, 5):
        event = a_record(model="m", uncached_input_tokens=tokens)
        table.charge(event)
        found.append(costs(event)[0])
    assert found == [1, 1, 2, 3]


def test_null_prices_know_none() -> None:
    event = a_record(model="m", uncached_input_tokens=1)
    NullPrices().charge(event)
    assert event == a_record(model="m", uncached_input_tokens=1)


@pytest.mark.parametrize("source", UsageSource)
def test_an_account_is_priced_when_it_is_settled(source: UsageSource) -> None:
    outbox = FakeOutbox()
    meter = Meter(outbox, service="chat", telemetry=Telemetry("chat"), prices=_TABLE)
    with meter.open(a_call(), type="chat") as account:
        account.record.model = "m"
        account.attempt("openai")
        account.count({Unit.UNCACHED_INPUT: 2, Unit.TEXT_OUTPUT: 3}, source=source)
        account.settle(Outcome.COMPLETED, status=200)
    (event,) = outbox.events
    assert costs(event) == (5_000, 30_000, 0, True)
    assert outbox.intents[0].price_version == ""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return path


def test_the_shipped_table_is_good() -> None:
    table = read(SHIPPED)
    assert table.version
    event = a_record(provider="openai", model="gpt-4o", uncached_input_tokens=10**6, text_output_tokens=10**6)
    table.charge(event)
    assert costs(event) == (2_500_000_000, 10_000_000_000, 0, True)
    sandbox = a_record(provider="sandbox", model="gpt-4o", uncached_input_tokens=1)
    table.charge(sandbox)
    assert not sandbox.priced


def test_a_table_in_full(tmp_path: Path) -> None:
    table = read(
        written(
            tmp_path,
            """
version: 2026-06-01
models:
  - name: m
    provider: p
    aliases: [m-1, m-2]
    input: 0.1
    cached_input: "0.000000001"
    cache_write: '1'
    output: 99999.999999999
    page: 0
""",
        )
    )
    assert table.version == "2026-06-01"
    for name in ("m", "m-1", "m-2"):
        event = a_record(provider="p", model=name, uncached_input_tokens=30, reasoning_tokens=1, ocr_pages=4)
        table.charge(event)
        assert costs(event) == (3000, 100_000_000, 0, True)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "the table must be a mapping"),
        ("- a", 1, "the table must be a mapping"),
        ("models: []", 1, "version is missing"),
        ("version: ''\nmodels: []", 1, "version must be text"),
        ("version: v", 1, "models must be a list"),
        ("version: v\nmodels: {}", 2, "models must be a list"),
        ("version: v\nmodels: []\nmodel: x", 3, "model is not known in the table; known are models, version"),
        ("version: v\nversion: w\nmodels: []", 2, "version is there twice"),
        ("version: v\nmodels:\n  - x", 3, "a model must be a mapping"),
        ("version: v\nmodels:\n  - input: 1", 3, "name is missing"),
        ("version: v\nmodels:\n  - name: [a]\n    input: 1", 3, "a name must be text"),
        ("version: v\nmodels:\n  - name: a", 3, "a needs a price for one of input, page, image"),
        ("version: v\nmodels:\n  - name: a\n    output: 1", 3, "a needs a price for one of input, page, image"),
        ("version: v\nmodels:\n  - name: a\n    inputs: 1", 4, "inputs is not known in a model"),
        ("version: v\nmodels:\n  - name: a\n    [x]: 1", 4, "this key is not known in a model"),
        ("version: v\nmodels:\n  - name: a\n    input: 1\n    aliases: b", 5, "aliases must be a list"),
        (
            "version: v\nmodels:\n  - {name: a, input: 1}\n  - name: b\n    input: 1\n    aliases:\n      - a",
            7,
            "a has a",
        ),
        ("version: v\nmodels:\n  - name: a\n    input: 1\n    provider:", 5, "provider must be text"),
        ("version: v\nmodels: [", 2, "expected the node content"),
        ("version: v\nmodels: \x01", 0, "special characters are not allowed"),
        *[
            (f"version: v\nmodels:\n  - name: a\n    input: {amount}", 4, "input must be an amount in USD")
            for amount in (
                "-1",
                "1e-3",
                ".5",
                "1.",
                "0x10",
                "1_0",
                ".inf",
                ".nan",
                "'$1'",
                "1.0000000001",
                "123456",
                "[1]",
                "",
            )
        ],
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=r"prices\.yaml") as refused:
        read(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert what in message
    assert "\n" not in message


def test_a_table_that_cannot_be_read_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "latin"):
        with pytest.raises(ValidationError) as refused:
            PriceSettings.model_validate({"TURNPIKE_PRICES": str(path)})
        (problem,) = refused.value.errors()
        assert problem["loc"] == ("TURNPIKE_PRICES",)
        assert f"{path} cannot be read" in problem["msg"]


def test_the_setting(tmp_path: Path) -> None:
    own = PriceSettings.model_validate({"TURNPIKE_PRICES": str(written(tmp_path, "version: own\nmodels: []"))})
    assert own.prices.version == "own"
    assert PriceSettings.model_validate({}).prices.version == read(SHIPPED).version
