"""Settings: every documented name, and what a wrong value says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.chroma.config import ChromaSettings


def _settings(**fields: Any) -> ChromaSettings:
    return ChromaSettings(service_key="0123456789abcdef", **fields)


@pytest.mark.parametrize(
    "written", ["http://h:8000", "http://h:8000/", "http://h:8000/api/v2", " http://h:8000/api/v2/ "]
)
@pytest.mark.parametrize("name", ["CHROMA_BASE_URL", "CHROMA_API_BASE"])
def test_the_server_by_both_names(written: str, name: str) -> None:
    assert _settings(**{name: written}).base_url == "http://h:8000"


def test_a_server_below_a_path() -> None:
    assert _settings(base_url="https://h/chroma/api/v2").base_url == "https://h/chroma"


@pytest.mark.parametrize("written", ["h:8000", "ftp://h", "http://", "http://h?x=1", "http://h:x"])
def test_what_is_no_url(written: str) -> None:
    with pytest.raises(ValidationError):
        _settings(base_url=written)


def test_how_the_key_is_sent() -> None:
    assert _settings().upstream_headers == {}
    assert _settings(api_key=" k ").upstream_headers == {"x-chroma-api-key": "k"}
    with_scheme = _settings(api_key="k", auth_header="Authorization", auth_scheme="Bearer")
    assert with_scheme.upstream_headers == {"authorization": "Bearer k"}


def test_a_key_loses_blanks_and_line_ends() -> None:
    assert _settings(api_key="\n k\r\n").upstream_headers == {"x-chroma-api-key": "k"}


def test_the_timers_have_their_own_variables() -> None:
    names = ("CONNECT", "FIRST_BYTE", "CHUNK", "TOTAL")
    own = {f"TURNPIKE_CHROMA_{name}_TIMEOUT_SECONDS": number for number, name in enumerate(names, 1)}
    timers = _settings(**own, **{f"TURNPIKE_{name}_TIMEOUT_SECONDS": 99 for name in names}).timers
    assert (
        timers.connect_timeout_seconds,
        timers.first_byte_timeout_seconds,
        timers.chunk_timeout_seconds,
        timers.total_timeout_seconds,
    ) == (1, 2, 3, 4)


def test_users_have_tenants_unless_the_server_has_one_only() -> None:
    assert _settings().tenant_per_user
    assert not _settings(TURNPIKE_CHROMA_TENANT_PER_USER="false").tenant_per_user


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "sécret"},
        {"api_key": "secret\r\nx: y"},
        {"auth_header": "x y"},
        {"auth_header": "Host"},
        {"auth_header": "content-length"},
        {"auth_scheme": "Bearer x"},
        {"namespace_separator": "+"},
        {"namespace_separator": "a/b"},
        {"first_byte_timeout_seconds": 0},
    ],
)
def test_wrong_values_are_refused_without_being_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        _settings(**fields)
    assert "cret" not in str(error.value.errors(include_input=False))
