"""Mistral's OCR, and every server that speaks it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from pydantic import SecretStr

from common.providers.provider import Provider

DEFAULT_BASE_URL: Final = "https://api.mistral.ai/v1"
_PATHS: Final = MappingProxyType({"mistral_ocr": "/ocr"})


def mistral(*, api_key: SecretStr, base_url: str = DEFAULT_BASE_URL, name: str = "mistral") -> Provider:
    """Return the provider whose API lies at ``base_url``.

    Mistral's keys have no form by which to find others than the operator's own.
    """
    return Provider(name, base_url, _PATHS, api_key)
