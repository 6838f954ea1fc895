"""OpenAI, and every server that speaks its API."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from pydantic import SecretStr

from common.providers.provider import Provider

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
_PATHS: Final = MappingProxyType({"openai_chat": "/chat/completions"})
# OpenAI repeats most of a wrong key, and organisation ids, in its error messages.
_SECRET_FORMS: Final = re.compile(rb"\b((?:sk|sess|org|proj)[-_])[A-Za-z0-9*_-]{6,}")


def openai(*, api_key: SecretStr, base_url: str = DEFAULT_BASE_URL, name: str = "openai") -> Provider:
    """Return the provider whose API lies at ``base_url``."""
    return Provider(name, base_url, _PATHS, api_key, secret_forms=_SECRET_FORMS)
