"""What the settings take and refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.usage.config import Settings


def read(**values: Any) -> Settings:
    """Read the settings from these values instead of the environment."""
    return Settings.model_validate({"TURNPIKE_SERVICE_KEY": "a-service-key-for-tests", **values})


def test_the_defaults() -> None:
    found = read()
    assert (found.listen, found.database, found.dataset) == ("127.0.0.1:18083", "turnpike", "ai_worker_requests")
    assert found.clickhouse_url.get_secret_value() == found.usage_key.get_secret_value() == ""


@pytest.mark.parametrize("url", ["", "http://h", "https://u:p%40@h:8443", "http://[::1]:8123/"])
def test_a_good_url(url: str) -> None:
    assert read(CLICKHOUSE_URL=url).clickhouse_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "h:8123",
        "clickhouse://secret@h",
        "http://",
        "http://h:0",
        "http://h:x",
        "http://secret@h/db",
        "http://h?secret=1",
    ],
)
def test_a_bad_url_is_named_and_not_shown(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read(CLICKHOUSE_URL=url)
    (problem,) = refused.value.errors()
    assert problem["loc"] == ("CLICKHOUSE_URL",)
    assert "secret" not in problem["msg"]


@pytest.mark.parametrize("name", ["", "a-b", "1a", "a b", "a`", "a" * 64])
def test_names_are_identifiers(name: str) -> None:
    for variable in ("ANALYTICS_DATASET", "TURNPIKE_USAGE_DATABASE"):
        with pytest.raises(ValidationError):
            read(**{variable: name})
