"""The starter's own settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deploy.local.config import LocalSettings, Ports


def test_defaults() -> None:
    settings = LocalSettings()
    assert settings.ports == Ports(
        8080, 18080, 18081, 18082, 18083, 18084, chroma=18085, ocr=18086, chroma_server=18087
    )
    assert settings.url == "http://127.0.0.1:8080"
    assert str(settings.state_dir) == ".turnpike"
    assert settings.sandboxed == {"chat", "ocr"}


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("OPENAI_API_KEY", "ocr"),
        ("OPENAI_BASE_URL", "ocr"),
        ("OPENAI_API_BASE", "ocr"),
        ("MISTRAL_API_KEY", "chat"),
        ("MISTRAL_BASE_URL", "chat"),
        ("MISTRAL_API_BASE", "chat"),
    ],
)
def test_each_upstream_variable_replaces_the_sandbox_of_its_service(
    name: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "https://api.example.com/v1")
    assert LocalSettings().sandboxed == {left}
    monkeypatch.setenv(name, "")
    assert LocalSettings().sandboxed == {"chat", "ocr"}


def test_without_sandboxed_services_there_is_no_sandbox() -> None:
    url = "https://api.example.com/v1"
    assert not LocalSettings(openai_base_url=url, mistral_base_url=url).uses_sandbox


@pytest.mark.parametrize(
    "url", ["api.example.com", "ftp://example.com", "https://", "http://host:notaport", "http://host:0", "http://[::1"]
)
def test_a_wrong_upstream_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="http:// or https:// URL"):
        LocalSettings(openai_base_url=url)
    with pytest.raises(ValidationError, match="http:// or https:// URL"):
        LocalSettings(mistral_base_url=url)


@pytest.mark.parametrize(
    "wrong", [{"port": 0}, {"port": 65536}, {"port": "http"}, {"port_base": 65532}, {"envoy_concurrency": 0}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LocalSettings(**wrong)
