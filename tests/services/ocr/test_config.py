"""The OCR service's settings, as they come from the environment."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from common.upstream.http import Timers
from services.ocr.config import OcrSettings

_KEY = "service-key-of-the-tests"


@pytest.fixture(autouse=True)
def _nothing_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("TURNPIKE_", "MISTRAL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TURNPIKE_SERVICE_KEY", _KEY)


def test_defaults() -> None:
    settings = OcrSettings()
    assert settings.listen == "127.0.0.1:18086"
    assert settings.mistral_ocr_model == "mistral-ocr-latest"
    assert settings.timers == Timers()
    assert settings.upstream is None


@pytest.mark.parametrize("name", ["MISTRAL_BASE_URL", "MISTRAL_API_BASE"])
@pytest.mark.parametrize("value", ["https://ocr.test", "https://ocr.test/", "https://ocr.test/v1", "ocr.test"])
def test_the_base_url_has_two_names_and_needs_no_version(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("TURNPIKE_SANDBOX_URL", "http://127.0.0.1:1/v1")
    assert OcrSettings().upstream == ("mistral", "https://ocr.test/v1")


def test_a_key_alone_is_mistrals_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "k")
    assert OcrSettings().upstream == ("mistral", "https://api.mistral.ai/v1")
    monkeypatch.setenv("MISTRAL_API_KEY", "")
    monkeypatch.setenv("TURNPIKE_SANDBOX_URL", "http://127.0.0.1:1")
    assert OcrSettings().upstream == ("sandbox", "http://127.0.0.1:1/v1")


def test_what_is_not_a_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_BASE_URL", "ftp://ocr.test")
    with pytest.raises(ValidationError, match="MISTRAL_BASE_URL"):
        OcrSettings()
