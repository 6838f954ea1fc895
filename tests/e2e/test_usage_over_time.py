"""Usage by days and by windows through the edge, and what requests cost by a table of prices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.children import BAD_SETTING_STATUS
from tests.e2e.conftest import PRICES
from tests.e2e.stack import REPOSITORY, Stack, bounded
from tests.e2e.test_edge import CHAT, HELLO

DAILY, ROLLUPS = "/v1/usage/daily", "/v1/usage/rollups"
WINDOWS = ["10m", "1h", "6h", "24h", "7d"]
DAY_NUMBERS = {
    "requests",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "input_estimated_cost_usd",
    "output_estimated_cost_usd",
    "estimated_cost_usd",
    "ocr_pages",
    "ocr_estimated_cost_usd",
    "errors",
    "unpriced_requests",
}


def get(stack: Stack, path: str, **options: Any) -> dict[str, Any]:
    with stack.client(**options) as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def chat(stack: Stack, *, model: str, times: int, stream: bool = False, credential: str | None = None) -> None:
    with stack.client(credential=credential) as client:
        for _ in range(times):
            assert client.post(CHAT, json={**HELLO, "model": model, "stream": stream}).status_code == 200


def until(stack: Stack, *, requests: int, credential: str | None = None) -> dict[str, Any]:
    """Return the rollups as soon as so many requests are in the shortest window."""
    for _ in bounded(60):
        found = get(stack, ROLLUPS, credential=credential)
        if found["rollups"][0]["totals"]["requests"] >= requests:
            return found
    raise AssertionError(f"{requests} requests are not in {found}")


def assert_numbers(values: dict[str, Any]) -> None:
    assert all(type(value) in (int, float) for value in values.values()), values


def test_days_have_every_field_of_the_seed(stack: Stack) -> None:
    found = get(stack, f"{DAILY}?days=3")
    assert set(found) == {"generated_at", "timezone", "days", "daily", "scope"}
    assert (found["timezone"], found["days"], found["scope"]) == ("UTC", 3, "all")
    made = datetime.fromisoformat(found["generated_at"])
    assert abs(datetime.now(UTC) - made) < timedelta(minutes=5)
    dates = [made.date() - timedelta(days=ago) for ago in (2, 1, 0)]
    assert [day.pop("date") for day in found["daily"]] == [date.isoformat() for date in dates]
    for day in found["daily"]:
        assert set(day) == DAY_NUMBERS
        assert_numbers(day)
    assert found["daily"][0] == dict.fromkeys(DAY_NUMBERS, 0)


@pytest.mark.parametrize(("query", "days"), [("", 7), ("?days=1", 1), ("?days=30", 30)])
def test_a_day_without_requests_is_there_too(stack: Stack, query: str, days: int) -> None:
    found = get(stack, DAILY + query)
    assert found["days"] == len(found["daily"]) == days
    dates = [day["date"] for day in found["daily"]]
    assert dates == sorted(set(dates))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)


@pytest.mark.parametrize("query", ["days=0", "days=31", "days=-1", "days=x", "days=1.5", "days=99999999999", "days="])
def test_a_number_of_days_out_of_range_is_refused(stack: Stack, query: str) -> None:
    with stack.client() as client:
        answer = client.get(f"{DAILY}?{query}")
    assert answer.status_code == 400
    # Some are refused by the service and some by the edge, in the same form.
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert error["message"].startswith("days")


def test_windows_have_every_field_of_the_seed(stack: Stack) -> None:
    found = get(stack, ROLLUPS)
    assert set(found) == {"generated_at", "rollups", "windows", "scope"}
    assert found["windows"] == found["rollups"]
    assert [entry["window"] for entry in found["rollups"]] == WINDOWS
    for entry in found["rollups"]:
        assert set(entry) == {"window", "totals"}
        assert set(entry["totals"]) == DAY_NUMBERS | {"cached_tokens", "reasoning_tokens", "avg_latency_ms"}
        assert_numbers(entry["totals"])


@pytest.mark.parametrize("path", [DAILY, ROLLUPS])
def test_only_get_is_taken(stack: Stack, path: str) -> None:
    with stack.client() as client:
        answer = client.post(path, json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["error"]["code"] == "method_not_allowed"


def ledger(stack: Stack, *, model: str) -> list[dict[str, Any]]:
    entries = httpx.get(f"{stack.sandbox_url}/sandbox/ledger", params={"limit": 1000}, trust_env=False).json()["data"]
    return [entry for entry in entries if entry["model"] == model]


def usd(tokens: int, *, price_in_nano: int) -> int:
    """Return the cost in nano-dollars of tokens at a price in nano-dollars per million, half a nano-dollar up."""
    return (tokens * price_in_nano + 500_000) // 1_000_000


def test_costs_are_exact_and_sums_equal_everywhere(closed: Stack) -> None:
    token = closed.new_token("payer")["token"]
    chat(closed, model="priced", times=3, credential=token)
    chat(closed, model="priced", times=2, stream=True, credential=token)
    chat(closed, model="unknown", times=2, credential=token)
    rollups = until(closed, requests=7, credential=token)
    entries = ledger(closed, model="priced")
    assert len(entries) == 5
    input_nano = sum(usd(entry["prompt_tokens"], price_in_nano=2_500_500_000) for entry in entries)
    output_nano = sum(usd(entry["completion_tokens"], price_in_nano=10_000_500_000) for entry in entries)
    assert input_nano > 0
    assert output_nano > 0
    usage = get(closed, "/v1/usage?hours=24", credential=token)
    daily = get(closed, f"{DAILY}?days=2", credential=token)
    for entry in rollups["rollups"]:
        assert entry["totals"] == usage["totals"]
    for name in DAY_NUMBERS:
        # Approximately, in case that midnight comes in between and dollars are added up in binary.
        assert sum(day[name] for day in daily["daily"]) == pytest.approx(usage["totals"][name], rel=1e-12), name
    totals = usage["totals"]
    assert totals["input_estimated_cost_usd"] == input_nano / 1e9
    assert totals["output_estimated_cost_usd"] == output_nano / 1e9
    assert totals["estimated_cost_usd"] == (input_nano + output_nano) / 1e9
    assert (totals["requests"], totals["unpriced_requests"], totals["errors"]) == (7, 2, 0)
    by_model = {entry["model"]: entry for entry in usage["top_models"]}
    assert by_model["unknown"]["estimated_cost_usd"] == 0


def test_the_sandbox_has_no_price_by_default(stack: Stack) -> None:
    chat(stack, model="gpt-4o", times=1)
    totals = until(stack, requests=1)["rollups"][-1]["totals"]
    assert totals["estimated_cost_usd"] == 0
    assert totals["unpriced_requests"] >= 1


def test_the_key_closes_both_routes(closed: Stack) -> None:
    token = closed.new_token("owner")["token"]
    chat(closed, model="own", times=1, credential=token)
    for path in (DAILY, ROLLUPS):
        with closed.client(credential="") as nobody:
            assert nobody.get(path).status_code == 401
            answer = nobody.get(path, headers={"x-usage-key": "usage-key-of-the-test"})
        assert (answer.status_code, answer.json()["scope"]) == (200, "all")
        assert get(closed, path, credential="usage-key-of-the-test")["scope"] == "all"
        assert get(closed, path, credential=token)["scope"] == "user"
    assert until(closed, requests=1, credential=token)["rollups"][0]["totals"]["requests"] == 1
    other = closed.jwt_of("somebody-else")
    assert get(closed, ROLLUPS, credential=other)["rollups"][-1]["totals"]["requests"] == 0
    assert get(closed, DAILY, credential=other)["daily"][-1]["requests"] == 0


def test_a_wrong_table_stops_the_start_and_names_the_line(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES.replace("2.5005", "-1"))
    # As the stack starts it; tests/deploy/test_runner.py shows that a child's refusal ends the stack with its line.
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}"}
    settings = {"TURNPIKE_SERVICE_KEY": "a-key-of-the-test", "TURNPIKE_PRICES": str(prices)}
    process = subprocess.run(
        [sys.executable, "-m", "services.chat"],
        env={**environment, **settings, "TURNPIKE_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == BAD_SETTING_STATUS
    assert f"TURNPIKE_PRICES is wrong: {prices}:6: input must be an amount in USD" in process.stderr
