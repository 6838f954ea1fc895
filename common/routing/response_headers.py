"""What of the head of a provider's answer its caller may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# OpenAI's organisation and project headers name the operator's own, so they stay behind.
_NAMES: Final = frozenset(
    (
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "openai-processing-ms",
        "openai-version",
        "mistral-correlation-id",
    )
)
_PREFIXES: Final = ("x-ratelimit-", "anthropic-ratelimit-")


# What a provider sends travels in gRPC metadata, of which clients and proxies take a few KiB.
_MOST_HEADERS: Final = 32
_LONGEST_VALUE: Final = 128


def for_caller(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are passed on, names in lower case; 32 at most, none of over 128 characters."""
    kept = {}
    for given, value in headers.items():
        name = given.lower()
        if name in _NAMES or name.startswith(_PREFIXES):
            kept[name] = value
    request_id = headers.get("x-request-id")
    if request_id:
        kept["x-upstream-request-id"] = request_id
    if not kept:
        return kept
    readable = [(name, value) for name, value in kept.items() if _is_short_text(name) and _is_short_text(value)]
    # Those by name first: retry-after matters more than a thirty-third limit.
    return dict(sorted(readable, key=lambda pair: pair[0].startswith(_PREFIXES))[:_MOST_HEADERS])


def _is_short_text(text: str) -> bool:
    return len(text) <= _LONGEST_VALUE and text.isascii() and text.isprintable()
