"""Answers every inference request in the same way, whatever its dialect, provider and operation.

Read the request, open the account, let the router find an answer that has begun, pass its events on, settle. The bytes
of an answer pass through; they are read only to account for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import structlog
from opentelemetry.trace import Span

from common.dialects.dialect import Dialect, Progress, Reader
from common.dialects.upstream_errors import error_body
from common.errors import PayloadTooLarge, TurnpikeError, Unavailable, UpstreamFailed
from common.metering.account import Account, Meter, outcome_of
from common.metering.record import Outcome, UsageSource
from common.metering.units import Kind, Unit, units_of
from common.reply import Head, Reply, all_but_last
from common.request import Call
from common.routing.early_keep_alive import KeepAliveFactory, NullKeepAlive
from common.routing.response_headers import for_caller
from common.routing.routed_answer import RoutedAnswer
from common.routing.router import Exchange, Router
from common.settings import MAX_BODY_BYTES
from common.telemetry import Telemetry

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, Sequence[bytes]]], Awaitable[Sequence[bytes]]]
"""Runs a coroutine, and gives its result to whoever awaits it."""
_log = structlog.get_logger(__name__)
_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"


class Relay:
    """Answers requests through ``router`` and accounts for them with ``meter``.

    ``keep_alive`` keeps a stream alive that is silent before its answer begins.
    ``spawn`` runs a stream: in a task of its own, because each event resumes whatever waits for it through every frame
    above, of which there are a dozen.
    """

    def __init__(
        self,
        router: Router,
        *,
        meter: Meter,
        telemetry: Telemetry,
        keep_alive: KeepAliveFactory = NullKeepAlive,
        spawn: Spawn = asyncio.create_task,
    ) -> None:
        self._router = router
        self._meter = meter
        self._telemetry = telemetry
        self._keep_alive = keep_alive
        self._spawn = spawn
        self._open: set[RoutedAnswer] = set()
        self._ending = False

    def end_streams(self) -> None:
        """End every open stream with an error event, because the process stops: a caller must not take it for whole."""
        self._ending = True
        for answer in tuple(self._open):
            # Whoever waits for its next event finds it broken off.
            answer.response.close()

    async def answer(self, body: bytes | memoryview, *, dialect: Dialect, call: Call, reply: Reply) -> Sequence[bytes]:
        """Answer a request: all pieces go to ``reply`` but the last ones, which are returned, to leave with the status.

        The request's account is settled before. Raises InvalidRequest, UpstreamFailed, UpstreamTimeout or Unavailable
        before the first piece; a stream that fails later ends with an error event.
        """
        with self._meter.open(call, type=dialect.operation) as account:
            account.received(len(body))
            if len(body) > MAX_BODY_BYTES:
                raise PayloadTooLarge("The request body is larger than 32 MiB.")
            request = dialect.read(body)
            account.describe(
                model=request.model,
                stream=request.is_stream,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
            )
            headers = {name: call.metadata[name] for name in dialect.request_headers if name in call.metadata}
            exchange = Exchange(dialect, request, {**headers, "x-request-id": call.request_id}, request.reader())
            try:
                return await self._exchanged(exchange, call=call, account=account, reply=reply)
            except BaseException:
                if _may_be_billed(account):
                    _count(account, exchange.reader)
                raise

    async def _exchanged(self, exchange: Exchange, *, call: Call, account: Account, reply: Reply) -> Sequence[bytes]:
        request = exchange.request
        attributes = {
            "gen_ai.request.stream": request.is_stream,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
        }
        with self._telemetry.upstream(account.record.type, model=account.record.model, attributes=attributes) as span:
            # Within the span, which is to be the parent of the provider's own.
            exchange.headers.update(self._telemetry.trace_headers(call))
            try:
                if request.is_stream:
                    return await self._spawn(self._streamed(exchange, call=call, account=account, reply=reply))
                answer = await self._router.begin(exchange, account)
                try:
                    return await self._pass_on(answer, exchange, call=call, account=account, reply=reply)
                finally:
                    answer.response.close()
            finally:
                if span.is_recording():
                    _describe(span, account)

    async def _streamed(self, exchange: Exchange, *, call: Call, account: Account, reply: Reply) -> Sequence[bytes]:
        """Answer a request for a stream, of which comments may leave before it begins."""
        keep_alive = self._keep_alive(reply)
        try:
            answer = await self._router.begin(exchange, account)
        except TurnpikeError as error:
            if not await keep_alive.stop():
                raise
            return _broken_off(error, exchange, account=account)
        except BaseException:
            keep_alive.cancel()
            raise
        try:
            if not await keep_alive.stop():
                return await self._pass_on(answer, exchange, call=call, account=account, reply=reply)
            # The caller has a 200 and some comments: what would have been a status becomes an event.
            if answer.refused:
                # JSON holds no line ends but between its tokens, and an event's data must be one line.
                body = b" ".join(error_body(answer.status, answer.body).splitlines())
                return _settled([b"data: " + body + b"\n\n"], answer, account=account)
            return await self._pass_events(answer, exchange, account=account, reply=reply)
        finally:
            answer.response.close()

    async def _pass_on(
        self, answer: RoutedAnswer, exchange: Exchange, *, call: Call, account: Account, reply: Reply
    ) -> Sequence[bytes]:
        """Pass on an answer with its head."""
        call.status = answer.status
        headers = for_caller(answer.response.headers)
        if answer.is_stream:
            reply.begin(Head(answer.status, _EVENT_STREAM, headers))
            return await self._pass_events(answer, exchange, account=account, reply=reply)
        account.first_byte()
        body = answer.body
        if answer.refused:
            body = error_body(answer.status, body)
        else:
            _count(account, answer.reader)
        reply.begin(Head(answer.status, _JSON if answer.refused else answer.response.content_type, headers))
        last = await all_but_last(body, reply, sent=account.sent)
        return _settled([last], answer, account=account)

    async def _pass_events(
        self, answer: RoutedAnswer, exchange: Exchange, *, account: Account, reply: Reply
    ) -> Sequence[bytes]:
        """Pass on events as they come, those that came together in one piece; return the last."""
        account.first_byte()
        self._open.add(answer)
        response, reader = answer.response, answer.reader
        events, progress = answer.events, answer.progress
        try:
            while True:
                account.sent(sum(map(len, events)))
                # A stream that has told how it ends may lack the terminator: the end of its body is as good.
                ended = progress in _LAST or (reader.finished and response.complete)
                if ended:
                    _count(account, reader)
                    outcome, code = _ENDS[progress]
                    account.settle(outcome, status=HTTPStatus.OK, error_code=code)
                    if response.complete:
                        return events
                if events:
                    await reply.write_events(events)
                if ended:
                    # Not held back for the end of the body, which has nothing to add.
                    await response.finish()
                    return ()
                came = await response.events()
                if not came and not reader.finished:
                    raise UpstreamFailed("The provider's stream ended before it was complete.", code="upstream_cut")
                events, progress = answer.take(came) if came else ([], Progress.END)
        except TurnpikeError as error:
            stopping = Unavailable("The gateway is stopping; try again.", code="stopping")
            return _broken_off(stopping if self._ending else error, exchange, account=account)
        finally:
            self._open.discard(answer)


def _settled(last: Sequence[bytes], answer: RoutedAnswer, *, account: Account) -> Sequence[bytes]:
    """Settle the account of an answer that is no stream, or none that has content, before its last piece leaves."""
    account.sent(sum(map(len, last)))
    error_code = "upstream_refused" if answer.refused else ""
    account.settle(Outcome.COMPLETED, status=answer.status, error_code=error_code)
    return last


_LAST: Final = (Progress.END, Progress.ERROR)
_ENDS: Final = {
    Progress.NONE: (Outcome.COMPLETED, ""),
    Progress.CONTENT: (Outcome.COMPLETED, ""),
    Progress.END: (Outcome.COMPLETED, ""),
    Progress.ERROR: (Outcome.UPSTREAM_CUT, "upstream_error"),
}


def _broken_off(error: TurnpikeError, exchange: Exchange, *, account: Account) -> Sequence[bytes]:
    """Settle the account of a stream that ``error`` ends too late for a status, and return its last event."""
    if _may_be_billed(account):
        _count(account, exchange.reader)
    last = exchange.dialect.error_event(error)
    account.sent(len(last))
    outcome, _, code = outcome_of(error)
    # A disk that refuses the event is no reason to keep the error from the caller: the intent is on record.
    with suppress(Unavailable):
        account.settle(outcome, status=HTTPStatus.OK, error_code=code)
    return [last]


def _may_be_billed(account: Account) -> bool:
    return any(attempt.may_be_billed for attempt in account.record.attempts)


def _count(account: Account, reader: Reader) -> None:
    if account.settled:
        return
    try:
        usage = reader.usage()
    except Exception:  # noqa: BLE001 - what cannot be counted must not decide how a request ends
        _log.exception("an answer could not be counted", request_id=account.record.request_id)
        return
    if usage.source is not UsageSource.NONE or usage.upstream_model:
        account.count(usage.quantities, source=usage.source, total=usage.total, upstream_model=usage.upstream_model)


def _describe(span: Span, account: Account) -> None:
    record = account.record
    span.set_attributes(
        {
            "gen_ai.provider.name": record.provider,
            "gen_ai.response.model": record.upstream_model,
            "gen_ai.usage.input_tokens": record.sum_of(*units_of(Kind.INPUT_TOKENS)),
            "gen_ai.usage.output_tokens": record.sum_of(*units_of(Kind.OUTPUT_TOKENS)),
            "gen_ai.usage.cache_read.input_tokens": record.sum_of(Unit.CACHE_READ),
            "gen_ai.usage.cache_creation.input_tokens": record.sum_of(Unit.CACHE_WRITE),
            "gen_ai.usage.reasoning.output_tokens": record.sum_of(Unit.REASONING),
        }
    )
