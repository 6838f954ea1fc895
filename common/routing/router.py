"""Chooses the provider of a request, and is the only one who repeats a request."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeAlias, TypeVar

from opentelemetry.trace import Span

from common.metering.account import Account
from common.metering.units import Kind, Unit, units_of
from common.providers.provider import Answer, OcrProvider, Provider, Upstream
from common.request import Call
from common.telemetry import Telemetry
from common.upstream.http import Body, UnreachableError

_ATTEMPTS: Final = 2
_BACKOFF_SECONDS: Final = 0.25
# OpenAI's organisation and project headers name the operator's own, so they stay behind.
_ANSWER_HEADERS: Final = (
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "openai-processing-ms",
    "openai-version",
    "mistral-correlation-id",
)
_ANSWER_PREFIXES: Final = ("x-ratelimit-", "anthropic-ratelimit-")


P = TypeVar("P", bound=Upstream)
Send: TypeAlias = Callable[[P, dict[str, str]], Awaitable[Answer]]
"""How a provider is asked: it, and the headers to send."""
Answered: TypeAlias = Callable[[P, Answer], Awaitable[bytes]]
"""What is done with a provider's answer; returns the last piece of what the caller gets."""


class Router(Generic[P]):
    """Sends requests to its provider.

    A request is repeated only when no connection came about, so that nothing is ever asked, and billed, twice.
    """

    def __init__(
        self,
        provider: P,
        *,
        telemetry: Telemetry,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._provider = provider
        self._telemetry = telemetry
        self._sleep = sleep
        self._jitter = jitter

    async def chat(
        self: Router[Provider],
        body: Body,
        *,
        call: Call,
        account: Account,
        headers: Mapping[str, str],
        answered: Answered[Provider],
    ) -> bytes:
        """Ask for a completion; see ``_answer``."""

        def send(provider: Provider, headers: dict[str, str]) -> Awaitable[Answer]:
            return provider.chat(body, headers=headers)

        return await self._answer("chat", send, answered, call=call, account=account, headers=headers)

    async def ocr(
        self: Router[OcrProvider],
        body: Body,
        *,
        call: Call,
        account: Account,
        answered: Answered[OcrProvider],
    ) -> bytes:
        """Ask for a document's pages; see ``_answer``."""

        def send(provider: OcrProvider, headers: dict[str, str]) -> Awaitable[Answer]:
            return provider.ocr(body, headers=headers)

        return await self._answer("ocr", send, answered, call=call, account=account, headers={})

    async def _answer(
        self,
        operation: str,
        send: Send[P],
        answered: Answered[P],
        *,
        call: Call,
        account: Account,
        headers: Mapping[str, str],
    ) -> bytes:
        """Return what ``answered`` makes of the answer, which is closed after that.

        Raises UpstreamFailed, UpstreamTimeout, or Unavailable when the request cannot be metered.
        """
        record = account.record
        attributes = {
            "gen_ai.request.stream": record.stream,
            "gen_ai.request.max_tokens": record.max_tokens,
            "gen_ai.request.temperature": record.temperature,
            "gen_ai.request.top_p": record.top_p,
        }
        provider = self._provider
        with self._telemetry.upstream(
            operation, provider=provider.name, model=record.model, attributes=attributes
        ) as span:
            sent = {**headers, **self._telemetry.trace_headers(call), "x-request-id": call.request_id}
            answer = await self._ask(provider, send, headers=sent, account=account)
            try:
                return await answered(provider, answer)
            finally:
                answer.close()
                if span.is_recording():
                    _describe(span, account)

    async def _ask(self, provider: P, send: Send[P], *, headers: dict[str, str], account: Account) -> Answer:
        for attempt in range(_ATTEMPTS):
            account.attempt(provider.name)
            try:
                return await send(provider, headers)
            except UnreachableError:
                if attempt == _ATTEMPTS - 1:
                    raise
                await self._sleep(self._jitter() * _BACKOFF_SECONDS)
        raise AssertionError("unreachable")  # pragma: no cover - the loop returns or raises


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a provider's answer that its caller may see, names in lower case."""
    kept = {
        name: value
        for name, value in ((name.lower(), value) for name, value in headers.items())
        if name in _ANSWER_HEADERS or name.startswith(_ANSWER_PREFIXES)
    }
    request_id = headers.get("x-request-id")
    if request_id:
        kept["x-upstream-request-id"] = request_id
    return {name: value for name, value in kept.items() if value.isascii() and value.isprintable()}


def _describe(span: Span, account: Account) -> None:
    record = account.record
    span.set_attributes(
        {
            "gen_ai.response.model": record.upstream_model,
            "gen_ai.usage.input_tokens": record.sum_of(*units_of(Kind.INPUT_TOKENS)),
            "gen_ai.usage.output_tokens": record.sum_of(*units_of(Kind.OUTPUT_TOKENS)),
            "gen_ai.usage.cache_read.input_tokens": record.sum_of(Unit.CACHE_READ),
            "gen_ai.usage.cache_creation.input_tokens": record.sum_of(Unit.CACHE_WRITE),
            "gen_ai.usage.reasoning.output_tokens": record.sum_of(Unit.REASONING),
        }
    )
