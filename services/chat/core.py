"""Completes chats: checks the request, asks a provider, passes the answer's bytes on, and accounts for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from common.dialects import openai_chat
from common.dialects.openai_chat import ChatRequest
from common.errors import PayloadTooLarge, TurnpikeError, Unavailable, UpstreamFailed, openai_body
from common.metering.account import Account, Meter, outcome_of
from common.metering.record import Outcome, UsageSource
from common.providers.provider import Answer, Provider
from common.reply import Head, Reply, whole
from common.request import Call
from common.routing.router import Router, passed_on
from common.settings import MAX_BODY_BYTES
from common.upstream.sse import read_event

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, bytes]], Awaitable[bytes]]
"""Runs a coroutine, and gives its result to whoever awaits it."""
_FORWARDED = ("openai-organization", "openai-project", "openai-beta")
"""Request headers that reach the provider."""


class Chat:
    """Completes chats through ``router`` and accounts for them with ``meter``.

    ``spawn`` runs a stream: in a task of its own, because each event resumes whatever waits for it through every frame
    above, of which there are a dozen.
    """

    def __init__(self, router: Router[Provider], *, meter: Meter, spawn: Spawn = asyncio.create_task) -> None:
        self._router = router
        self._meter = meter
        self._spawn = spawn

    async def answer(self, body: bytes | memoryview, *, call: Call, reply: Reply) -> bytes:
        """Answer OpenAI's request ``body``: all pieces go to ``reply`` but the last, which is returned.

        The request's account is settled before. Raises InvalidRequest, UpstreamFailed, UpstreamTimeout or Unavailable
        before the first piece; a stream that fails later ends with an error event.
        """
        with self._meter.open(call, type="chat") as account:
            account.received(len(body))
            if len(body) > MAX_BODY_BYTES:
                raise PayloadTooLarge("The request body is larger than 32 MiB.")
            request = openai_chat.parse_request(body)
            account.describe(
                model=request.model,
                stream=bool(request.stream),
                max_tokens=request.output_limit,
                temperature=request.number("temperature"),
                top_p=request.number("top_p"),
            )
            if request.stream:
                body = openai_chat.with_usage_asked(body, request)
            headers = {name: call.metadata[name] for name in _FORWARDED if name in call.metadata}

            async def answered(provider: Provider, upstream: Answer) -> bytes:
                call.status = upstream.status
                return await self._passed_on(upstream, provider, account, reply, request)

            return await self._router.chat(body, call=call, account=account, headers=headers, answered=answered)

    async def _passed_on(
        self, upstream: Answer, provider: Provider, account: Account, reply: Reply, request: ChatRequest
    ) -> bytes:
        headers = passed_on(upstream.headers)
        if upstream.status < 400 and _is_stream(upstream, request):
            reply.begin(Head(upstream.status, "text/event-stream", headers))
            tally = _Tally(account, request)
            try:
                return await self._spawn(_stream(upstream, provider, account, reply, tally))
            except asyncio.CancelledError:
                tally.estimate()
                raise
        content_type = "application/json" if upstream.status >= 400 else upstream.content_type
        reply.begin(Head(upstream.status, content_type, headers))
        return await whole(upstream, provider, account, reply, read=partial(_count, account, request))


def _is_stream(upstream: Answer, request: ChatRequest) -> bool:
    # Some servers forget to say text/event-stream; one that says JSON means it.
    says_json = upstream.content_type.partition(";")[0].strip().lower() == "application/json"
    return upstream.is_event_stream or (bool(request.stream) and not says_json)


def _count(account: Account, request: ChatRequest, body: bytes) -> None:
    completion = openai_chat.parse_completion(body)
    counts = openai_chat.token_counts(completion.usage) if openai_chat.present(completion.usage) else None
    if counts is not None:
        account.count(
            counts.quantities, source=UsageSource.PROVIDER, total=counts.total, upstream_model=completion.model or ""
        )
    if request.stream:
        # SDKs would read it as a stream without events, and say nothing.
        raise UpstreamFailed("The provider did not answer with a stream.", code="upstream_malformed")


async def _stream(upstream: Answer, provider: Provider, account: Account, reply: Reply, tally: _Tally) -> bytes:
    """Pass on each event, settle the account before the last one, and return that."""
    begun = False
    try:
        while events := await upstream.events():
            for raw in events:
                event, data = read_event(raw)
                if not event:
                    continue
                end = None
                if data:
                    account.first_byte()
                    end = tally.take(data)
                if end is _FAILED:
                    event = provider.without_secrets(event)
                account.sent(len(event))
                if end is not None:
                    account.settle(end.outcome, status=upstream.status, error_code=end.error_code)
                    if upstream.complete:
                        return event
                begun = True
                await reply.write(event)
                if end is not None:
                    # Not held back for the end of the body, which has nothing to add.
                    await upstream.finish()
                    return b""
        raise UpstreamFailed("The provider's stream ended before it was complete.", code="upstream_cut")
    except TurnpikeError as error:
        tally.estimate()
        if not begun:
            raise
        # Too late for a status: the caller has a 200 and some events.
        last = b"data: " + openai_body(error) + b"\n\n"
        account.sent(len(last))
        outcome, _status, code = outcome_of(error)
        # A disk that refuses the event is no reason to keep the error from the caller: the intent is on record.
        with suppress(Unavailable):
            account.settle(outcome, status=upstream.status, error_code=code)
        return last


@dataclass(frozen=True, slots=True)
class _End:
    outcome: Outcome
    error_code: str = ""


_DONE: Final = _End(Outcome.COMPLETED)
_FAILED: Final = _End(Outcome.UPSTREAM_CUT, "upstream_error")


class _Tally:
    """Reads a stream's events as they pass, counts tokens, and sees which event is the last."""

    def __init__(self, account: Account, request: ChatRequest) -> None:
        self._account = account
        self._request = request
        self._pieces = 0
        self._counted = False

    def take(self, data: bytes) -> _End | None:
        """Read an event's data and say how the stream ends with it, if it does.

        Raises UpstreamFailed when it is not JSON.
        """
        if data.strip() == b"[DONE]":
            self.estimate()
            return _DONE
        try:
            chunk = openai_chat.parse_chunk(data)
            failed = chunk is not None and openai_chat.is_error(chunk)
        except (ValueError, RecursionError):
            raise UpstreamFailed("The provider sent an event that is not JSON.", code="upstream_malformed") from None
        if chunk is None:
            return None
        if failed:
            self.estimate()
            return _FAILED
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta and (delta.content or delta.tool_calls):
                self._pieces += 1
        if openai_chat.present(chunk.usage):
            self._count(chunk)
        return None

    def estimate(self) -> None:
        """Estimate the counts if the provider did not report them."""
        if not self._counted and not self._account.settled:
            self._counted = True
            counts = openai_chat.estimated_counts(self._request, pieces=self._pieces)
            self._account.count(counts.quantities, source=UsageSource.ESTIMATED)

    def _count(self, chunk: openai_chat.Chunk) -> None:
        counts = openai_chat.token_counts(chunk.usage)
        if counts is not None:
            self._counted = self._account.count(
                counts.quantities, source=UsageSource.PROVIDER, total=counts.total, upstream_model=chunk.model or ""
            )
