"""Reads usage objects in OpenAI's form, and in the variants of vendors, into disjoint classes of tokens.

Sources: https://platform.openai.com/docs/api-reference/chat/object, and for the others docs/metering.md. One odd field
never loses the others; a count that is negative, not whole or over MOST_OF_A_UNIT is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from common.metering.units import MOST_OF_A_UNIT, Quantities, Unit

_INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details")
_OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_CACHED: Final = ("cached_tokens", "cache_read_input_tokens")
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
# DeepSeek's, Mistral's, and what Moonshot and Together put beside the totals.
_CACHED_BESIDE: Final = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")


class TokenReport(msgspec.Struct, frozen=True):
    """What a provider says of tokens: 0 where it says nothing or nothing credible. ``prompt`` holds the cached ones."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    def merged(self, later: TokenReport) -> TokenReport:
        """Return the counts with ``later`` ones in their place: totals are assigned, and a 0 overrides nothing."""
        return TokenReport(
            later.prompt or self.prompt,
            later.completion or self.completion,
            later.total or self.total,
            later.cached or self.cached,
            later.written or self.written,
            later.reasoning or self.reasoning,
        )

    def with_estimates(self, *, prompt: int, text: int, reasoning: int) -> TokenReport:
        """Return the counts with estimates for the input or the output that are not known."""
        known = self.completion
        return TokenReport(
            self.prompt or prompt,
            known or text + reasoning,
            self.total if self.prompt and known else 0,
            self.cached,
            self.written,
            self.reasoning if known else reasoning,
        )

    @property
    def quantities(self) -> Quantities:
        """The counts as disjoint classes; details that exceed their totals are cut to them."""
        cached = min(self.cached, self.prompt)
        written = min(self.written, self.prompt - cached)
        reasoning = min(self.reasoning, self.completion)
        found = {
            Unit.UNCACHED_INPUT: self.prompt - cached - written,
            Unit.CACHE_READ: cached,
            Unit.CACHE_WRITE: written,
            Unit.TEXT_OUTPUT: self.completion - reasoning,
            Unit.REASONING: reasoning,
        }
        return {unit: amount for unit, amount in found.items() if amount}


def read_usage(usage: Any) -> TokenReport | None:
    """Return what a usage object reports, None when it reports nothing that can be read."""
    if not isinstance(usage, dict):
        return None
    prompt = _first(usage, ("prompt_tokens", "input_tokens"))
    completion = _first(usage, ("completion_tokens", "output_tokens"))
    total = _first(usage, ("total_tokens",))
    inner, outer = _details(usage, _INPUT_DETAILS), _details(usage, _OUTPUT_DETAILS)
    cached = _first(inner, _CACHED) or _first(usage, _CACHED_BESIDE)
    written = _first(inner, _WRITTEN)
    if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
        # Anthropic's names beside the totals mean Anthropic's counting: its input holds neither.
        cached, written = _first(usage, _CACHED), _first(usage, _WRITTEN)
        prompt = min(prompt + cached + written, MOST_OF_A_UNIT)
    prompt = prompt or max(0, total - completion)
    completion = completion or max(0, total - prompt)
    reasoning = _first(outer, ("reasoning_tokens",)) or _first(usage, ("reasoning_tokens",))
    beside = total - prompt - completion
    if beside > 0:
        # xAI and Gemini leave reasoning out of the completion: only the total tells.
        completion, reasoning = total - prompt, max(reasoning, beside)
    report = TokenReport(prompt, completion, total, cached, written, reasoning)
    return report if report.prompt or report.completion else None


def _details(usage: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, dict):
            return value
    return {}


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """Return the first credible count under one of the names, 0 when there is none."""
    for name in names:
        value = usage.get(name)
        if value is not None and (count := _count(value)):
            return count
    return 0


def _count(value: Any) -> int:
    if isinstance(value, str) and len(value) <= len(str(MOST_OF_A_UNIT)) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= MOST_OF_A_UNIT else 0
