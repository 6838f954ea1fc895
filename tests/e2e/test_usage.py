"""What was used is what was served: the usage summary against the sandbox's ledger."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.stack import Stack, bounded
from tests.e2e.test_edge import CHAT, HELLO


def _ledger(stack: Stack, *, model: str) -> list[dict[str, Any]]:
    entries = httpx.get(f"{stack.sandbox_url}/sandbox/ledger", params={"limit": 1000}, trust_env=False).json()["data"]
    return [entry for entry in entries if entry["model"] == model]


def _of_model(stack: Stack, model: str, *, requests: int) -> dict[str, Any]:
    with stack.client() as client:
        for _ in bounded(60):
            usage = client.get("/v1/usage", params={"hours": 1}).json()
            found: list[dict[str, Any]] = [row for row in usage["top_models"] if row["model"] == model]
            if found and found[0]["requests"] == requests:
                return found[0]
    raise AssertionError(f"{model} is not in {usage}")


def test_the_summary_equals_the_ledger(stack: Stack) -> None:
    with stack.client() as client:
        for stream in (False, True, False, True):
            answer = client.post(CHAT, json={**HELLO, "model": "summed", "stream": stream})
            assert answer.status_code == 200
        client.post(CHAT, json={**HELLO, "model": "summed", "sandbox": {"status": 500}})
    row = _of_model(stack, "summed", requests=5)
    entries = [entry for entry in _ledger(stack, model="summed") if entry["outcome"] == "completed"]
    assert len(entries) == 4
    assert row["input_tokens"] == sum(entry["prompt_tokens"] for entry in entries)
    assert row["output_tokens"] == sum(entry["completion_tokens"] for entry in entries)
    assert row["total_tokens"] == sum(entry["total_tokens"] for entry in entries)
    assert row["errors"] == 1


def test_the_summary_has_every_documented_field_as_numbers(stack: Stack) -> None:
    with stack.client() as client:
        usage = client.get("/v1/usage", params={"days": 7}).json()
    assert usage["window"]["hours"] == 168
    assert usage["window"]["generated_at"].endswith("Z")
    for name in ("requests", "errors", "input_tokens", "output_tokens", "total_tokens", "ocr_pages"):
        assert isinstance(usage["totals"][name], (int, float))
    assert isinstance(usage["totals"]["ocr_estimated_cost_usd"], (int, float))
    assert isinstance(usage["totals"]["avg_latency_ms"], (int, float))
    for name in ("top_models", "top_paths", "by_type", "by_provider"):
        assert isinstance(usage[name], list)


@pytest.mark.parametrize("query", ["hours=0", "hours=721", "hours=-1", "days=0", "days=31", "hours=x", "days=1.5"])
def test_a_window_out_of_range_is_refused(stack: Stack, query: str) -> None:
    with stack.client() as client:
        answer = client.get(f"/v1/usage?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_hours_override_days_and_the_default_is_a_week(stack: Stack) -> None:
    with stack.client() as client:
        both = client.get("/v1/usage", params={"hours": 3, "days": 7}).json()
        neither = client.get("/v1/usage").json()
    assert both["window"]["hours"] == 3
    assert neither["window"]["hours"] == 168


def test_no_key_is_needed_where_none_is_set(stack: Stack) -> None:
    with stack.client(credential="") as client:
        assert client.get("/v1/usage").status_code == 200


def test_a_usage_key_closes_the_route_and_an_open_gateway_serves_nobody_in_particular(closed: Stack) -> None:
    body = {**HELLO, "model": "for-nobody-in-particular"}
    with closed.client(credential="") as nobody:
        assert nobody.post(CHAT, json=body).status_code == 200
        assert nobody.get("/v1/usage").status_code == 401
        by_header = nobody.get("/v1/usage", headers={"x-usage-key": "usage-key-of-the-test"})
        wrong = nobody.get("/v1/usage", headers={"x-usage-key": "wrong"})
        assert nobody.post(CHAT, json=body, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert by_header.status_code == 200
    assert by_header.json()["scope"] == "all"
    assert wrong.status_code == 401
    with closed.client(credential="proxy-key") as proxy:
        assert proxy.post(CHAT, json=body).status_code == 200
        assert proxy.get("/v1/api-tokens").status_code == 403
    counted = 0
    with closed.client(credential="usage-key-of-the-test") as operator:
        for _ in bounded(60):
            models = {entry["model"]: entry for entry in operator.get("/v1/usage").json()["top_models"]}
            counted = models.get(body["model"], {}).get("requests", 0)
            if counted == 2:
                break
    assert counted == 2
    with closed.client(credential=closed.jwt_of("who-asked-nothing")) as user:
        own = user.get("/v1/usage").json()
    assert own["scope"] == "user"
    assert own["totals"]["requests"] == 0
