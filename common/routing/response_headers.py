"""What of the head of a provider's answer its caller may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# OpenAI's organisation and project headers name the operator's own, so they stay behind.
_NAMES: Final = (
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "openai-processing-ms",
    "openai-version",
    "mistral-correlation-id",
)
_PREFIXES: Final = ("x-ratelimit-", "anthropic-ratelimit-")


def for_caller(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are passed on, names in lower case."""
    kept = {
        name: value
        for name, value in ((name.lower(), value) for name, value in headers.items())
        if name in _NAMES or name.startswith(_PREFIXES)
    }
    request_id = headers.get("x-request-id")
    if request_id:
        kept["x-upstream-request-id"] = request_id
    return {name: value for name, value in kept.items() if name.isascii() and value.isascii() and value.isprintable()}
