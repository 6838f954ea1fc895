"""Has documents read: checks the request, asks the provider, passes the answer's bytes on, and accounts for it."""

from __future__ import annotations

from functools import partial

from common.dialects.mistral_ocr import parse_answer, parse_request
from common.errors import PayloadTooLarge
from common.metering.account import Account, Meter
from common.metering.record import UsageSource
from common.metering.units import Unit
from common.providers.provider import Answer, OcrProvider
from common.reply import Head, Reply, whole
from common.request import Call
from common.routing.router import Router, passed_on
from common.settings import MAX_BODY_BYTES


class Ocr:
    """Has documents read through ``router`` and accounts for them with ``meter``."""

    def __init__(self, router: Router[OcrProvider], *, meter: Meter, default_model: str) -> None:
        self._router = router
        self._meter = meter
        self._default_model = default_model

    async def answer(self, body: bytes | memoryview, *, call: Call, reply: Reply) -> bytes:
        """Answer Mistral's request ``body``: all pieces go to ``reply`` but the last, which is returned.

        The request's account is settled before. Raises InvalidRequest, UpstreamFailed, UpstreamTimeout or Unavailable
        before the first piece.
        """
        with self._meter.open(call, type="ocr") as account:
            account.received(len(body))
            if len(body) > MAX_BODY_BYTES:
                raise PayloadTooLarge("The request body is larger than 32 MiB.")
            request = parse_request(body, default_model=self._default_model)
            account.describe(model=request.model, stream=False)

            async def answered(provider: OcrProvider, upstream: Answer) -> bytes:
                call.status = upstream.status
                content_type = "application/json" if upstream.status >= 400 else upstream.content_type
                reply.begin(Head(upstream.status, content_type, passed_on(upstream.headers)))
                return await whole(upstream, provider, account, reply, read=partial(_count, account))

            return await self._router.ocr(request.body, call=call, account=account, answered=answered)


def _count(account: Account, body: bytes) -> None:
    processed = parse_answer(body)
    if processed.pages is not None:
        account.count({Unit.PAGES: processed.pages}, source=UsageSource.PROVIDER, upstream_model=processed.model)
