"""Has documents read: checks the request, asks the provider, passes the answer's bytes on, and accounts for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

from common.call import Call
from common.config import MAX_BODY_BYTES
from common.errors import PayloadTooLarge
from common.metering import Account, Measured, Meter
from common.passthrough import PassedAnswer, whole
from common.providers.provider import OcrProvider
from common.providers.router import Router, passed_on
from services.ocr.mistral_ocr import parse_answer, parse_request


class Ocr:
    """Has documents read through ``router`` and accounts for them with ``meter``."""

    def __init__(self, router: Router[OcrProvider], *, meter: Meter, default_model: str) -> None:
        self._router = router
        self._meter = meter
        self._default_model = default_model

    @asynccontextmanager
    async def answer(self, body: bytes | memoryview, *, call: Call) -> AsyncIterator[PassedAnswer]:
        """Yield the answer to Mistral's request ``body``; the request's account is settled when the context ends.

        Raises InvalidRequest, UpstreamFailed, UpstreamTimeout or Unavailable before the first piece.
        """
        with self._meter.open(call, type="ocr") as account:
            account.event.bytes_in = len(body)
            if len(body) > MAX_BODY_BYTES:
                raise PayloadTooLarge("The request body is larger than 32 MiB.")
            request = parse_request(body, default_model=self._default_model)
            measured = Measured(model=request.model, stream=False, bytes_in=len(body))
            account.describe(measured)
            async with self._router.ocr(request.body, call=call, account=account, measured=measured) as (
                provider,
                upstream,
            ):
                call.status = upstream.status
                async with aclosing(whole(upstream, provider, account, read=partial(_count, account))) as pieces:
                    yield PassedAnswer(
                        status=upstream.status,
                        content_type="application/json" if upstream.status >= 400 else upstream.content_type,
                        headers=passed_on(upstream.headers),
                        pieces=pieces,
                    )


def _count(account: Account, body: bytes) -> None:
    processed = parse_answer(body)
    if processed.pages is not None:
        account.pages(processed.pages, upstream_model=processed.model)
